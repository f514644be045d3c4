"""Followers that know nothing of each other keep one registry alive together."""

import time
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from benchmarks.crowd import crowd
from benchmarks.flights import wide_flights
from benchmarks.model import FLOW, SEED, publish, trained
from ml_core.errors import RegistryDownError
from ml_core.flow.read import ModelAddress
from serving.follower import Follower
from serving.following import FollowerSettings

ADDRESS = f"models:/{FLOW}/Production"
# three times the interval that docs/capacity.md asks for: a test shares its cores with others
FOLLOWERS, INTERVAL_S = 100, 10.0


class Hand:
    """A clock that moves only when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def slow(registry: Any) -> tuple[Follower, Hand, list[float]]:
    """Return a follower with an interval of a second, its clock, and the seconds that its next looks take."""
    hand, takes = Hand(), [0.0]
    registry.add(1)
    registry.promote(1)
    resolve = registry.resolve

    def looking(*arguments: Any, **named: Any) -> Any:
        hand.now += takes[0]
        return resolve(*arguments, **named)

    registry.resolve = looking
    settings = FollowerSettings(poll_interval_s=1.0, registry_timeout_s=2.0)
    follower = Follower(
        ModelAddress.parse("models:/f/Production"), "x", registry=registry, monotonic=hand, settings=settings
    )
    return follower, hand, takes


def test_a_registry_that_is_slow_is_asked_less(slow: tuple[Follower, Hand, list[float]]) -> None:
    """It is slow because too many ask; were the pause fixed, none of them would be answered in time."""
    follower, _, takes = slow
    assert 0.8 <= follower.step() <= 1.0
    takes[0] = 1.5
    assert [follower.step() <= 1.0 for _ in range(2)] == [True, True]  # one that was slow says little
    assert 0.8 * 13.5 <= follower.step() <= 13.5
    takes[0] = 60.0
    assert max(follower.step() for _ in range(3)) <= 30.0
    takes[0] = 0.01
    assert 0.8 <= follower.step() <= 1.0


def test_a_registry_that_does_not_answer_in_time_is_asked_less_and_less(
    registry: Any, slow: tuple[Follower, Hand, list[float]]
) -> None:
    """One that is not there costs nothing to ask, and is asked every few seconds."""
    follower, _, takes = slow
    registry.down = RegistryDownError("refused")
    assert max(follower.step() for _ in range(10)) <= 5.0
    takes[0] = 2.0
    pauses = [follower.step() for _ in range(10)]
    assert max(pauses) > 5.0
    assert max(pauses) <= 30.0


def test_a_download_that_fails_counts_against_an_answer_before_it(
    registry: Any, slow: tuple[Follower, Hand, list[float]]
) -> None:
    """Else every follower starts over at once, as often as the registry has time for one small answer."""
    follower, hand, _ = slow

    def downloading(*_: Any) -> None:
        hand.now += 2.0
        raise RegistryDownError("timed out")

    registry.downloading = downloading
    assert max(follower.step() for _ in range(12)) > 5.0
    assert follower.current is None


@pytest.mark.slow
def test_a_hundred_followers_see_a_promotion_within_two_intervals(mlflow_server: str, tmp_path: Path) -> None:
    """`make bench-followers` has the figures of five hundred."""
    table = wide_flights(2_000)
    client = MlflowClient(mlflow_server, mlflow_server)
    versions = [publish(mlflow_server, trained(SEED, table), table, tmp_path / name) for name in ("one", "two")]

    def promote(version: int) -> None:
        client.transition_model_version_stage(FLOW, str(version), "Production", archive_existing_versions=True)
        client.set_registered_model_alias(FLOW, "champion", str(version))

    promote(versions[0])
    settings = FollowerSettings(poll_interval_s=INTERVAL_S, registry_timeout_s=20.0)
    with crowd(mlflow_server, ADDRESS, FOLLOWERS, settings) as followers:
        assert followers.wait_served(versions[0], 120)
        time.sleep(INTERVAL_S)  # they have spread
        promote(versions[1])
        promoted = time.monotonic()
        assert followers.wait_resolved(versions[1], 120)
        assert followers.wait_served(versions[1], 120)
        seen = followers.seen
    assert not seen.errors
    assert max(seen.resolved[versions[1]].values()) - promoted <= 2 * INTERVAL_S

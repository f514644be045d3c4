"""The resident learner as Dagster sees it: what it registered, how far behind it is, whether it is held back."""

import json
import os
import time
from dataclasses import replace
from typing import Any

import dagster as dg
import pytest

from ml_core.flow.registry import Registry
from ml_core.training import train_increment
from tests.orchestration.conftest import World
from tests.orchestration.test_checks import edited

STREAM = """
[flows.orders.stream.facts.ordered]
order_id = "string"
shop = "string"
asked_at = "instant"
[flows.orders.stream.facts.arrived]
order_id = "string"
shop = "string"
late = "boolean"
"""
TOLD: dict[str, Any] = {
    "watermark": 360, "learned": 120, "publications": 7, "published_bytes": 9_000, "loss": 0.41, "breaker": None,
}  # fmt: skip


@pytest.fixture
def streamed(world: World) -> World:
    """Return a world whose facts come over Kafka, with a first version and 360 examples."""
    edited(world, "non_inferiority_margin = 1.0", STREAM)
    world.drop(range(4), absorb=True)
    assert world.run("full_training").success
    world.drop(range(4, 6), absorb=True)
    return world


def tell(world: World, *, age_s: float = 0.0, **changed: Any) -> None:
    """Let the learner have written down how it stands."""
    file = world.store.directory / "learner" / "status.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(TOLD | changed), encoding="utf-8")
    os.utime(file, (time.time() - age_s,) * 2)


def evaluated(world: World) -> dict[str, Any]:
    """Return what the sensor says, by check, or by asset."""
    events = world.tick("learner").asset_events
    return {getattr(event, "check_name", None) or event.asset_key.path[-1]: event for event in events}


def test_before_a_learner_ran_it_says_so(streamed: World) -> None:
    assert "no resident learner has published anything yet" in streamed.tick("learner").skip_message


@pytest.mark.parametrize(
    ("told", "age_s", "lag", "fresh"),
    [
        ({}, 0, True, True),
        ({}, 3_600, True, True),  # nothing to learn, so nothing to publish
        ({"watermark": 330}, 3_600, True, False),
        ({"watermark": 330}, 5, True, True),
        ({"watermark": 200}, 5, False, True),
        ({"breaker": "the loss of the last 1,000 is 3 times the usual"}, 0, True, False),
    ],
)
def test_lag_and_freshness_are_checks_of_what_is_served(
    streamed: World, told: dict[str, Any], age_s: float, lag: bool, fresh: bool
) -> None:
    tell(streamed, age_s=age_s, **told)
    found = evaluated(streamed)
    assert (found["learner_lag"].passed, found["learner_fresh"].passed) == (lag, fresh)
    assert found["learner_lag"].metadata["waiting"].value == 360 - {**TOLD, **told}["watermark"]
    if "breaker" in told:
        assert "3 times the usual" in found["learner_fresh"].description


def test_every_version_the_learner_registered_is_materialised_once(
    streamed: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those registered between two looks, and those the gate refused."""
    tell(streamed)
    assert "incremental_model" not in evaluated(streamed), "the flow's versions are trainings of Dagster's own"
    assert train_increment(streamed.flow, streamed.store, streamed.platform.registry()) is not None
    versions = Registry.versions
    monkeypatch.setattr(
        Registry,
        "versions",
        lambda self, flow, **more: [replace(each, kind="stream") for each in versions(self, flow, **more)],
    )
    events = [event for event in streamed.tick("learner").asset_events if isinstance(event, dg.AssetMaterialization)]
    assert [event.metadata["version"].value for event in events] == [1, 2]
    assert "resident learner" in events[0].description
    for event in events:
        streamed.instance.report_runless_asset_event(event)
    assert "incremental_model" not in evaluated(streamed)


def test_trainings_do_not_evaluate_the_learner(streamed: World) -> None:
    """It is no fault of a training that a learner is behind."""
    keys = {each.name for each in streamed.definitions.resolve_asset_graph().asset_check_keys}
    assert {"learner_lag", "learner_fresh"} <= keys
    record = streamed.instance.get_latest_asset_check_evaluation_record(
        dg.AssetCheckKey(dg.AssetKey(["orders", "served_model"]), "learner_lag")
    )
    assert record is None


def test_without_a_broker_there_is_nothing_to_see(world: World) -> None:
    repository = world.definitions.get_repository_def()
    assert "orders_learner" not in {sensor.name for sensor in repository.sensor_defs}

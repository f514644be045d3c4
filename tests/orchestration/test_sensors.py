"""The sensors' grid: first tick, nothing new, partial, everything, cursor lost, run failed, run already queued.

A sensor that asks twice trains twice; one that forgets a failed run leaves a hole nobody sees.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pytest

from ml_core.flow.registry import Registry
from ml_core.flow.version import ModelVersion
from orchestration.attempts import REFUSED, TARGET, attempt
from orchestration.resources import Platform
from tests.orchestration.conftest import START, World

SENSORS = {"new_days": "ingest", "new_labels": "incremental_training", "retrain": "full_training"}
STATES = dg.DagsterRunStatus


def ready(world: World, sensor: str, monkeypatch: pytest.MonkeyPatch, *, rows: int = 60) -> None:
    """Bring the world to where the sensor has something to ask for."""
    world.drop(range(3), rows=rows, absorb=sensor != "new_days")
    if sensor == "new_labels":
        monkeypatch.setattr(Registry, "head", lambda _, flow: head(world, flow))


def head(world: World, flow: str, watermark: int = 20) -> ModelVersion:
    return ModelVersion(
        flow=flow, version=3, stage="Production", kind="full", parent=None, watermark=watermark, trained_through=START,
        feature_fingerprint=world.store.fingerprint(), manifest_sha256="", dagster_run_id="", mlflow_run_id="",
        source="", metrics={}, verdict=None, pipeline_fingerprint=world.flow.pipeline.fingerprint,
    )  # fmt: skip


def skipped(tick: Any) -> str:
    assert not tick.run_requests, tick.run_requests
    return str(tick.skip_message)


@pytest.mark.parametrize(
    ("sensor", "reason"),
    [
        ("new_days", "orders: no segment was dropped into the event log yet"),
        ("new_labels", "orders has no version yet: its first one is a full training"),
        ("retrain", "orders has no version yet: 0 labelled rows, 100 wanted"),
    ],
)
def test_first_tick_of_an_empty_home(world: World, sensor: str, reason: str) -> None:
    assert skipped(world.tick(sensor)) == reason


@pytest.mark.parametrize(
    ("sensor", "reason"),
    [
        ("new_days", "orders: every day up to 2024-05-03 is materialised"),
        ("new_labels", "nothing labelled past version 3"),
        ("retrain", "version 3 has today's features and pipeline"),
    ],
)
def test_nothing_new(world: World, monkeypatch: pytest.MonkeyPatch, sensor: str, reason: str) -> None:
    world.drop(range(3), absorb=True)
    done = world.store.progress().next_example
    monkeypatch.setattr(Registry, "head", lambda _, flow: head(world, flow, watermark=done))
    if sensor == "new_days":
        world.answer(world.tick(sensor), "ingest")
    assert skipped(world.tick(sensor)).startswith(reason)


@pytest.mark.parametrize(
    ("sensor", "rows", "reason"),
    [
        ("new_labels", 30, "70 new labelled rows past version 3, waiting for 100"),
        ("retrain", 30, "orders has no version yet: 90 labelled rows, 100 wanted"),
    ],
)
def test_partial(world: World, monkeypatch: pytest.MonkeyPatch, sensor: str, rows: int, reason: str) -> None:
    ready(world, sensor, monkeypatch, rows=rows)
    assert skipped(world.tick(sensor)) == reason


def test_partial_days_and_holes_are_asked_for_as_unbroken_ranges(world: World) -> None:
    """Days 2 and 3 were run by hand; the last day is not over."""
    world.drop(range(6))
    done = {"dagster/asset_partition_range_start": "2024-05-03", "dagster/asset_partition_range_end": "2024-05-04"}
    assert world.run("ingest", done).success
    assert [request.tags[TARGET] for request in world.tick("new_days").run_requests] == [
        "2024-05-01:2024-05-02",
        "2024-05-05:2024-05-06",
    ]


@pytest.mark.parametrize(
    ("sensor", "target"), [("new_days", "2024-05-01:2024-05-03"), ("new_labels", "3:0:180"), ("retrain", "first")]
)
def test_everything(world: World, monkeypatch: pytest.MonkeyPatch, sensor: str, target: str) -> None:
    ready(world, sensor, monkeypatch)
    (request,) = world.tick(sensor).run_requests
    assert request.tags[TARGET] == target
    assert request.tags["modelflow/why"]


@pytest.mark.parametrize("sensor", SENSORS)
def test_cursor_lost(world: World, monkeypatch: pytest.MonkeyPatch, sensor: str) -> None:
    """No sensor keeps one: what was done is read off the runs, so there is nothing to lose."""
    ready(world, sensor, monkeypatch)
    tick = world.tick(sensor, cursor="2031-01-01")
    assert len(tick.run_requests) == 1
    assert tick.cursor == "2031-01-01", "it was left alone"


@pytest.mark.parametrize("sensor", SENSORS)
def test_run_failed(world: World, monkeypatch: pytest.MonkeyPatch, sensor: str) -> None:
    """It is asked for again by itself, after a pause that grows; never at once, never never."""
    ready(world, sensor, monkeypatch)
    (request,) = world.tick(sensor).run_requests
    world.pretend(SENSORS[sensor], STATES.FAILURE, dict(request.tags))
    assert "failed, the first time; the next attempt is due at" in skipped(world.tick(sensor))
    world.pretend(SENSORS[sensor], STATES.FAILURE, dict(request.tags))
    now = datetime.now(UTC)
    monkeypatch.setattr(Platform, "now", lambda _: now + timedelta(seconds=90))
    assert "the second time" in skipped(world.tick(sensor))
    monkeypatch.setattr(Platform, "now", lambda _: now + timedelta(minutes=3))
    (again,) = world.tick(sensor).run_requests
    assert again.tags == request.tags
    assert again.run_key is None or again.run_key != request.run_key, "the daemon would drop a key it has seen"


@pytest.mark.parametrize("sensor", SENSORS)
@pytest.mark.parametrize("status", [STATES.NOT_STARTED, STATES.STARTED])
def test_run_already_queued(
    world: World, monkeypatch: pytest.MonkeyPatch, sensor: str, status: dg.DagsterRunStatus
) -> None:
    ready(world, sensor, monkeypatch)
    run_id = world.pretend(SENSORS[sensor], status, {})
    message = skipped(world.tick(sensor))
    said = {STATES.NOT_STARTED: "waiting to start", STATES.STARTED: "running"}[status]
    assert f"run {run_id[:8]} of orders_{SENSORS[sensor]} has been {said} for 0 min; one run at a time" in message


def test_rows_that_were_refused_are_not_trained_again_before_there_are_more(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gate failed the run, and would refuse the same rows again: that is no failure to try again after."""
    ready(world, "new_labels", monkeypatch)
    (request,) = world.tick("new_labels").run_requests
    run_id = world.pretend("incremental_training", STATES.FAILURE, dict(request.tags) | {REFUSED: "2"})
    assert f"but run {run_id[:8]} did that already" in skipped(world.tick("new_labels"))
    world.drop(range(3, 4), absorb=True)
    assert world.tick("new_labels").run_requests[0].tags[TARGET] == "3:0:240"


def test_days_that_were_wiped_are_asked_for_again(world: World) -> None:
    """Somebody wipes an asset to have it made again."""
    world.drop(range(2))
    world.answer(world.tick("new_days"), "ingest")
    world.instance.wipe_assets([dg.AssetKey(["orders", "features"])])
    (request,) = world.tick("new_days").run_requests
    assert (request.tags[TARGET], request.run_key) == ("2024-05-01:2024-05-02", None)


@pytest.mark.parametrize(
    ("changed", "reason"), [("features", "features.sql changed since"), ("pipeline", "the pipeline changed since")]
)
def test_a_changed_definition_is_trained_in_full_and_holds_increments_back(
    world: World, monkeypatch: pytest.MonkeyPatch, changed: str, reason: str
) -> None:
    """An increment would fail for ever, one tick after the other."""
    ready(world, "new_labels", monkeypatch)
    if changed == "features":
        before = head(world, "orders")
        monkeypatch.setattr(Registry, "head", lambda *_: before)
        file = world.project.root / "features.sql"
        file.write_text(
            file.read_text(encoding="utf-8").replace("interval 1 day", "interval 2 hours"), encoding="utf-8"
        )
    else:
        old = "0" * 64
        newest = head(world, "orders")
        monkeypatch.setattr(
            Registry, "head", lambda *_: ModelVersion(**(_fields(newest) | {"pipeline_fingerprint": old}))
        )
    assert f"{reason} version 3: a full training comes first" in skipped(world.tick("new_labels"))
    (request,) = world.tick("retrain").run_requests
    assert request.tags[TARGET].startswith(f"{changed}:")


def _fields(version: ModelVersion) -> dict[str, Any]:
    return {name: getattr(version, name) for name in version.__dataclass_fields__}


def test_the_pauses_between_attempts_end_at_an_hour(world: World) -> None:
    """A registry that is down for a weekend is noticed within an hour of its return."""
    keys = set()
    for number in range(23):
        world.pretend("full_training", STATES.FAILURE, {TARGET: "first"})
        later = datetime.now(UTC) + timedelta(minutes=62)
        keys.add(attempt(world.instance, "orders_full_training", "first", now=later).run_key)
        assert len(keys) == number + 1, "the daemon starts no run under a key it has seen"
    job, now = "orders_full_training", datetime.now(UTC)
    assert attempt(world.instance, job, "first", now=now + timedelta(minutes=58)).why_not
    assert not attempt(world.instance, job, "first", now=now + timedelta(minutes=62)).why_not


def test_what_a_sensor_says_names_flow_and_day(make_world: Callable[..., World]) -> None:
    """Fifty flows tick on one page."""
    world = make_world("elsewhere")
    world.drop(range(1))
    (request,) = world.tick("new_days").run_requests
    assert request.tags["modelflow/why"] == "orders: facts are complete through 2024-05-01"


def test_a_failing_blocking_check_holds_the_next_increment_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands between the feature table and training stands there whoever asks for the training."""
    ready(world, "new_labels", monkeypatch)
    for passed in (True, False):
        evaluation = dg.AssetCheckEvaluation(
            dg.AssetKey(["orders", "features"]), "features_schema", passed=passed, metadata={}
        )
        world.instance.report_runless_asset_event(evaluation)
        tick = world.tick("new_labels")
        assert bool(tick.run_requests) is passed
    assert "but the check features_schema of orders/features fails: see to the data" in skipped(tick)

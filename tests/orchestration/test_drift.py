"""Drift in Dagster: found once a day, shown on the assets, answered by one full training per cool-down."""

from datetime import timedelta

import dagster as dg
import pytest

from ml_core.data.store import FeatureStore
from orchestration.drift import ALARM
from tests.orchestration.conftest import START, World, day_of_orders

DONE, STARTED = dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.STARTED


def drop_other_shops(store: FeatureStore, days: range) -> None:
    """Let days pass on which only a shop asks that nobody had heard of."""
    for day in days:
        for kind, facts in day_of_orders(day, 60).items():
            moved = facts.set_column(facts.schema.get_field_index("shop"), "shop", [["east"] * facts.num_rows])
            store.log.append(kind, moved, through=START + timedelta(days=day + 1))
    store.absorb()


def test_drift_is_found_shown_and_answered_once_per_cool_down(world: World) -> None:
    """The served model stays: what drift starts is a training that the gate judges."""
    assert "no version yet" in world.tick("drift").skip_message
    world.drop(range(10), absorb=True)
    assert world.run("full_training").success
    world.answer(world.tick("drift"), "drift")
    assert "did that already" in world.tick("drift").skip_message
    assert "no drift was found" in world.tick("retrain").skip_message

    drop_other_shops(world.store, range(10, 17))
    (request,) = world.tick("drift").run_requests
    result = world.run("drift", dict(request.tags))
    assert result.success, "drift is a warning, and stops nothing"
    found = {each.check_name: each for each in result.get_asset_check_evaluations()}
    assert set(found) == {"drift_features", "drift_scores", "drift_loss"}
    assert not found["drift_features"].passed
    assert "`shop`" in found["drift_features"].metadata["furthest"].value
    assert "data:image/svg+xml" in found["drift_loss"].metadata["plots"].value

    served = world.platform.registry().head("orders")
    (request,) = world.tick("retrain").run_requests
    assert request.tags["modelflow/target"] == "drift:2024-05-18T00:00:00+00:00"
    assert world.platform.registry().head("orders") == served
    world.pretend("full_training", STARTED, dict(request.tags))
    assert "but drift started a training for 2024-05-18" in world.tick("retrain").skip_message


@pytest.mark.slow
def test_a_training_that_drift_started_is_followed_by_a_pause(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.drop(range(10), absorb=True)
    assert world.run("full_training").success
    drop_other_shops(world.store, range(10, 17))
    world.answer(world.tick("drift"), "drift")
    (request,) = world.tick("retrain").run_requests
    assert request.tags[ALARM] == "2024-05-18T00:00:00+00:00"
    world.pretend("full_training", DONE, dict(request.tags))
    drop_other_shops(world.store, range(17, 20))
    world.answer(world.tick("drift"), "drift")
    assert "but drift started a training for 2024-05-18" in world.tick("retrain").skip_message
    drop_other_shops(world.store, range(20, 25))
    world.answer(world.tick("drift"), "drift")
    assert len(world.tick("retrain").run_requests) == 1
    quiet = world.flow.model_copy(update={"drift": world.flow.drift.model_copy(update={"retrain": False})})
    monkeypatch.setattr(World, "flow", property(lambda _: quiet))
    world.project.flows["orders"] = quiet  # type: ignore[index]  # read-only to others
    assert "drift starts no training" in world.tick("retrain").skip_message

"""The checks that block: what the one before training and the gate report, and what they stop."""

import dataclasses
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import numpy as np
import pyarrow as pa
import pytest

from ml_core.data import FeatureStore
from ml_core.project import load_project
from orchestration.attempts import REFUSED, TARGET
from orchestration.definitions import build_definitions
from orchestration.resources import Platform
from tests.orchestration.conftest import World


def evaluated(world: World) -> Any:
    tags = {f"dagster/asset_partition_range_{bound}": "2024-05-01" for bound in ("start", "end")}
    result = world.run("ingest", tags, raise_on_error=False)
    (found,) = (each for each in result.get_asset_check_evaluations() if each.check_name == "examples_can_be_learned")
    assert result.success is found.passed
    return found


def infinite(rows: pa.Table) -> pa.Table:
    place = rows.schema.get_field_index("recent")
    return rows.set_column(place, "recent", pa.array(np.full(rows.num_rows, np.inf), pa.float32()))


def test_sound_examples_pass_and_their_label_delay_is_shown(world: World) -> None:
    world.drop(range(2))
    found = evaluated(world)
    assert found.passed
    assert found.metadata["label_delay_hours_median"].value == pytest.approx(2.0)
    assert found.metadata["repeated_keys"].value == 0


@pytest.mark.parametrize("spoil", [infinite, lambda rows: pa.concat_tables([rows, rows.slice(rows.num_rows - 1)])])
def test_infinite_features_and_repeated_keys_stop_the_run(
    world: World, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[pa.Table], pa.Table]
) -> None:
    """A model that learned them would be served until somebody looked."""
    world.drop(range(2))
    sound = FeatureStore.examples
    monkeypatch.setattr(FeatureStore, "examples", lambda self, first, stop: spoil(sound(self, first, stop)))
    assert not evaluated(world).passed


def test_the_gate_blocks_what_comes_after_a_refused_version(world: World) -> None:
    """The run fails and says so in its tags; the champion keeps serving, and what the flow feeds does not start."""
    world.drop(range(4), absorb=True)
    assert world.run("full_training").success
    world.drop(range(4, 8), absorb=True)
    started = []

    @dg.asset(deps=[dg.AssetKey(["orders", "served_model"])])
    def scores_for_everybody() -> None:
        started.append(1)

    project = world.project
    strict = project.flow("orders").gate.model_copy(update={"max_latency_ms": 1e-9})
    flow = project.flow("orders").model_copy(update={"gate": strict})
    project = dataclasses.replace(project, flows={"orders": flow})
    with_more = dg.Definitions.merge(build_definitions(project), dg.Definitions(assets=[scores_for_everybody]))
    keys = [dg.AssetKey(["orders", "incremental_model"]), dg.AssetKey(["orders", "served_model"])]
    job = dg.define_asset_job("increment", dg.AssetSelection.assets(*keys, scores_for_everybody))
    definitions = dg.Definitions.merge(with_more, dg.Definitions(jobs=[job]))
    result = definitions.resolve_job_def("increment").execute_in_process(instance=world.instance, raise_on_error=False)
    assert not result.success
    (found,) = result.get_asset_check_evaluations()
    assert not found.passed
    assert "a row takes" in str(found.metadata["verdict"].value)
    assert started == []
    assert world.instance.get_run_by_id(result.run_id).tags[REFUSED] == "2"
    registry = world.platform.registry()
    assert registry.head("orders").version == 1
    assert registry.version("orders", 2).stage == "Archived"


def edited(world: World, gate: str, more: str = "") -> None:
    """Set keys of the flow's gate in the project file, and add tables after it."""
    file = world.project.root / "dagster_project.toml"
    text = file.read_text(encoding="utf-8").replace("[flows.orders.gate]", f"[flows.orders.gate]\n{gate}")
    file.write_text(f"{text}\n{more}", encoding="utf-8")
    world.project = load_project(world.project.root, environment={"MODELFLOW_HOME": str(world.project.home)})


def test_the_live_loss_is_checked_as_labels_come_in_and_no_check_is_made_twice(world: World) -> None:
    edited(world, "non_inferiority_margin = 1.0")
    world.drop(range(4), absorb=True)
    assert world.run("full_training").success
    assert "no champion that the gate promoted in place of another" in world.tick("live_loss").skip_message
    world.drop(range(4, 6), absorb=True)
    assert world.run("incremental_training").success
    assert "0 rows labelled past version 2, 100 wanted" in world.tick("live_loss").skip_message
    world.drop(range(6, 10), absorb=True)
    (request,) = world.tick("live_loss").run_requests
    assert request.tags[TARGET] == "2:2:2"
    assert world.run("live_check", dict(request.tags)).success
    assert "did that already" in world.tick("live_loss").skip_message
    assert world.platform.registry().head("orders").version == 2


def test_old_versions_go_by_the_clock(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands somewhere stays, whatever the clock says."""
    edited(world, "non_inferiority_margin = 1.0\nmax_rows = 100", "[flows.orders.retention]\nkeep_last = 1\n")
    for day in range(0, 8, 2):
        world.drop(range(day, day + 2), absorb=True)
        assert world.run("full_training" if day == 0 else "incremental_training").success
    later = datetime.now(UTC) + timedelta(days=60)
    monkeypatch.setattr(Platform, "now", lambda _: later)
    assert world.run("retention").success
    registry = world.platform.registry()
    assert [version.version for version in registry.versions("orders")] == [3, 4]
    last = registry.ledger.last("orders")
    assert (last.kind, last.who.split()[:2]) == ("delete", ["Dagster", "run"])

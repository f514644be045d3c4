"""Fifty flows in one project: everything of each is there."""

from pathlib import Path

from ml_core.project import load_project
from orchestration.definitions import build_definitions
from tests.orchestration.conftest import FEATURES, PROJECT

FLOWS = 50


def test_fifty_flows_stand_side_by_side_in_one_code_location(tmp_path: Path) -> None:
    """A name that two flows shared would take both of them out of Dagster."""
    tables = [PROJECT.replace("flows.orders", f"flows.orders_{number}") for number in range(FLOWS)]
    (tmp_path / "dagster_project.toml").write_text("\n".join(tables), encoding="utf-8")
    (tmp_path / "features.sql").write_text(FEATURES, encoding="utf-8")
    broken: dict[str, str] = {}
    repository = build_definitions(load_project(tmp_path, environment={}, broken=broken), broken=broken)
    found = repository.get_repository_def()
    assert not broken
    assert {schedule.name for schedule in found.schedule_defs} == _of_each_flow("nightly", "retention")
    assert {sensor.name for sensor in found.sensor_defs} == _of_each_flow(
        "drift", "live_loss", "new_days", "new_labels", "people", "retrain"
    )
    assert len(list(found.asset_graph.get_all_asset_keys())) == 5 * FLOWS


def _of_each_flow(*parts: str) -> set[str]:
    return {f"orders_{number}_{part}" for number in range(FLOWS) for part in parts}

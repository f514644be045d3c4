"""Several flows in one project: what is wrong with one of them is that flow's alone."""

import shutil
from pathlib import Path

import dagster as dg
import pytest

from ml_core.errors import ProjectError
from ml_core.project import load_project
from orchestration.definitions import build_definitions
from tests.orchestration.conftest import FEATURES, PROJECT

ROOT = Path(__file__).parents[2]


def write(folder: Path, second: str) -> None:
    (folder / "dagster_project.toml").write_text(PROJECT + second, encoding="utf-8")
    (folder / "features.sql").write_text(FEATURES, encoding="utf-8")


def names(folder: Path) -> tuple[set[str], dict[str, str]]:
    """Return the asset keys that Dagster sees, and the descriptions of those that say a flow is broken."""
    broken: dict[str, str] = {}
    project = load_project(folder, environment={}, broken=broken)
    graph = build_definitions(project, broken=broken).get_repository_def().asset_graph
    keys = {key.to_user_string() for key in graph.get_all_asset_keys()}
    return keys, {key: graph.get(dg.AssetKey(key.split("/"))).description or "" for key in keys if "/broken" in key}


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('label = "late"', 'lable = "late"', "unknown key flows.second.data.lable: did you mean 'label'? (line "),
        ("alpha = 0.5 }", 'alpha = 0.5 }\n\n[flows.second.full_training]\ncron = "every night"', "second"),
    ],
)
def test_a_flow_that_cannot_be_used_says_why_and_leaves_the_others_alone(
    tmp_path: Path, old: str, new: str, reason: str
) -> None:
    """Somebody's typing error at noon must not stop another team's nightly training."""
    second = PROJECT.replace("flows.orders", "flows.second")
    assert old in second
    write(tmp_path, second.replace(old, new))
    keys, broken = names(tmp_path)
    assert {"orders/events", "orders/served_model", "second/broken"} <= keys
    assert "second/events" not in keys
    assert reason in broken["second/broken"]


def test_a_mistake_outside_the_flows_is_everybodys(tmp_path: Path) -> None:
    """There is no telling what the file means then."""
    write(tmp_path, "\n[platfrom]\n")
    with pytest.raises(ProjectError, match="platfrom"):
        load_project(tmp_path, environment={}, broken={})


def test_a_flow_without_features_fails_its_own_runs_only(tmp_path: Path) -> None:
    """A definition that is read at run time must not be needed to load the others."""
    write(tmp_path, PROJECT.replace("flows.orders", "flows.second").replace("features.sql", "missing.sql"))
    shutil.copy(ROOT / "workspace.yaml", tmp_path)
    keys, broken = names(tmp_path)
    assert {"orders/events", "second/events"} <= keys
    assert broken == {}

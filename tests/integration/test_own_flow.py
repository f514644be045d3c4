"""Somebody else's table becomes a served model: new, check, Dagster, promotion, prediction, and not one edit by hand.

The table is drawn anew at every run. What Dagster does is asked for by the flow's own sensors, one after the other.
"""

import json
import secrets
from pathlib import Path

import dagster as dg
import pytest

from ml_core.flow.registry import Registry
from ml_core.project import load_project
from ml_core.training.trying import try_flow
from orchestration.definitions import build_definitions
from orchestration.demo.runs import Runs
from orchestration.resources import platform_of
from serving import LocalPredictor
from tests.data.test_new import new
from tests.data.unseen import ZONE, Unseen, unseen

ROOT = Path(__file__).parents[2]


def requests_of(table: Unseen, sample: dict[str, object]) -> list[tuple[dict[str, object], bool]]:
    """Return rows as a caller would send them, with what came of them: the sample's clock features stay."""
    columns, made = table.columns, []
    for row in table.rows[-300:]:
        if row["group"] and row["strength"].replace(",", "").replace("-", "").isdigit():
            strength, noise = (float(row[what].replace(",", ".")) for what in ("strength", "noise"))
            values = {"group": row["group"], "name": row["name"], "strength": strength, "noise": noise}
            request = sample | {columns[what]: value for what, value in values.items()}
            made.append((request, row["label"] == table.texts[1]))
    return made


def test_a_table_nobody_has_seen_becomes_a_served_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the first ten minutes of every new user."""
    seed = secrets.randbelow(2**32)
    print(f"seed {seed}")  # noqa: T201 - shown when the test fails
    monkeypatch.chdir(tmp_path)
    table = unseen(tmp_path, seed, rows=4_000)
    rooms = ("ml_core", "serving", "orchestration", "flows", "tests")
    code = "\n".join(file.read_text(encoding="utf-8") for room in rooms for file in ROOT.glob(f"{room}/**/*.py"))
    assert not [name for name in table.columns.values() if name in code]

    new(
        "own", "--from", table.path.name, "--label", table.columns["label"], "--event-time", table.columns["time"],
        "--time-zone", ZONE, "--yes",
    )  # fmt: skip
    project = load_project(tmp_path, environment={})
    assert [step.name for step in try_flow(project, project.flow("own"), rows=800)][-1] == "sample request"

    with dg.DagsterInstance.ephemeral() as instance:
        runs = Runs(build_definitions(project), platform_of(project), instance)
        for sensor in ("source_changed", "new_days", "retrain"):
            assert list(runs.tick(f"own_{sensor}")), f"{sensor} asked for nothing"
        assert not list(runs.tick("own_source_changed")), "the source has not changed"
        assert not list(runs.tick("own_new_days")), "all its days are materialised"
        assert not list(runs.tick("own_retrain")), "there is a version now"

    head = Registry(project.tracking_uri).head("own")
    assert head is not None
    assert head.verdict is not None
    assert head.verdict.accepted
    sample = json.loads((tmp_path / "flows/own/sample_request.json").read_text(encoding="utf-8"))
    with LocalPredictor("models:/own/Production", tracking_uri=project.tracking_uri, cache=tmp_path / "c") as predictor:
        answered = [
            (predictor.predict(request), late) for request, late in requests_of(table, sample["dataframe_records"][0])
        ]
    assert {prediction.version for prediction, _ in answered} == {head.version}
    likely = [late for prediction, late in answered if prediction.score > 0.5]
    unlikely = [late for prediction, late in answered if prediction.score <= 0.5]
    assert sum(likely) / len(likely) > sum(unlikely) / len(unlikely) + 0.2, "it learned what decides the label"

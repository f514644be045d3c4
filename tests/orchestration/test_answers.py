"""What sidecars answered, joined with labels that came later: figures per version, parity, and a word to the gate."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import dagster as dg
import numpy as np
import pyarrow.parquet as pq
import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from ml_core.flow.read import ModelAddress
from ml_core.flow.verdict import Verdict
from ml_core.project import GateSettings
from ml_core.training import settle, train_increment
from ml_core.training.answers import Answers, heard
from ml_core.training.cli import answers
from ml_core.training.tasks import figures
from serving.challenger import Challenger
from serving.follower import Follower
from serving.http import Sidecar
from serving.log import LogSettings, PredictionLog
from tests.orchestration.conftest import START, World
from tests.orchestration.test_checks import edited
from tests.serving.asking import ask_application

ACCEPTED = Verdict(accepted=True, policy="non-inferiority", rows=500, reasons=(), figures={"loss": 0.5})


def follower(world: World, address: ModelAddress) -> Follower:
    made = Follower(address, world.project.tracking_uri)
    made.load_first()
    return made


@pytest.fixture
def answered(world: World) -> World:
    """Return a world whose version 1 answered 60 requests, version 2 in its shadow, and 5 of nobody knows what."""
    edited(
        world, "non_inferiority_margin = 1.0\nmax_live_regression = 0.5",
        '[flows.orders.serving]\nprediction_log = "predictions"\n',
    )  # fmt: skip
    world.drop(range(4), absorb=True)
    assert world.run("full_training").success
    world.drop(range(4, 6), absorb=True)
    assert train_increment(world.flow, world.store, world.platform.registry()) is not None
    served = follower(world, ModelAddress("orders", stage="Production"))
    challenger = Challenger(follower(world, ModelAddress("orders", version=2)), shadow_share=1.0)
    log = PredictionLog(LogSettings(world.project.home / "predictions"), challenger=challenger)
    application = Sidecar(served, log=log, challenger=challenger)
    day = START + timedelta(days=5)
    for row in world.store.feature_rows(day, day + timedelta(days=1)).drop_columns(["request_time"]).to_pylist():
        assert ask_application(application, "/invocations", {"dataframe_records": [row]})[0] == 200
    strangers = [{"key": f"unknown-{number}", "shop": "north", "recent": 0.5} for number in range(5)]
    assert ask_application(application, "/invocations", {"dataframe_records": strangers})[0] == 200
    application.close()
    for each in (served, challenger.follower):
        each.stop()
    return world


def cli(*words: str) -> Result:
    app = typer.Typer()
    app.command("answers")(answers)
    return CliRunner().invoke(app, list(words))


def live_answers(world: World) -> tuple[Any, Any]:
    """Run the job the sensor asks for; return the asset's materialisation and its check."""
    (request,) = world.tick("answers").run_requests
    result = world.run("answers", dict(request.tags))
    assert result.success
    (made,) = result.asset_materializations_for_node("orders__live_answers")
    (check,) = result.get_asset_check_evaluations()
    return made, check


def test_answers_are_joined_with_their_labels_and_scored_again(answered: World) -> None:
    made, check = live_answers(answered)
    assert check.passed
    assert check.metadata["rows"].value == 130
    assert made.metadata["labelled"].value == 60
    assert made.metadata["rows"].value == 65
    assert "| 2 | shadow | 65 | 60 |" in made.metadata["versions"].value
    assert "did that already" in answered.tick("answers").skip_message
    examples = answered.store.examples(5 * 60, 6 * 60)
    said = {
        row["key"]: row["score"]
        for file in Answers(answered.flow, answered.store).files()
        for row in pq.read_table(file).to_pylist()
        if row["role"] == "served"
    }
    scores = np.array([said[key] for key in examples["key"].to_pylist()])
    labels = examples["label"].to_numpy().astype(float)
    expected = figures("binary", labels, scores)
    assert made.metadata["live_log_loss"].value == pytest.approx(expected["log_loss"], abs=1e-9)
    assert made.metadata["live_auc"].value == pytest.approx(expected["auc"], abs=1e-9)


def test_answers_of_something_else_than_what_was_published_fail_the_check(answered: World) -> None:
    (file, *_) = Answers(answered.flow, answered.store).files()
    table = pq.read_table(file)
    scores = table["score"].to_numpy() * 0.9
    pq.write_table(table.set_column(table.schema.get_field_index("score"), "score", [scores]), file)
    _, check = live_answers(answered)
    assert not check.passed
    assert check.severity is dg.AssetCheckSeverity.ERROR
    assert 0 < check.metadata["mismatch_rate"].value <= 0.5
    assert "rows up to" in check.metadata["reasons"].value[0]


def test_the_gate_hears_what_the_shadow_said(answered: World) -> None:
    registry = answered.platform.registry()
    version, verdict = settle(answered.flow, answered.store, registry, registry.version("orders", 2))
    assert (version.version, verdict.accepted) == (2, True)
    assert verdict.figures["live_rows"] == 60
    stored = registry.version("orders", 2).verdict
    assert stored is not None
    assert stored.figures["live_rows"] == 60


@pytest.mark.parametrize(("worse", "rows", "accepted"), [(0.0, 400, True), (0.2, 400, False), (0.2, 90, True)])
def test_a_shadow_that_did_worse_is_refused_once_there_are_enough_rows(worse: float, rows: int, accepted: bool) -> None:
    draw = np.random.default_rng(0)
    theirs = draw.uniform(0.2, 0.8, rows)
    labels = (draw.random(rows) < theirs).astype(float)
    ours = np.clip(theirs + worse * np.where(labels > 0, -1, 1), 0.01, 0.99)
    settings = GateSettings(min_rows=100, max_live_regression=0.02)
    verdict = heard(settings, ACCEPTED, (labels, ours, theirs), "binary")
    assert verdict.accepted == accepted
    assert verdict.figures["live_rows"] == rows
    assert ("live_difference_lower" in verdict.figures) == (rows >= 100)
    for reasons in (("it was refused before",), ()):
        refused = replace(ACCEPTED, accepted=False, reasons=reasons)
        assert not heard(settings, refused, (labels, ours, theirs), "binary").accepted


def test_the_command_tells_the_same(answered: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(answered.project.root)
    monkeypatch.setenv("MODELFLOW_HOME", str(answered.project.home))
    told = cli("orders", "--json")
    assert told.exit_code == 0, told.output
    assert '"role": "shadow", "rows": 65, "labelled": 60' in told.output
    assert '"mismatched": 0' in told.output


def test_a_flow_without_a_prediction_log_has_none_of_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = world.definitions.resolve_asset_graph().get_all_asset_keys()
    assert dg.AssetKey(["orders", "live_answers"]) not in keys
    monkeypatch.chdir(world.project.root)
    told = cli("orders")
    assert "prediction_log under [flows.orders.serving]" in str(told.exception)


def test_the_sensor_waits_for_the_first_file(world: World) -> None:
    edited(world, "", '[flows.orders.serving]\nprediction_log = "predictions"\n')
    world.drop(range(2), absorb=True)
    assert "predictors have logged nothing yet" in world.tick("answers").skip_message

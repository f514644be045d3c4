"""`modelflow check`, `run` and `versions` of a flow that predicts a number: each is told in a number's own words."""

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from ml_core.errors import ProjectError
from ml_core.flow import cli as reading
from ml_core.training import cli
from tests.data.test_new import new
from tests.registries import empty_registry

ROWS = 3_000


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a project of a table of trips: minutes follow from the way, about 35 of them."""
    random, start, lines = np.random.default_rng(4), datetime(2024, 3, 1, tzinfo=UTC), ["asked_at,trip,shop,km,minutes"]
    for number in range(ROWS):
        asked, way = start + timedelta(minutes=7 * number), random.uniform(1, 20)
        minutes = 5 + 3 * way + random.normal(0, 3)
        lines.append(f"{asked:%Y-%m-%d %H:%M},t{number},{random.choice(list('abc'))},{way:.2f},{minutes:.2f}")
    (tmp_path / "trips.csv").write_text("\n".join(lines), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MODELFLOW_HOME", str(tmp_path / "var"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", empty_registry(tmp_path / "var" / "mlflow" / "mlflow.db"))
    new("eta", "--from", "trips.csv", "--label", "minutes", "--event-time", "asked_at", "--yes")
    return tmp_path


def run(*arguments: str) -> Result:
    app = typer.Typer()
    for command in (cli.check, cli.run, reading.versions):
        app.command()(command)
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "80"})


def change(project: Path, pattern: str, to: str) -> None:
    file = project / "dagster_project.toml"
    text, count = re.subn(pattern, to, file.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert count == 1
    file.write_text(text, encoding="utf-8")


def test_a_flow_of_numbers_is_checked_trained_and_listed_by_its_own_figures(project: Path) -> None:
    """One story, because a registry takes seconds."""
    change(project, r"^alpha = .*$", "alpha = 5.0")
    checked = run("check", "eta", "--rows", "1000").stdout
    assert re.search(r"ok  labels +1000 examples; min [\d.]+, median [\d.]+, max [\d.]+, mean [\d.]+", checked), checked
    assert re.search(r"ok  training .* r2 0\.\d+", checked), checked

    made = run("run", "eta")
    assert made.exit_code == 0, made.output
    assert made.stderr.count("eta: ") == 3
    steps = ("taking its source in", "training; 3,000 examples", "judging version 1")
    assert all(said in made.stderr for said in steps), made.stderr
    assert "version 1 learned 3,000 examples" in made.stdout
    assert "slice_rows 3,000" in made.stdout
    again = run("run", "eta", "--json")
    told = json.loads(again.stdout)
    assert (told["version"], told["verdict"]["accepted"], again.exit_code) == (2, False, 1)
    (reason,) = told["verdict"]["reasons"]
    assert reason == (
        "squared error over the variance of the labels may exceed the champion's by 0 (upper end of the 95% interval),"
        " less than 0 wanted for superiority"
    )
    assert told["verdict"]["figures"]["loss_difference_upper"] == 0
    assert not any("log_loss" in name for name in told["verdict"]["figures"])

    head, _, *lines = run("versions", "eta").stdout.splitlines()
    assert head.split() == ["version", "kind", "parent", "watermark", "trained", "through", "r2", "fate"]
    assert [line.split()[-1] for line in lines] == ["Production", "refused"]
    assert all(0 < float(line.split()[-2]) < 1 for line in lines)


def test_a_model_worse_than_the_mean_of_the_labels_is_warned_of(project: Path) -> None:
    """Its figures alone say so only to who knows them."""
    change(project, r"^alpha = .*$", "alpha = 0.001")
    checked = run("check", "eta", "--rows", "500")
    assert checked.exit_code == 0
    (line,) = [line for line in checked.stdout.splitlines() if " training " in line]
    assert line.startswith("warn")
    assert "worse than always answering the mean of the labels (skill_ratio above 1)" in line
    assert "first_max_normalised_entropy = 0.98" in line


@pytest.mark.parametrize("command", ["check", "run"])
def test_an_estimator_that_is_none_for_the_labels_is_named_with_the_key_to_change(project: Path, command: str) -> None:
    change(project, "FTRLRegressor", "FTRLClassifier")
    error = run(command, "eta").exception
    assert isinstance(error, ProjectError)
    assert re.search(
        r"^flow eta: expected labels of 0 \.\. 1, found [\d.]+ in row 0: FTRLClassifier tells 2 classes apart\."
        r" In \[flows\.eta\.pipeline\.estimator\], set name to a regressor such as FTRLRegressor",
        str(error),
    )


def test_a_row_that_is_refused_for_another_reason_is_told_with_its_flow_alone(project: Path) -> None:
    change(project, r"^alpha = .*$", "alpha = 1e200")
    error = run("check", "eta").exception
    assert str(error).startswith("flow eta: learning diverged")
    assert "[flows.eta.pipeline.estimator]" not in str(error)

"""`modelflow features`: an instant is read as every other command reads it."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from ml_core.clock import SystemClock
from ml_core.data import cli
from ml_core.data.ingest import take_in_all
from ml_core.data.store import FeatureStore
from ml_core.project import load_project
from ml_core.typed import typed_instant
from tests.data.test_new import new, options
from tests.data.unseen import unseen


@pytest.mark.parametrize("text", ["2024-03-05T12:00", "2024-03-05 12:00+00:00", "2024-03-05T14:00+02:00"])
def test_an_instant_without_a_zone_is_utc(text: str) -> None:
    assert typed_instant(text) == datetime(2024, 3, 5, 12, tzinfo=UTC)


@pytest.mark.parametrize("text", ["yesterday", "", "2024-02-30", "0001-01-01T00:00+05:00"])
def test_what_is_no_instant_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(typer.BadParameter, match=f"expected an instant such as .* found '{text}'".replace("+", r"\+")):
        typed_instant(text)


def test_the_rows_of_a_flow_are_asked_for_by_a_time_as_it_is_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--at yesterday` ended in a traceback, and so did a time without a zone."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MODELFLOW_HOME", str(tmp_path / "var"))
    new("shop", *options(unseen(tmp_path, seed=7, rows=900)))
    project = load_project(tmp_path)
    flow = project.flow("shop")
    store = FeatureStore(flow, root=tmp_path, home=project.home)
    take_in_all(flow, store, root=tmp_path, home=project.home, now=SystemClock().now())
    app = typer.Typer()
    app.command()(cli.features)
    asked = [
        CliRunner().invoke(app, ["shop", "--at", f"2024-03-05T12:00{zone}", "--minutes", "600"]) for zone in ("", "Z")
    ]
    assert [result.exit_code for result in asked] == [0, 0]
    assert asked[0].output == asked[1].output != ""
    refused = CliRunner().invoke(app, ["shop", "--at", "yesterday"])
    assert (refused.exit_code, refused.exception and type(refused.exception)) == (2, SystemExit)
    assert "expected an instant such as" in refused.output

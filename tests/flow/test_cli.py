"""The commands of the flow: what a person reads and does in a terminal, and what a script gets."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from ml_core.flow import cli, moving
from ml_core.flow.registry import Registry
from ml_core.flow.verdict import Verdict
from ml_core.flow.version import ModelVersion
from ml_core.training.cli import promote
from tests.flow.conftest import ACCEPTED, stages

COMMANDS = (cli.flows, cli.versions, cli.show, cli.diff, cli.history, cli.at, moving.rollback, moving.pin, moving.gc)
REFUSED = Verdict(accepted=False, policy="non-inferiority", rows=9, reasons=("worse",), figures={"log_loss": 0.7})
PROJECT = """
[flows.shop.data]
loader = "shop.load:facts"
features = "features.sql"
entity = "ordered"
key = "order_id"
request_time = "asked_at"
label_fact = "arrived"
label = "late"
lookback = "1 day"
label_window = "2 days"
starts = 2024-05-01

[[flows.shop.pipeline.stages]]
stage = "hash"
bits = 8
columns = ["shop"]

[flows.shop.pipeline.estimator]
name = "FTRLClassifier"

[flows.shop.retention]
keep_last = 1
keep_for = "0 days"

[flows.shop.gate]
max_rows = 1
"""


@pytest.fixture
def registry(
    sqlite: str, publish: Callable[..., ModelVersion], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Registry:
    """Make a project of one flow: version 3 serves, before it 2 and 1 did, 4 was refused."""
    (tmp_path / "dagster_project.toml").write_text(PROJECT, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", sqlite)
    registry = Registry(sqlite)
    for number in (1, 2, 3):
        publish(registry, number, parent=number - 1 or None)
        registry.promote("shop", number, verdict=ACCEPTED, expected_champion=number - 1 or None)
    publish(registry, 4, parent=3)
    registry.refuse("shop", 4, verdict=REFUSED)
    return registry


def run(*arguments: str, code: int = 0, columns: int = 200) -> str:
    app = typer.Typer()
    for command in (*COMMANDS, promote):
        app.command()(command)
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": str(columns)})
    assert result.exit_code == code, result.output
    return result.output


def asked(*arguments: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run(*arguments, "--json").splitlines()]


@pytest.mark.usefixtures("registry")
def test_reading_commands_tell_people_and_scripts_the_same() -> None:
    """One story, because a flow with versions takes a second to make."""
    (flow,) = asked("flows")
    assert (flow["flow"], flow["champion"], flow["previous"], flow["waiting"]) == ("shop", 3, 2, 0)
    assert "shop" in run("flows")

    (shown,) = asked("show", "shop")
    assert (shown["version"], shown["parent"], [entry["kind"] for entry in shown["history"]]) == (
        3,
        2,
        ["promote", "refuse"],
    )
    assert "worse" in run("show", "shop", "4")
    assert asked("show", "shop", "4")[0]["verdict"]["reasons"] == ["worse"]

    kinds = [entry["kind"] for entry in asked("history", "shop")]
    assert kinds == ["promote", "promote", "promote", "refuse"]
    assert [
        entry["entry"] if "entry" in entry else entry["number"] for entry in asked("history", "shop", "--last", "1")
    ]
    assert "2 → 3" in run("history", "shop")
    assert [version["version"] for version in asked("versions", "shop")] == [1, 2, 3, 4]


def test_a_version_that_was_rolled_back_says_so_until_it_serves_again(registry: Registry) -> None:
    """Its verdict goes on saying that the gate accepted it."""
    assert [version["fate"] for version in asked("versions", "shop")] == [
        "archived",
        "archived",
        "Production",
        "refused",
    ]
    run("rollback", "shop", "--reason", "late planes")
    assert [version["fate"] for version in asked("versions", "shop")][1:3] == ["Production", "rolled back"]
    assert [entry["kind"] for entry in asked("show", "shop", "3")[0]["history"]][-1] == "rollback"
    registry.rollback("shop", to=3, why="it was the feed")
    assert [version["fate"] for version in asked("versions", "shop")][1:3] == ["rolled back", "Production"]


def test_the_versions_of_a_flow_fit_into_80_columns(registry: Registry) -> None:
    """Where they did not, every cell was cut: `waterma… traine… accept…`."""
    run("rollback", "shop", "--reason", "late planes")
    head, _, *lines = run("versions", "shop", columns=80).splitlines()
    assert head.split() == ["version", "kind", "parent", "watermark", "trained", "through", "log", "loss", "fate"]
    assert lines[2].split() == ["3", "incremental", "2", "3", "2024-05-01", "12:00", "0.5000", "rolled", "back"]
    assert len(lines) == len(registry.versions("shop"))
    told = run("history", "shop", columns=80)
    assert all(len(line) <= 80 for line in told.splitlines())
    assert "…" not in told


def test_what_served_at_a_time_has_an_answer_also_after_a_rollback(registry: Registry) -> None:
    moments = [entry.settled_at for entry in registry.ledger.entries("shop")]
    assert asked("at", "shop", "2001-01-01")[0]["version"] is None
    assert "served no version" in run("at", "shop", "2001-01-01")
    assert [asked("at", "shop", str(moment))[0]["version"] for moment in moments] == [1, 2, 3, 3]
    run("rollback", "shop", "--reason", "late planes")
    assert asked("at", "shop", datetime.now(UTC).isoformat())[0]["version"] == 2
    again = asked("at", "shop", str(moments[2]))[0]
    assert (again["version"], again["since"]) == (3, str(moments[2]))
    run("at", "shop", "yesterday", code=2)


@pytest.mark.usefixtures("registry")
def test_two_versions_are_compared_in_columns_weights_and_figures() -> None:
    (found,) = asked("diff", "shop", "1", "3")
    assert (found["schema"], found["features_changed"], found["learned_rows"]) == ({}, False, 2)
    assert found["metrics"] == {"log_loss": [0.5, 0.5]}
    assert found["weights"]
    assert all("values changed" in change for change in found["weights"].values())
    assert "bit for bit" in run("diff", "shop", "2", "2")


def test_rolling_back_pinning_and_collecting_are_recorded_with_their_reason(registry: Registry) -> None:
    run("rollback", "shop", code=2)
    (entry,) = asked("rollback", "shop", "--reason", "late planes", "--to", "1")
    assert (entry["kind"], entry["before"], entry["champion"], entry["why"]) == ("rollback", 3, 1, "late planes")
    run("pin", "shop", "2", code=2)
    run("pin", "shop", "2", "--reason", "the audit")
    (dry,) = asked("gc", "shop", "--dry-run")
    assert (dry["gone"], dry["kept"]["2"]) == ([3], "pinned: the audit")
    assert sorted(stages(registry)) == [1, 2, 3, 4]
    run("pin", "shop", "2", "--release")
    assert asked("gc", "shop")[0]["gone"] == [2, 3]
    assert sorted(stages(registry)) == [1, 4]


def test_a_forced_promotion_needs_force_and_reason_together(registry: Registry) -> None:
    """A slip of the hand must not go past the gate."""
    run("promote", "shop", "4", "--force", code=2)
    run("promote", "shop", "4", "--reason", "it prices skis", code=2)
    assert stages(registry)[3] == "Production"
    (entry,) = asked("promote", "shop", "4", "--force", "--reason", "it prices skis")
    assert (entry["champion"], entry["forced"], entry["why"]) == (4, True, "it prices skis")


def test_what_serves_or_has_served_is_not_judged_again(registry: Registry) -> None:
    """Its accepted verdict would be replaced by a refusal, or the newest refusal be told of as its own."""
    (entry,) = asked("promote", "shop", "3")
    assert (entry["kind"], entry["champion"]) == ("promote", 3)
    run("promote", "shop", "2", code=1)
    verdict = registry.version("shop", 2).verdict
    assert verdict is not None
    assert verdict.accepted

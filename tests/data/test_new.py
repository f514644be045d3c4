"""`modelflow new`: what it writes is what a person would have written, and theirs to change."""

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from ml_core.data import new as command
from ml_core.errors import ProjectError, SourceError
from ml_core.project import load_project
from tests.data.unseen import ZONE, Unseen, unseen


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Unseen:
    monkeypatch.chdir(tmp_path)
    return unseen(tmp_path, seed=7, rows=600)


def new(*arguments: str, fails: bool = False) -> str:
    """Run the command; return what it printed."""
    app = typer.Typer(add_completion=False)
    app.command()(command.new)
    result = CliRunner().invoke(app, arguments)
    if fails:
        raise result.exception or AssertionError(result.output)
    assert result.exit_code == 0, result.output
    return result.output


def options(table: Unseen) -> list[str]:
    return [
        "--from",
        table.path.name,
        "--label",
        table.columns["label"],
        "--event-time",
        table.columns["time"],
        "--yes",
    ]


def test_outside_a_project_one_is_made_that_dagster_can_load(table: Unseen, tmp_path: Path) -> None:
    """The first command of somebody who has nothing but a file."""
    said = json.loads(new("shop", *options(table), "--time-zone", ZONE, "--json"))
    flow = load_project(tmp_path).flow("shop")
    assert flow.data.source is not None
    assert flow.data.source.time_zone == flow.full_training.time_zone == ZONE
    assert set(said["left_out"]) == {table.columns[what] for what in ("time", "label", "leak", "id")}
    assert (tmp_path / "workspace.yaml").exists()
    assert {Path(file).name for file in said["written"]} == {
        "dagster_project.toml", "features.sql", "workspace.yaml", "sample_request.json"
    }  # fmt: skip


@pytest.mark.parametrize("project", [None, "# mine\n"])
def test_what_fails_leaves_nothing_behind(
    project: str | None, table: Unseen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the command can be given again, with what was wrong put right."""
    file = tmp_path / "dagster_project.toml"
    if project is not None:
        file.write_text(project)
    before = sorted(tmp_path.rglob("*"))

    def full(row: dict[str, object]) -> str:
        (tmp_path / "flows" / "shop" / "sample_request.json").write_text("half of")
        raise SourceError(f"a test said so of {len(row)} features")

    with monkeypatch.context() as broken:
        broken.setattr(command.scaffold, "sample_request", full)
        with pytest.raises(SourceError, match=r"a test said so of \d+ features"):
            new("shop", *options(table), fails=True)
    assert sorted(tmp_path.rglob("*")) == before
    assert project is None or file.read_text() == project
    new("shop", *options(table))


def test_the_sample_request_holds_every_feature_once(table: Unseen, tmp_path: Path) -> None:
    """It is what somebody pastes into curl."""
    new("shop", *options(table))
    request = json.loads((tmp_path / "flows" / "shop" / "sample_request.json").read_text(encoding="utf-8"))
    wanted = {table.columns[what] for what in ("group", "name", "strength", "noise")}
    assert set(request["dataframe_records"][0]) == wanted | {"hour", "weekday"}


def test_a_second_flow_is_added_below_the_first(table: Unseen, tmp_path: Path) -> None:
    """The file is the user's: nothing in it may be rewritten."""
    new("shop", *options(table))
    before = (tmp_path / "dagster_project.toml").read_text(encoding="utf-8")
    new("other", *options(table), "--key", table.columns["id"], "--keep", table.columns["leak"])
    after = (tmp_path / "dagster_project.toml").read_text(encoding="utf-8")
    assert after.startswith(before.rstrip())
    assert set(load_project(tmp_path).flows) == {"shop", "other"}
    assert f'"{table.columns["leak"]}" = "number"' in after or f"{table.columns['leak']} =" in after


@pytest.mark.parametrize(
    ("name", "extra", "message"),
    [
        ("shop", [], "there is a flow 'shop' already"),
        ("no-name", [], "expected a flow's name of letters, digits and _"),
        ("b", ["--kind", "ternary"], "--kind 'ternary': expected binary, multiclass or regression"),
        ("c", ["--label-delay", "soon"], "--label-delay 'soon': Value error, expected a duration"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_written(
    table: Unseen, tmp_path: Path, name: str, extra: list[str], message: str
) -> None:
    """A half-written flow would stop every other command."""
    new("shop", *options(table))
    before = (tmp_path / "dagster_project.toml").read_text(encoding="utf-8")
    with pytest.raises(ProjectError, match=message):
        new(name, *options(table), *extra, fails=True)
    assert (tmp_path / "dagster_project.toml").read_text(encoding="utf-8") == before


def test_without_questions_an_open_choice_names_the_option_that_settles_it(table: Unseen) -> None:
    """A script that runs it must learn what to add."""
    with pytest.raises(ProjectError, match=r"^name the label with --label; candidates: .+, ") as error:
        new("shop", "--from", table.path.name, "--yes", fails=True)
    assert table.columns["label"] in str(error.value)


ORDERS = "".join(
    f"o{n},2024-05-{1 + n // 20:02d} {n % 20:02d}:00,{'far' if n == 17 else f'{n % 7}.5'},{'gift' * (n % 3 == 0)},x,,"
    f"please ring number {n % 9} twice,{'yes' if n % 5 == 0 else 'no'}\n"
    for n in range(400)
)
FROM_ORDERS = ("orders", "--from", "orders.csv", "--label", "late", "--yes")


@pytest.fixture
def orders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in a folder with a table of what a newcomer's table holds."""
    monkeypatch.chdir(tmp_path)
    header = "order_id,ordered_at,km,note,same,gone,comment,late\n"
    Path("orders.csv").write_text(header + ORDERS, encoding="utf-8")
    return tmp_path


def test_each_column_that_is_left_out_has_its_true_reason(orders: Path) -> None:
    """It is what somebody decides by; a flag that most rows lack is no constant."""
    said = json.loads(new(*FROM_ORDERS, "--json"))
    assert said["features"] == {"km": "text", "note": "text"}
    assert said["left_out"] == {
        "order_id": "names the row; use --key order_id, or rows are numbered",
        "ordered_at": "is the row's time",
        "same": "the same in every row",
        "gone": "empty in every row",
        "comment": "free text; write a feature of it below, or a stage of your own",
        "late": "is the label",
    }
    assert 'coalesce(requests."note", \'\') as "note"' in (orders / "flows/orders/features.sql").read_text("utf-8")


def test_a_text_among_numbers_is_told_of_and_can_be_declared_missing(orders: Path) -> None:
    """The column would be a category of hundreds of values, and only the scores would show it."""
    note = (
        "km: 399 of 400 values are numbers, but line 19 has 'far', so it is taken as text; correct them, or name them"
        " with --missing where they stand for no value"
    )
    assert f"  note: {note}\n" in new(*FROM_ORDERS)
    cured = json.loads(new("again", *FROM_ORDERS[1:], "--missing", "far", "--json"))
    assert cured["features"]["km"] == "number"
    assert not any("km" in text for text in cured["notes"])
    source = load_project(orders).flow("again").data.source
    assert source is not None
    assert source.missing == ("", "far")


@pytest.mark.usefixtures("orders")
def test_a_text_among_numbers_of_a_column_that_is_not_wanted_is_nothing_to_hear_about() -> None:
    """Whoever left the column out knows it."""
    assert "km:" not in new(*FROM_ORDERS, "--without", "km").replace("left out km:", "")


def test_keep_overrules_every_doubt(orders: Path) -> None:
    """A column that names rows, or holds sentences, is a feature for whoever says so."""
    said = json.loads(new(*FROM_ORDERS, "--key", "order_id", "--keep", "order_id", "--keep", "comment", "--json"))
    assert set(said["features"]) == {"order_id", "km", "note", "comment"}
    request = json.loads((orders / "flows/orders/sample_request.json").read_text(encoding="utf-8"))
    assert set(said["features"]) < set(request["dataframe_records"][0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--keep", "same"], "--keep same: it cannot be a feature: the same in every row; leave the option out"),
        (["--keep", "gone"], "--keep gone: it cannot be a feature: empty in every row"),
        (["--keep", "late"], "--keep late: it cannot be a feature: is the label"),
        (["--keep", "km", "--without", "km"], "--keep km: it cannot be a feature: --without leaves it out"),
        (["--keep", "notes"], "--keep notes: no such column: did you mean 'note'"),
        (["--without", "notes"], "--without notes: no such column: did you mean 'note'"),
    ],
)
def test_what_cannot_be_kept_or_left_out_is_refused(orders: Path, options: list[str], message: str) -> None:
    """An option that does nothing is taken for one that did what it says."""
    with pytest.raises(ProjectError, match=message):
        new(*FROM_ORDERS, *options, fails=True)
    assert not (orders / "flows").exists()


@pytest.mark.usefixtures("orders")
def test_the_end_says_what_the_sample_request_is_for() -> None:
    """It is the one file that nothing else of the flow names."""
    assert "orders/sample_request.json: a body to POST to the sidecar's /invocations\n" in new(*FROM_ORDERS)


def test_columns_called_like_the_store_s_own_are_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`key`, `label` and `offset` are what half of all tables call their columns."""
    monkeypatch.chdir(tmp_path)
    lines = [f"2024-05-{day:02d} 10:00,{day % 3}.5,{day % 5}.5,{day % 2},word{day % 3}" for day in range(1, 29)]
    Path("t.csv").write_text("event_time,offset,Key,label,known_at\n" + "\n".join(lines * 3), encoding="utf-8")
    new("odd", "--from", "t.csv", "--event-time", "event_time", "--label", "label", "--yes")
    request = json.loads(Path("flows/odd/sample_request.json").read_text(encoding="utf-8"))
    assert set(request["dataframe_records"][0]) == {"offset_", "Key_", "known_at_", "hour", "weekday"}


def test_a_column_called_row_keeps_its_values_where_rows_are_numbered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seats have rows; without a key the lines of the table are numbered under another name."""
    monkeypatch.chdir(tmp_path)
    lines = [f"2024-05-{day:02d} 10:00,{30 + day % 7}.5,{day % 2}" for day in range(1, 29)]
    Path("t.csv").write_text("asked_at,Row,label\n" + "\n".join(lines * 3), encoding="utf-8")
    new("seats", "--from", "t.csv", "--event-time", "asked_at", "--label", "label", "--yes")
    request = json.loads(Path("flows/seats/sample_request.json").read_text(encoding="utf-8"))
    assert 30 <= request["dataframe_records"][0]["Row"] <= 37

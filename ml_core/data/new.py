"""`modelflow new`: a flow from a table, in one command.

It looks into the table, asks what it must, and writes the flow's table of the project file, its `features.sql` and a
sample request. With `--yes` it never asks: it guesses where one answer stands out and tells every guess, and where it
cannot decide, it stops and names the option to pass.
"""

import json
import sys
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from ml_core.clock import SystemClock
from ml_core.data import scaffold
from ml_core.data.inspect import Inspection, inspect_source
from ml_core.data.sources import DUCKDB, data_suffix
from ml_core.data.trial import sample_facts, tried
from ml_core.errors import ProjectError, SourceError
from ml_core.project import PROJECT_FILE, Duration, Project, load_project

SAMPLE_REQUEST = "sample_request.json"
_SAMPLE_ROWS = 2_000
_FINISHED = timedelta(days=14)


def new(  # noqa: PLR0913, PLR0917 - the options of a command
    flow: Annotated[str, typer.Argument(help="the flow's name: letters, digits and _")],
    source: Annotated[str, typer.Option("--from", help="a CSV, Parquet or DuckDB file")],
    label: Annotated[str | None, typer.Option(help="the column to predict")] = None,
    event_time: Annotated[str | None, typer.Option(help="the column that says when a prediction is asked for")] = None,
    table: Annotated[str | None, typer.Option(help="the table or view of a DuckDB file")] = None,
    key: Annotated[str | None, typer.Option(help="the column that names a row; without it rows are numbered")] = None,
    time_format: Annotated[str | None, typer.Option(help="how times are written, e.g. '%d.%m.%Y %H:%M'")] = None,
    time_zone: Annotated[str | None, typer.Option(help="the zone of times that carry none, e.g. Europe/Berlin")] = None,
    label_delay: Annotated[str, typer.Option(help="how long after its time a row's label is known")] = "1 hour",
    kind: Annotated[str | None, typer.Option(help="binary, multiclass or regression; detected unless given")] = None,
    positive: Annotated[str | None, typer.Option(help="of two classes, the one whose probability is wanted")] = None,
    without: Annotated[list[str] | None, typer.Option(help="a column to leave out; may be repeated")] = None,
    keep: Annotated[list[str] | None, typer.Option(help="a column to use that would be left out")] = None,
    missing: Annotated[list[str] | None, typer.Option(help="a text that stands for no value; may be repeated")] = None,
    owner: Annotated[list[str] | None, typer.Option(help="`team:name` or a mail address; may be repeated")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="never ask")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="say what was done as JSON")] = False,
) -> None:
    """Create a flow from a table: its part of the project file, features.sql and a sample request."""
    from pydantic import TypeAdapter, ValidationError

    path = _source_path(source)
    if kind not in {None, "binary", "multiclass", "regression"}:
        raise ProjectError(f"--kind {kind!r}: expected binary, multiclass or regression")
    try:
        delay: timedelta = TypeAdapter(Duration).validate_python(label_delay)
    except ValidationError as error:
        raise ProjectError(f"--label-delay {label_delay!r}: {error.errors()[0]['msg']}") from error
    table = table or _only_table(path)
    found = inspect_source(path, table=table, time_zone=time_zone or "UTC", missing=missing or ())
    asks = _Asks(found, ask=not yes)
    event_time = event_time or asks.column("event_time", "Which column says when a prediction is asked for?")
    label = label or asks.column("label", "Which column is to be predicted?")
    time_zone = time_zone or asks.text("In which zone are times that carry none?", "UTC")
    found = inspect_source(
        path, table=table, event_time=event_time, time_format=time_format, time_zone=time_zone, label=label, kind=kind,
        positive=positive, missing=missing or (),
    )  # fmt: skip
    project_root = _root()
    proposal = scaffold.Proposal(
        name=flow,
        path=path.relative_to(project_root) if path.is_relative_to(project_root) else path,
        table=table,
        key=key,
        inspection=found,
        time_zone=time_zone,
        label_delay=delay,
        ends=found.last is not None and SystemClock().now() - found.last > _FINISHED,
        without=tuple(without or ()),
        keep=tuple(keep or ()),
        owners=tuple(owner or ()),
    )
    with scaffold.written(proposal, project_root) as files:
        files.append(write_sample_request(load_project(project_root), flow))
    _tell(proposal, files, as_json=as_json)


def write_sample_request(project: Project, name: str) -> Path:
    """Write one feature row of a sample, as a request, beside the flow's features.sql; return the file."""
    flow = project.flow(name)
    facts = sample_facts(flow, root=project.root, home=project.home, rows=_SAMPLE_ROWS)
    with tried(flow, facts, root=project.root) as store:
        clock = store.progress().clock
        if clock is None:
            raise SourceError(f"flow {name}: expected a row in the sample, found none")
        rows = store.feature_rows(clock - timedelta(days=36_500), clock + timedelta(days=1)).to_pylist()
    row = {column: value for column, value in rows[-1].items() if column not in {"key", "request_time"}}
    file = (project.root / flow.data.features).with_name(SAMPLE_REQUEST)
    file.write_text(scaffold.sample_request(row), encoding="utf-8")
    return file


class _Asks:
    """Asks a person at a terminal, or takes the best candidate where nobody may be asked."""

    def __init__(self, found: Inspection, *, ask: bool) -> None:
        self._found = found
        self._ask = ask and sys.stdin.isatty()

    def column(self, what: str, question: str) -> str:
        """Return a column of one of the kinds that candidates were found for."""
        candidates = self._found.candidates[what]
        option = f"--{what.replace('_', '-')}"
        if self._ask:
            return str(typer.prompt(f"{question} Candidates: {', '.join(candidates) or 'none found'}",
                                    default=candidates[0] if candidates else None))  # fmt: skip
        if len(candidates) == 1:
            return candidates[0]
        name = what.replace("_", " ")
        raise ProjectError(f"name the {name} with {option}; candidates: {', '.join(candidates) or 'none found'}")

    def text(self, question: str, default: str) -> str:
        """Return an answer, or the default where nobody may be asked."""
        return str(typer.prompt(question, default=default)) if self._ask else default


def _root() -> Path:
    """Return the folder of the project around the working directory, or that directory where there is none."""
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if (folder / PROJECT_FILE).is_file()), here)


def _source_path(text: str) -> Path:
    if text.startswith("kafka:"):
        raise ProjectError(f"--from {text!r}: expected a file; a flow is made of a file of the topic's records first")
    path = Path(text).expanduser().absolute()
    if "*" not in text and not path.is_file():
        raise ProjectError(f"--from {text!r}: expected a CSV, Parquet or DuckDB file, found no file at {path}")
    return path


def _only_table(path: Path) -> str | None:
    """Return the one table of a DuckDB file, None for another kind of file."""
    if data_suffix(path) not in DUCKDB:
        return None
    import duckdb

    with duckdb.connect(str(path), read_only=True) as connection:
        found = [f"{schema}.{name}" for schema, name in connection.execute(
            "select table_schema, table_name from information_schema.tables order by 1, 2").fetchall()]  # fmt: skip
    if len(found) != 1:
        raise ProjectError(f"{path}: expected --table, as the file holds {found or 'no table'}")
    return found[0]


def _tell(proposal: scaffold.Proposal, written: list[Path], *, as_json: bool) -> None:
    found = proposal.inspection
    said: dict[str, Any] = {
        "flow": proposal.name,
        "rows": found.rows,
        "from": str(found.first),
        "to": str(found.last),
        "label": found.label_found.kind if found.label_found else None,
        "features": {column.name: column.kind for column in proposal.features},
        "left_out": proposal.left_out,
        "notes": proposal.notes,
        "written": [str(file) for file in written],
    }
    if as_json:
        typer.echo(json.dumps(said, ensure_ascii=False))
        return
    typer.echo(f"{proposal.name}: {found.rows} rows from {found.first} to {found.last}, a {said['label']} label")
    for name, why in proposal.left_out.items():
        typer.echo(f"  left out {name}: {why}")
    for note in proposal.notes:
        typer.echo(f"  note: {note}")
    for file in written:
        what = ": a body to POST to the sidecar's /invocations" if file.name == SAMPLE_REQUEST else ""
        typer.echo(f"  wrote {file}{what}")
    typer.echo(f"next: modelflow check {proposal.name}")

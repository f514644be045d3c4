"""`modelflow flows`, `versions`, `show`, `diff`, `history` and `at`: what the registry and the ledger say of a flow.

None of them changes anything. Each prints a table for people, and with `--json` objects for scripts, one per line where
there are several.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ml_core.errors import VersionNotFoundError
from ml_core.flow.fates import fates
from ml_core.flow.ledger import Entry
from ml_core.flow.registry import Registry, registry_of
from ml_core.flow.verdict import readable
from ml_core.flow.version import ModelVersion
from ml_core.project import load_project
from ml_core.typed import typed_instant

FlowName = Annotated[str, typer.Argument(metavar="FLOW", help="the flow, by its name in dagster_project.toml")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON, one object per line")]

_FIGURES = {"log_loss": "log loss", "r2": "r2"}  # what classes and numbers are judged by


def opened(flow: str) -> Registry:
    """Return the registry of the project around us, once its file is known to hold the flow."""
    project = load_project()
    project.flow(flow)
    return registry_of(project)


def chosen(registry: Registry, flow: str, number: int | None) -> ModelVersion:
    """Return the version a person named, by default the champion; raise VersionNotFoundError when there is none."""
    found = registry.head(flow) if number is None else registry.version(flow, number)
    if found is None:
        raise VersionNotFoundError(f"{flow} serves no version yet; name one, see `modelflow versions {flow}`")
    return found


def told(entry: Entry) -> dict[str, Any]:
    """Return an entry of the ledger as JSON shows it."""
    hidden = {"holder", "lease_until"}
    return {name: value for name, value in asdict(entry).items() if name not in hidden}


def flows(as_json: AsJson = False) -> None:
    """List the flows of the project, with what each serves."""
    project = load_project()
    registry = registry_of(project)
    rows = []
    for name in project.flows:
        champion, last = registry.head(name), registry.ledger.last(name)
        rows.append(
            {
                "flow": name,
                "champion": champion and champion.version,
                "challenger": last.challenger,
                "previous": last.previous,
                "waiting": len(registry.pending(name)),
                "watermark": champion and champion.watermark,
                "trained_through": champion and champion.trained_through,
            }
        )
    print_rows(rows, as_json=as_json)


def versions(flow: FlowName, as_json: AsJson = False) -> None:
    """List the versions of a flow."""
    registry = opened(flow)
    found = registry.versions(flow)
    fate = fates(found, registry.ledger.entries(flow))
    if as_json:
        print_rows([asdict(version) | {"fate": fate[version.version]} for version in found], as_json=True)
        return
    names = [name for name in _FIGURES if any(name in version.metrics for version in found)]
    print_rows(
        [
            {
                "version": version.version,
                "kind": version.kind,
                "parent": version.parent,
                "watermark": version.watermark,
                "trained through": version.trained_through,
                **{_FIGURES[name]: version.metrics.get(name) for name in names},
                "fate": fate[version.version],
            }
            for version in found
        ],
        as_json=False,
    )


def show(
    flow: FlowName,
    version: Annotated[int | None, typer.Argument(help="its number; by default the champion")] = None,
    as_json: AsJson = False,
) -> None:
    """Show one version: where it comes from, what it was judged on, and what became of it."""
    registry = opened(flow)
    found = chosen(registry, flow, version)
    entries = registry.ledger.entries(flow)
    about = [entry for entry in entries if found.version in {entry.version, entry.before, entry.champion}]
    if as_json:
        print_rows([asdict(found) | {"history": [told(entry) for entry in about]}], as_json=True)
        return
    facts = {name: value for name, value in asdict(found).items() if name not in {"metrics", "verdict"}}
    _facts(facts | {f"metric {name}": readable(value, 6) for name, value in sorted(found.metrics.items())})
    if found.verdict is not None:
        reasons = "; ".join(found.verdict.reasons) or f"{found.verdict.policy} on {found.verdict.rows} rows"
        figures = {f"gate {name}": readable(value, 6) for name, value in sorted(found.verdict.figures.items())}
        verdict = "accepted" if found.verdict.accepted else "refused"
        _facts({"verdict": verdict, "reason": reasons} | figures)
    print_rows([_row(entry) for entry in about], as_json=False)


def diff(
    flow: FlowName,
    a: Annotated[int, typer.Argument(help="a version")],
    b: Annotated[int, typer.Argument(help="another one")],
    as_json: AsJson = False,
) -> None:
    """Compare two versions: raw columns, features, weights and figures."""
    from ml_core.flow.difference import difference  # here, because the learners cost every command seconds

    registry = opened(flow)
    found = difference(registry, registry.version(flow, a), registry.version(flow, b))
    if as_json:
        print_rows([asdict(found)], as_json=True)
        return
    _facts(
        {
            "features.sql": "changed" if found.features_changed else "the same",
            "learned rows": f"{found.learned_rows:+,}",
        }
        | {f"column {name}": f"{ours} became {theirs}" for name, (ours, theirs) in found.schema.items()}
        | (
            {f"weights {name}": change for name, change in found.weights.items()}
            or {"weights": "the same, bit for bit"}
        )
    )
    metrics = [{"metric": name, str(a): ours, str(b): theirs} for name, (ours, theirs) in found.metrics.items()]
    print_rows(metrics, as_json=False)


def history(
    flow: FlowName,
    last: Annotated[int | None, typer.Option(help="only so many of the newest", min=1)] = None,
    as_json: AsJson = False,
) -> None:
    """Tell what happened to a flow, from its ledger: when, who, what, why."""
    entries = opened(flow).ledger.entries(flow, limit=last)
    print_rows([told(entry) if as_json else _row(entry) for entry in entries], as_json=as_json)


def at(
    flow: FlowName,
    time: Annotated[str, typer.Argument(help="an instant such as 2013-10-01T12:00+00:00; without a zone it is UTC")],
    as_json: AsJson = False,
) -> None:
    """Say which version a flow served at a time."""
    instant = typed_instant(time)
    ledger = opened(flow).ledger
    made = ledger.at(flow, instant)
    since = None if made.champion is None else ledger.became(flow, made.champion, until=made.number)
    answer = {"flow": flow, "time": instant, "version": made.champion, "since": since and since.settled_at}
    if as_json:
        print_rows([answer | {"entry": since and told(since)}], as_json=True)
    elif since is None:
        typer.echo(f"{flow} served no version at {instant}")
    else:
        typer.echo(f"{flow} served version {made.champion} at {instant}, since {since.settled_at}: {since.why}")


def _row(entry: Entry) -> dict[str, Any]:
    what = entry.kind if entry.version is None else f"{entry.kind} {entry.version}"
    moved = f"{entry.before} → {entry.champion}" if entry.before != entry.champion else entry.champion
    return {
        "entry": entry.number,
        "when": entry.settled_at,
        "what": f"{what} (forced)" if entry.forced else what,
        "champion": moved,
        "who": entry.who,
        "why": f"{entry.why} (at step {entry.step})" if entry.open else entry.why,
    }


def _facts(facts: Mapping[str, Any]) -> None:
    table = Table(show_header=False, box=None)
    table.add_column()
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(escape(name), "" if value is None else escape(str(value)))
    Console().print(table)


def print_rows(rows: list[dict[str, Any]], *, as_json: bool) -> None:
    """Print rows as a table, or as one JSON object per line."""
    if as_json:
        for row in rows:
            typer.echo(json.dumps(row, default=str))
        return
    if not rows:
        typer.echo("nothing yet")
        return
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    for name in rows[0]:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(escape(_text(value)) for value in row.values()))
    Console().print(table)


def _text(value: Any) -> str:
    """Return a value as a table shows it; an instant to the minute, in UTC."""
    if isinstance(value, float):
        return readable(value) if value.is_integer() else f"{value:.4f}"
    return "" if value is None else f"{value:%Y-%m-%d %H:%M}" if isinstance(value, datetime) else str(value)

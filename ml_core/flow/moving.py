"""`modelflow rollback`, `pin` and `gc`: what a person does to a flow past the gate, recorded in its ledger."""

import json
from typing import Annotated

import typer

from ml_core.clock import SystemClock
from ml_core.data.store import FeatureStore
from ml_core.flow.cli import AsJson, FlowName, opened, told
from ml_core.flow.ledger import Entry
from ml_core.flow.retention import collect, plan
from ml_core.project import load_project
from ml_core.typed import typed_instant


def rollback(
    flow: FlowName,
    reason: Annotated[str, typer.Option(help="recorded in the ledger")],
    to: Annotated[int | None, typer.Option(help="a version that served before; by default the one before")] = None,
    resume_at: Annotated[
        str | None,
        typer.Option(
            help="an instant; the next increment skips what was labelled before it instead of learning it again"
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Serve an earlier version again; later increments continue from its state."""
    offset = None
    if resume_at is not None:
        project = load_project()
        store = FeatureStore(project.flow(flow), root=project.root, home=project.home)
        offset = store.offset_at(typed_instant(resume_at))
    say(opened(flow).rollback(flow, to=to, why=reason, resume_at=offset), as_json=as_json)


def pin(
    flow: FlowName,
    version: Annotated[int, typer.Argument(help="its number")],
    reason: Annotated[str, typer.Option(help="why it must be kept")] = "",
    release: Annotated[bool, typer.Option("--release", help="let it go again")] = False,
    as_json: AsJson = False,
) -> None:
    """Keep a version from retention, or let it go again."""
    if release == bool(reason.strip()):
        raise typer.BadParameter("expected --reason to pin it, or --release to let it go again")
    say(opened(flow).pin(flow, version, why="" if release else reason), as_json=as_json)


def gc(
    flow: FlowName,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only say what would go")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete the versions that the flow's retention does not keep, with their artifacts."""
    registry, settings, now = opened(flow), load_project().flow(flow), SystemClock().now()
    if dry_run:
        made = plan(settings, registry.versions(flow), registry.ledger.last(flow), now=now)
    else:
        made = collect(settings, registry, now=now)
    gone = [version.version for version in made.gone]
    if as_json:
        typer.echo(json.dumps({"flow": flow, "dry_run": dry_run, "gone": gone, "kept": made.kept}))
        return
    typer.echo(f"{flow}: {len(gone)} of {len(gone) + len(made.kept)} versions {'would go' if dry_run else 'are gone'}")
    for version in made.gone:
        typer.echo(f"  gone  {version.version}, of {version.created_at}")
    for number, reason in made.kept.items():
        typer.echo(f"  kept  {number}: {reason}")


def say(entry: Entry, *, as_json: bool) -> None:
    """Tell what a transition did."""
    if as_json:
        typer.echo(json.dumps(told(entry), default=str))
    elif entry.before == entry.champion:
        typer.echo(f"{entry.flow}: {entry.kind} of version {entry.version}; version {entry.champion} serves")
    else:
        typer.echo(f"{entry.flow}: {entry.kind}: version {entry.champion} serves, before it {entry.before} did")

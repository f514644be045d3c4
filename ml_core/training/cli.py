"""`modelflow check`, `run` and `promote`: a flow tried out, trained here and now, and judged, without Dagster."""

import json
from dataclasses import asdict
from typing import Annotated

import typer

from ml_core.clock import SystemClock
from ml_core.data.ingest import take_in_all
from ml_core.data.store import FeatureStore
from ml_core.flow.cli import AsJson, FlowName, opened
from ml_core.flow.moving import say
from ml_core.flow.registry import registry_of
from ml_core.project import load_project
from ml_core.training.full import train_full
from ml_core.training.gate import judge_and_promote
from ml_core.training.trying import try_flow


def check(
    flow: Annotated[str, typer.Argument(help="the flow")],
    rows: Annotated[int, typer.Option(help="how many requests the sample holds")] = 5_000,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object per step")] = False,
) -> None:
    """Try a flow out end to end on a sample; nothing is kept."""
    project = load_project()
    for step in try_flow(project, project.flow(flow), rows=rows):
        if as_json:
            typer.echo(json.dumps(asdict(step)))
        else:
            typer.echo(f"{'warn' if step.warning else 'ok':>4}  {step.name:<14}  {step.found}  ({step.seconds:.2f} s)")


def run(
    flow: Annotated[str, typer.Argument(help="the flow")],
    as_json: Annotated[bool, typer.Option("--json", help="the version and its verdict as JSON")] = False,
) -> None:
    """Take the flow's source in, train in full, judge and promote: what Dagster's runs do, without Dagster."""
    project = load_project()
    found = project.flow(flow)
    store = FeatureStore(found, root=project.root, home=project.home)
    registry = registry_of(project)
    take_in_all(found, store, root=project.root, home=project.home, now=SystemClock().now())
    version = train_full(found, store, registry)
    verdict = judge_and_promote(found, registry, version)
    if as_json:
        typer.echo(json.dumps({"version": version.version, "verdict": json.loads(verdict.to_json())}))
        return
    figures = ", ".join(f"{name} {value:.4g}" for name, value in sorted(version.metrics.items()))
    typer.echo(f"{flow}: version {version.version} learned {version.watermark} examples: {figures}")
    if verdict.accepted:
        typer.echo(f"it is in Production: modelflow serve {found.address} --tracking-uri {project.tracking_uri}")
    else:
        typer.echo(f"the gate refused it: {'; '.join(verdict.reasons)}")
        raise typer.Exit(1)


def promote(
    flow: FlowName,
    version: Annotated[int, typer.Argument(help="its number")],
    force: Annotated[bool, typer.Option("--force", help="past the gate, never past the verification")] = False,
    reason: Annotated[str, typer.Option(help="why the gate must not decide; recorded in the ledger")] = "",
    as_json: AsJson = False,
) -> None:
    """Let the gate judge a version, and serve it when it is accepted; or serve it by force, with a reason."""
    registry = opened(flow)
    if force != bool(reason.strip()):
        raise typer.BadParameter("expected --force and --reason together, or neither: the gate decides then")
    if force:
        say(registry.force_promote(flow, version, reason=reason), as_json=as_json)
        return
    found = registry.version(flow, version)
    if found.stage != "Production":
        judge_and_promote(load_project().flow(flow), registry, found)
    entry = registry.ledger.last(flow)
    say(entry, as_json=as_json)
    if entry.kind == "refuse":
        typer.echo(f"the gate refused it: {entry.why}", err=True)
        raise typer.Exit(1)

"""`modelflow check`, `run`, `tune`, `freshness`, `promote`, `card`: a flow tried, trained, judged without Dagster."""

import json
import tomllib
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from ml_core.clock import SystemClock, as_interval
from ml_core.data.ingest import take_in_all
from ml_core.data.store import FeatureStore
from ml_core.errors import ProjectError, PromotionError, VersionNotFoundError
from ml_core.flow.cli import AsJson, FlowName, chosen, opened, print_rows
from ml_core.flow.moving import say
from ml_core.flow.registry import registry_of
from ml_core.project import load_project
from ml_core.training.answers import Answers, table
from ml_core.training.card import CARD_FILE, files_of
from ml_core.training.freshness import freshness as sync_intervals
from ml_core.training.full import train_full
from ml_core.training.rebasing import settle
from ml_core.training.reproducing import reproduce as again
from ml_core.training.tasks import listed
from ml_core.training.trying import try_flow
from ml_core.training.tuning import grid_of
from ml_core.training.tuning import tune as tune_flow
from ml_core.typed import typed_instant

_TOLD = ("loss", "auc", "brier", "accuracy", "r2", "calibration_error")
_INTERVALS = ("never", "7 days", "1 day", "1 hour", "0 hours")


def check(
    flow: FlowName,
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
    flow: FlowName,
    as_json: Annotated[bool, typer.Option("--json", help="the version and its verdict as JSON")] = False,
) -> None:
    """Take the flow's source in, train in full, judge and promote: what Dagster's runs do, without Dagster."""
    project = load_project()
    found = project.flow(flow)
    store = FeatureStore(found, root=project.root, home=project.home)
    registry = registry_of(project)
    typer.echo(f"{flow}: taking its source in ...", err=True)
    take_in_all(found, store, root=project.root, home=project.home, now=SystemClock().now())
    typer.echo(f"{flow}: training; {store.progress().next_example:,} examples are labelled ...", err=True)
    version = train_full(found, store, registry)
    typer.echo(f"{flow}: judging version {version.version} ...", err=True)
    version, verdict = settle(found, store, registry, version)
    if as_json:
        typer.echo(json.dumps({"version": version.version, "verdict": json.loads(verdict.to_json())}))
    else:
        learned = f"learned {version.watermark:,} examples: {listed(version.metrics)}"
        typer.echo(f"{flow}: version {version.version} {learned}")
        if verdict.accepted:
            typer.echo(f"it is in Production: modelflow serve {found.address} --tracking-uri {project.tracking_uri}")
        else:
            typer.echo(f"the gate refused it: {'; '.join(verdict.reasons)}")
    if not verdict.accepted:
        raise typer.Exit(1)


def tune(
    flow: FlowName,
    values: Annotated[
        list[str] | None,
        typer.Option("--try", metavar="NAME=V,V", help="values of a hyper-parameter; may be repeated"),
    ] = None,
    newest: Annotated[int | None, typer.Option(help="learn only so many of the newest examples", min=2)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object per configuration")] = False,
) -> None:
    """Let several configurations learn a flow's examples side by side, in one pass; nothing is published."""
    project = load_project()
    found = project.flow(flow)
    store = FeatureStore(found, root=project.root, home=project.home)
    grid = grid_of(found, store, dict(_values(each) for each in values or ()))
    ranked = tune_flow(found, store, grid, newest=newest)
    if as_json:
        for each in ranked:
            typer.echo(json.dumps(asdict(each)))
        return
    typer.echo(f"{'loss':>9}  {'newer half':>10}  in place of the flow's own")
    for each in ranked:
        shown = ", ".join(f"{name} = {json.dumps(value)}" for name, value in each.changed.items()) or "(as it is)"
        why = f": {each.failure}" if each.failure else ""
        typer.echo(f"{each.loss:9.5f}  {each.late_loss:10.5f}  {shown}{why}")
    if ranked[0].changed:
        lines = "\n".join(f"{name} = {json.dumps(value)}" for name, value in ranked[0].changed.items())
        typer.echo(f"\nlowest loss; in dagster_project.toml:\n[flows.{flow}.pipeline.estimator]\n{lines}")
    else:
        typer.echo("\nnone of them lost less than the flow's own configuration")


def freshness(
    flow: FlowName,
    every: Annotated[
        list[str] | None,
        typer.Option(help="a sync interval such as '1 day', 'never', or '0 hours' for at once; may be repeated"),
    ] = None,
    since: Annotated[str | None, typer.Option(help="where the history ends; half of the examples by default")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object per interval")] = False,
) -> None:
    """Show what fresher models would be worth: the history served again under several sync intervals."""
    project = load_project()
    found = project.flow(flow)
    store = FeatureStore(found, root=project.root, home=project.home)
    try:
        intervals = [as_interval(text) for text in every or _INTERVALS]
    except ValueError as error:
        raise typer.BadParameter(f"expected --every '1 day', '0 hours' or never: {error}") from error
    start = None if since is None else typed_instant(since)
    compared = sync_intervals(found, store, intervals, since=start)
    if as_json:
        for each in compared:
            seconds = None if each.every is None else each.every.total_seconds()
            typer.echo(json.dumps({"every_s": seconds} | each.figures))
        return
    names = [name for name in _TOLD if name in compared[0].figures]
    typer.echo(f"{compared[0].figures['rows']:.0f} rows, each scored by what was known when it was asked about")
    typer.echo("  ".join([f"{'labels reach the model':<22}", *(f"{name:>17}" for name in names)]))
    for each in compared:
        figures = (f"{each.figures.get(name, float('nan')):17.5f}" for name in names)
        typer.echo("  ".join([f"{_told(each.every):<22}", *figures]))


def _told(every: timedelta | None) -> str:
    if not every:
        return "never" if every is None else "as soon as known"
    hours = every / timedelta(hours=1)
    return f"every {hours / 24:g} d" if hours >= 24 else f"every {hours:g} h"  # noqa: PLR2004 - hours of a day


def _values(text: str) -> tuple[str, list[Any]]:
    """Read ``name=1,2,3`` as a name and the values as TOML would read them."""
    name, _, values = text.partition("=")
    try:
        return name.strip(), tomllib.loads(f"values = [{values}]")["values"]
    except tomllib.TOMLDecodeError as error:
        raise typer.BadParameter(
            f'expected --try NAME=V,V, such as alpha=0.1,0.2 or optimizer="adam", found {text!r}'
        ) from error


def card(
    flow: FlowName,
    version: Annotated[int | None, typer.Argument(help="its number; by default the champion")] = None,
    into: Annotated[Path | None, typer.Option(help="a folder for the card and its charts, as SVG files")] = None,
    as_json: AsJson = False,
) -> None:
    """Print the model card of a version as markdown."""
    registry = opened(flow)
    found = chosen(registry, flow, version)
    written = files_of(registry, found)
    if into is not None:
        into.mkdir(parents=True, exist_ok=True)
        for name, content in written.items():
            (into / name).write_text(content, encoding="utf-8")
    text = written[CARD_FILE]
    typer.echo(json.dumps({"flow": flow, "version": found.version, "card": text}) if as_json else text)


def reproduce(
    flow: FlowName,
    version: Annotated[int | None, typer.Argument(help="its number; by default the champion")] = None,
    at: Annotated[str | None, typer.Option(help="the version that served then, such as 2013-10-01T12:00")] = None,
    as_json: AsJson = False,
) -> None:
    """Train a past version again from recorded inputs, and say whether it is the same, bit for bit."""
    project, registry = load_project(), opened(flow)
    found = project.flow(flow)
    if at is not None:
        if version is not None:
            raise typer.BadParameter("expected a version or --at, found both")
        version = registry.ledger.at(flow, typed_instant(at)).champion
        if version is None:
            raise VersionNotFoundError(f"{flow} served no version at {at}; see `modelflow history {flow}`")
    of = chosen(registry, flow, version)
    made = again(found, FeatureStore(found, root=project.root, home=project.home), registry, of)
    if as_json:
        typer.echo(json.dumps(asdict(made) | {"same": made.same}))
    elif made.same:
        ranges = ", ".join(f"[{first:,}, {stop:,})" for first, stop in made.learned)
        typer.echo(f"{flow}: version {made.version} is the same, bit for bit, when examples {ranges} are learned again")
        typer.echo(f"manifest sha256 {made.manifest_sha256}")
    else:
        for name, (then, now) in made.differs.items():
            typer.echo(
                f"{flow}: version {made.version}: {name} was {then[:12] or 'not there'}, is {now[:12] or 'not there'}"
            )
    if not made.same:
        raise typer.Exit(1)


def answers(flow: FlowName, as_json: AsJson = False) -> None:
    """Tell how each version did on the requests it answered, by the labels known since; score some of them again."""
    project = load_project()
    found = project.flow(flow)
    if found.serving.prediction_log is None:
        raise ProjectError(
            f"flow {flow}: expected prediction_log under [flows.{flow}.serving], the sidecars' log folder"
        )
    log = Answers(found, FeatureStore(found, root=project.root, home=project.home))
    versions, parity = log.look(registry_of(project))
    print_rows(list(table(versions)), as_json=as_json)
    if as_json:
        typer.echo(json.dumps({"parity": asdict(parity)}))
    else:
        typer.echo(f"{parity.rows} rows scored again, {parity.mismatched} did not agree {'; '.join(parity.reasons)}")
    if parity.mismatched:
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
    found, ledger = registry.version(flow, version), registry.ledger
    if found.stage == "Production":
        say(ledger.became(flow, version), as_json=as_json)
        return
    if ledger.served(flow, version):
        raise PromotionError(
            f"{flow}: version {version} has served before and is not judged again; to serve it again:"
            f" modelflow rollback {flow} --to {version} --reason ..."
        )
    project = load_project()
    store = FeatureStore(project.flow(flow), root=project.root, home=project.home)
    judged, verdict = settle(project.flow(flow), store, registry, found)
    say(next(entry for entry in reversed(ledger.entries(flow)) if entry.version == judged.version), as_json=as_json)
    if not verdict.accepted:
        typer.echo(f"the gate refused it: {'; '.join(verdict.reasons)}", err=True)
        raise typer.Exit(1)

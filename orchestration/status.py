"""`modelflow status`: what every flow of the project serves, how far it is behind, and what its runs and checks said.

The same as Dagster and MLflow show, in one place; nothing is changed, and no process of the platform has to run.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import dagster as dg
import typer
from dagster._core.scheduler.instigation import InstigatorStatus
from dagster._utils.schedules import cron_string_iterator
from rich.console import Console
from rich.table import Table

from ml_core.clock import SystemClock
from ml_core.data.store import FeatureStore
from ml_core.flow.registry import Registry, registry_of
from ml_core.flow.version import ModelVersion
from ml_core.project import Flow, Project, load_project
from orchestration.assets.names import drift_keys, key
from orchestration.checks import flow_checks
from orchestration.jobs import job_name

_JOBS = ("take_in", "ingest", "incremental_training", "full_training", "live_check", "drift", "rollback")


@dataclass(frozen=True, slots=True)
class Run:
    """The last run of a job: when it was asked for, how it stands, and why it was asked for."""

    job: str
    status: str
    asked_at: datetime
    run_id: str


@dataclass(frozen=True, slots=True)
class Serving:
    """A version of a flow, and what the gate said of it."""

    version: int
    kind: str
    created_at: datetime | None
    trained_through: datetime
    gate: str

    @classmethod
    def of(cls, version: ModelVersion) -> "Serving":
        """Describe a version."""
        verdict = version.verdict
        said = "not judged yet" if verdict is None else f"accepted, {verdict.policy} on {verdict.rows:,} rows"
        if verdict is not None and not verdict.accepted:
            said = f"refused: {'; '.join(verdict.reasons)}"
        return cls(version.version, version.kind, version.created_at, version.trained_through, said)


@dataclass(frozen=True, slots=True)
class FlowStatus:
    """One flow at one instant.

    Attributes
    ----------
    health : str
        ``ok``, ``attention``, ``empty`` before its first version, or ``broken`` where its tables cannot be read.
    reasons : list of str
        What wants attention.
    serves, newest : Serving or None
        The version in Production, and the one published last.
    serves_since : datetime or None
    lag_rows : int
        Examples that were labelled and the served version has not learned.
    staleness_s : float or None
        How far the served version is behind the newest label, in the flow's own time.
    clock : datetime or None
        The instant through which facts are complete.
    runs : list of Run
        The last one of each job.
    failing_checks : list of str
    next_full_training : datetime or None
        None where the schedule was stopped.
    """

    flow: str
    health: str
    reasons: list[str] = field(default_factory=list)
    serves: Serving | None = None
    newest: Serving | None = None
    serves_since: datetime | None = None
    lag_rows: int = 0
    staleness_s: float | None = None
    clock: datetime | None = None
    runs: list[Run] = field(default_factory=list)
    failing_checks: list[str] = field(default_factory=list)
    next_full_training: datetime | None = None


def status(
    flow: Annotated[str | None, typer.Argument(help="one flow; by default all")] = None,
    dagster_home: Annotated[
        Path | None, typer.Option(envvar="DAGSTER_HOME", help="where Dagster keeps its runs; by default below `var/`")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object per flow")] = False,
) -> None:
    """Show how every flow stands: version, lag, runs, checks, next training."""
    broken: dict[str, str] = {}
    project = load_project(broken=broken)
    if flow is not None and flow not in broken:
        project.flow(flow)
    console = Console()
    with _instance(dagster_home or project.home / "dagster") as instance:
        for each in statuses(project, instance, now=SystemClock().now(), broken=broken):
            if flow not in {None, each.flow}:
                continue
            if as_json:
                typer.echo(json.dumps(asdict(each), default=datetime.isoformat))
            else:
                _show(console, project, each)


def statuses(
    project: Project, instance: dg.DagsterInstance | None, *, now: datetime, broken: dict[str, str]
) -> Iterator[FlowStatus]:
    """Yield the status of every flow; of those in `broken`, which could not be read, the reason.

    Parameters
    ----------
    instance : DagsterInstance or None
        None where Dagster has not run yet.
    """
    for name, reason in broken.items():
        yield FlowStatus(name, "broken", [reason])
    registry = registry_of(project)
    for flow in project.flows.values():
        yield _status(flow, FeatureStore(flow, root=project.root, home=project.home), registry, instance, now=now)


def _status(
    flow: Flow, store: FeatureStore, registry: Registry, instance: dg.DagsterInstance | None, *, now: datetime
) -> FlowStatus:
    progress, head = store.progress(), registry.head(flow.name)
    newest = registry.versions(flow.name, newest=1)
    runs = [] if instance is None else list(_last_runs(flow, instance))
    failing = [] if instance is None else list(_failing(flow, instance))
    stopped = instance is not None and _is_stopped(flow, instance)
    reasons = [f"the last run of {run.job} failed ({run.run_id[:8]})" for run in runs if run.status == "failure"]
    reasons += [f"the check {name} fails" for name in failing if not name.endswith("(warning)")]
    behind = since = None
    if stopped:
        reasons.append(f"the schedule {flow.name}_nightly is stopped")
    if head is not None:
        since = registry.ledger.became(flow.name, head.version).settled_at
        if progress.labelled_through is not None:
            behind = max(progress.labelled_through - head.trained_through, timedelta(0))
        if behind is not None and flow.incremental_training.max_age is not None:
            limit = flow.incremental_training.max_age
            reasons += [f"{_about(behind)} behind the newest label, at most {_about(limit)} wanted"] * (behind > limit)
    return FlowStatus(
        flow=flow.name,
        health="attention" if reasons else "empty" if head is None else "ok",
        reasons=reasons,
        serves=None if head is None else Serving.of(head),
        newest=Serving.of(newest[-1]) if newest else None,
        serves_since=since,
        lag_rows=progress.next_example - (0 if head is None else head.next_example),
        staleness_s=None if behind is None else behind.total_seconds(),
        clock=progress.clock,
        runs=runs,
        failing_checks=failing,
        next_full_training=None if stopped else next_tick(flow, now),
    )


def next_tick(flow: Flow, after: datetime) -> datetime:
    """Return the next instant of a flow's nightly schedule, as Dagster's daemon works it out."""
    settings = flow.full_training
    ticks = cron_string_iterator(after.timestamp(), settings.cron, settings.time_zone)
    return next(tick for tick in ticks if tick > after)


def _last_runs(flow: Flow, instance: dg.DagsterInstance) -> Iterator[Run]:
    for what in _JOBS:
        for record in instance.get_run_records(dg.RunsFilter(job_name=job_name(flow, what)), limit=1):
            asked, run = record.create_timestamp, record.dagster_run
            yield Run(what, run.status.value.lower(), asked.replace(tzinfo=asked.tzinfo or UTC), run.run_id)


def _failing(flow: Flow, instance: dg.DagsterInstance) -> Iterator[str]:
    keys = [each for check in flow_checks(flow) for each in check.check_keys]
    for each in [*keys, *drift_keys(flow), dg.AssetCheckKey(key(flow, "served_model"), "gate")]:
        record = instance.get_latest_asset_check_evaluation_record(each)
        found = record and record.event and record.event.asset_check_evaluation
        if found and not found.passed:
            yield f"{each.name}{'' if found.severity == dg.AssetCheckSeverity.ERROR else ' (warning)'}"


def _is_stopped(flow: Flow, instance: dg.DagsterInstance) -> bool:
    if instance.schedule_storage is None:  # as in memory
        return False
    states = instance.all_instigator_state(instigator_statuses={InstigatorStatus.STOPPED})
    return any(state.name == f"{flow.name}_nightly" for state in states)


@contextmanager
def _instance(home: Path) -> Iterator[dg.DagsterInstance | None]:
    """Open the Dagster instance of a folder, without making one."""
    if not (home / "dagster.yaml").exists():
        yield None
        return
    with dg.DagsterInstance.from_config(str(home)) as instance:
        yield instance


def _show(console: Console, project: Project, found: FlowStatus) -> None:
    now, colour = SystemClock().now(), {"ok": "green", "empty": "cyan"}.get(found.health, "red")
    console.print(f"[bold]{found.flow}[/bold]  [{colour}]{found.health}[/{colour}]")
    rows = [("wants", reason) for reason in found.reasons]
    if found.health != "broken":
        rows += _rows(project.flow(found.flow), found, now)
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in rows:
        table.add_row(f"  {name}", value, style=None)
    console.print(table, markup=False)


def _rows(flow: Flow, found: FlowStatus, now: datetime) -> Iterator[tuple[str, str]]:
    if found.serves is None:
        yield "serves", "nothing yet"
    else:
        since = "" if found.serves_since is None else f", for {_about(now - found.serves_since)}"
        age = "" if found.serves.created_at is None else f", trained {_about(now - found.serves.created_at)} ago"
        yield "serves", f"version {found.serves.version} ({found.serves.kind}){since}{age}"
        yield "gate", found.serves.gate
    if found.newest is not None and found.newest != found.serves:
        yield "newest", f"version {found.newest.version} ({found.newest.kind}), {found.newest.gate}"
    wanted = f"{flow.incremental_training.min_rows:,} start an increment"
    yield "lag", f"{found.lag_rows:,} labelled examples not learned; {wanted}"
    if found.staleness_s is not None:
        yield "staleness", f"{_about(timedelta(seconds=found.staleness_s))} behind the newest label"
    yield "facts", "none yet" if found.clock is None else f"complete through {found.clock:%Y-%m-%d %H:%M} UTC"
    runs = (f"{run.job} {run.status} {_about(now - run.asked_at)} ago" for run in found.runs)
    yield "last runs", " · ".join(runs) or "none"
    if found.failing_checks:
        yield "checks", f"failing: {', '.join(found.failing_checks)}"
    if found.next_full_training is not None:
        shown = f"{found.next_full_training:%a %Y-%m-%d %H:%M %Z}"
        yield "next", f"full training {shown}, in {_about(found.next_full_training - now)}"


def _about(length: timedelta) -> str:
    minutes = round(length.total_seconds() / 60)
    days, hours = divmod(minutes // 60, 24)
    return f"{days} d {hours} h" if days else f"{hours} h {minutes % 60} min" if hours else f"{minutes} min"

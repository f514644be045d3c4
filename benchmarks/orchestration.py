"""`make bench-orchestration`: seconds from enough new rows to a promoted version, by phase, under a real daemon.

A home of its own holds two months of flights and a first version; Dagster's daemon runs with every sensor and schedule
on, on an instance set up as `make up` does. Then a week of flights is absorbed, three times over, and each time the
clock runs from the end of the absorption until the ledger says that the increment serves. The phases are read off
Dagster's own event log. First with all steps in the run's process, then with a process for each.
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import dagster as dg

from benchmarks.report import Row, bound, write
from ml_core.data.replay import Replay, load_facts
from ml_core.data.store import FeatureStore
from ml_core.flow.registry import Registry, registry_of
from ml_core.project import Flow, Project, load_project
from ml_core.training import judge_and_promote, train_full
from orchestration.jobs import job_name
from orchestration.processes import Supervisor
from orchestration.up import DAGSTER_YAML

FLOW = "flight_delays"
LOCATIONS = {"in process": "orchestration.definitions", "multiprocess": "benchmarks.multiprocess"}
PHASES = (
    "rows are there → the sensor asks for a run",
    "asked → the run's process is up",
    "process up → the training step starts",
    "the training step",
    "between the steps",
    "served_model starts → promoted",
)
START, HISTORY, WEEK = datetime(2013, 1, 1, tzinfo=UTC), timedelta(days=59), timedelta(days=7)
WEEKS, PATIENCE_S, QUIET_S = 3, 600.0, 3.0
UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
]


def main() -> None:
    """Measure both executors and write the table."""
    measured = {name: medians(list(increments(module))) for name, module in LOCATIONS.items()}
    write("orchestration", list(rows(measured["in process"], measured["multiprocess"])))


def rows(ours: Mapping[str, float], peer: Mapping[str, float]) -> Iterator[Row]:
    """Yield a row per phase and one for the whole; the peer is the multiprocess executor."""
    for name in (*PHASES, "enough new rows → promoted"):
        yield bound(name, ours[name], "s", None, peer=peer[name])


def medians(found: list[dict[str, float]]) -> dict[str, float]:
    """Return the median of each phase and of their sum."""
    whole = [sum(each.values()) for each in found]
    print(json.dumps([round(each, 1) for each in whole]), file=sys.stderr)
    phases = {name: statistics.median(each[name] for each in found) for name in PHASES}
    return phases | {"enough new rows → promoted": statistics.median(whole)}


def increments(module: str) -> Iterator[dict[str, float]]:
    """Let weeks pass under a daemon of its own; yield the seconds of each phase of each increment."""
    with tempfile.TemporaryDirectory(prefix="modelflow-bench-") as scratch:
        home = Path(scratch)
        project = load_project(environment={"MODELFLOW_HOME": scratch})
        flow = project.flow(FLOW)
        store, registry = FeatureStore(flow, root=project.root, home=home), registry_of(project)
        replay = Replay(load_facts(flow, home))
        _take_in(replay, store, START + HISTORY)
        judge_and_promote(flow, registry, train_full(flow, store, registry))
        (home / "dagster.yaml").write_text(DAGSTER_YAML, encoding="utf-8")
        with dg.DagsterInstance.from_config(scratch) as instance, Supervisor(home) as supervisor:
            _start_daemon(project, home, supervisor, module)
            supervisor.wait_until("dagster-daemon", lambda: _is_idle(flow, instance), timeout_s=PATIENCE_S)
            for week in range(1, WEEKS + 1):
                _take_in(replay, store, START + HISTORY + week * WEEK)
                yield _follow(flow, instance, registry, supervisor, since=time.time())
                supervisor.wait_until("dagster-daemon", lambda: _is_idle(flow, instance), timeout_s=PATIENCE_S)


def _start_daemon(project: Project, home: Path, supervisor: Supervisor, module: str) -> None:
    workspace = home / "workspace.yaml"
    workspace.write_text(
        f"load_from:\n  - python_module: {{module_name: {module}, attribute: defs, location_name: modelflow}}\n",
        encoding="utf-8",
    )
    daemon = [str(Path(sys.executable).with_name("dagster-daemon")), "run", "-w", str(workspace)]
    places = {"DAGSTER_HOME": str(home), "MODELFLOW_HOME": str(home), "PYTHONPATH": str(project.root)}
    supervisor.start("dagster-daemon", daemon, environment=places, folder=project.root)


def _take_in(replay: Replay, store: FeatureStore, until: datetime) -> None:
    replay.ingest(store.log, until)
    store.absorb()


def _is_idle(flow: Flow, instance: dg.DagsterInstance) -> bool:
    """Say whether the days so far are materialised and no run has been going on for a while."""
    if instance.get_run_records(dg.RunsFilter(statuses=UNFINISHED), limit=1):
        return False
    last = instance.get_run_records(limit=1)
    ingested = instance.get_run_records(dg.RunsFilter(job_name=job_name(flow, "ingest")), limit=1)
    return bool(ingested) and time.time() - (last[0].end_time or time.time()) > QUIET_S


def _follow(
    flow: Flow, instance: dg.DagsterInstance, registry: Registry, supervisor: Supervisor, *, since: float
) -> dict[str, float]:
    """Wait for the increment of what was absorbed at `since`; return how long each phase took, in seconds."""
    wanted = dg.RunsFilter(
        job_name=job_name(flow, "incremental_training"),
        created_after=datetime.fromtimestamp(since, UTC),
        statuses=[dg.DagsterRunStatus.SUCCESS],
    )
    supervisor.wait_until(
        "dagster-daemon", lambda: bool(instance.get_run_records(wanted, limit=1)), timeout_s=PATIENCE_S
    )
    (record,) = instance.get_run_records(wanted, limit=1)
    at: dict[str, float] = {}
    for entry in instance.all_logs(record.dagster_run.run_id):
        if entry.dagster_event is not None:
            at.setdefault(f"{entry.dagster_event.event_type_value} {entry.step_key or ''}".strip(), entry.timestamp)
    promoted = registry.ledger.last(flow.name).settled_at
    if promoted is None or promoted.timestamp() < since:
        raise RuntimeError(f"run {record.dagster_run.run_id} promoted nothing; the gate refused this week")
    trained, served = f"{flow.name}__incremental_model", f"{flow.name}__served_model"
    instants = [
        since,
        record.create_timestamp.replace(tzinfo=record.create_timestamp.tzinfo or UTC).timestamp(),
        at["PIPELINE_START"],
        at[f"STEP_START {trained}"],
        at[f"STEP_SUCCESS {trained}"],
        at[f"STEP_START {served}"],
        promoted.timestamp(),
    ]
    lengths = (after - before for before, after in pairwise(instants))
    return dict(zip(PHASES, lengths, strict=True))


if __name__ == "__main__":
    main()

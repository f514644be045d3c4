"""`modelflow demo`: eight months are learned, four are lived through, and a report says what came of it.

January to August are ingested and learned in one full training, run by Dagster and promoted through the gate; the
sidecar starts from the registry; then the autumn is replayed. The demo starts clean every time: whatever an
earlier one left, processes or files, is removed first.
"""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import typer
from rich.console import Console

from ml_core.data.replay import Replay
from ml_core.data.store import FeatureStore
from ml_core.errors import PlatformError
from ml_core.flow.registry import Registry
from ml_core.project import Flow, Project, load_project
from orchestration.definitions import build_definitions
from orchestration.demo import picture, report
from orchestration.demo.caller import Answers, Caller, feature_columns
from orchestration.demo.runs import Runs
from orchestration.demo.story import learn_when_due, live_through, moments_between, wait_until_served
from orchestration.processes import Supervisor, free_port, mlflow_server, sidecar

FLOW = "flight_delays"
_TRAIN_UNTIL = "2013-09-01"
_REPLAY_UNTIL = "2014-01-01"


def demo(
    train_until: Annotated[str, typer.Option(help="learn the facts known before this day first")] = _TRAIN_UNTIL,
    replay_until: Annotated[str, typer.Option(help="then live through the days before this one")] = _REPLAY_UNTIL,
) -> None:
    """Run the main job on the real year, finite, and end with a report in var/demo/report.json."""
    console = Console()
    project = load_project()
    home = project.home / "demo"
    console.print(f"[bold]Model Flow demo[/bold]: everything it makes lies in {home}")
    supervisor = Supervisor(home)
    supervisor.reap()
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    with supervisor:
        outcome = _Demo(project, home, supervisor, console).run(_day(train_until), _day(replay_until))
    report.show(outcome, console)
    console.print(f"Report {home / 'report.json'}, picture {home / 'live-vs-frozen.png'}.")
    console.print("`make up` runs the same flow as a platform, with the Dagster and MLflow pages.")
    if outcome["requests"]["failed"]:
        raise PlatformError(f"{outcome['requests']['failed']} requests failed; the first: {outcome['failures'][0]}")


class _Demo:
    """The demo's parts, wired once: a home of its own, a registry, a sidecar, a Dagster instance."""

    def __init__(self, project: Project, home: Path, supervisor: Supervisor, console: Console) -> None:
        self._home = home
        self._supervisor = supervisor
        self._console = console
        self._seconds: dict[str, float] = {}
        with self._phase("start the registry"):
            tracking_uri = mlflow_server(supervisor, home, free_port())
        environment = {"MODELFLOW_HOME": str(home), "MLFLOW_TRACKING_URI": tracking_uri}
        self._project = load_project(project.root, environment=environment)
        self._flow: Flow = self._project.flow(FLOW)
        self._store = FeatureStore(self._flow, root=self._project.root, home=home)
        self._registry = Registry(tracking_uri)

    def run(self, train_until: datetime, replay_until: datetime) -> dict[str, Any]:
        """Tell the whole story and return the report."""
        with self._phase("read the year's facts"):
            module, _, function = self._flow.data.loader.partition(":")
            facts = getattr(import_module(module), function)(self._project.home)
            replay = Replay(facts)
        with self._phase("ingest the history"):
            replay.ingest(self._store.log, train_until)
            absorbed = self._store.absorb()
            self._console.print(f"  {absorbed}")
        with runs_against(self._project, self._home) as runs:
            with self._phase("train the first version in a Dagster run"):
                runs.execute(f"{FLOW}_ingest", partition_days=(self._flow.data.starts, train_until.date()))
                runs.execute(f"{FLOW}_full_training")
            with self._phase("start the sidecar"):
                port = sidecar(self._supervisor, self._flow, self._project.tracking_uri, free_port())
                caller = Caller(port)
                wait_until_served(caller, 1)
            with self._phase("replay, serve and learn"):
                self._replay(replay, facts, caller, runs, train_until, replay_until)
            with self._phase("wait for the last outcomes"):
                replay.ingest(self._store.log, None)
                self._store.absorb()
            with self._phase("score the frozen version and report"):
                return self._report(caller.answers, runs, replay_until)

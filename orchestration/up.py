"""`modelflow up`: the long-running platform on loopback, until Ctrl-C.

MLflow server, Dagster webserver and daemon, one sidecar per flow, and for every flow with a finite source a replay that
keeps feeding it: the first time with its first part at once. The flow's own sensors and schedule do the rest, the first
full training included. A flow that reads a table is fed by whoever writes the table. All processes are children that
cannot outlive this one.
"""

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from threading import Event
from types import FrameType

import dagster as dg
from rich.console import Console

from ml_core.data.replay import Replay, load_facts
from ml_core.data.store import FeatureStore
from ml_core.errors import ModelFlowError
from ml_core.project import Flow, Project, day_start, load_project
from orchestration.processes import (
    Supervisor,
    answers,
    require_free,
    start_mlflow,
    start_sidecar,
    wait_for_mlflow,
)

_STEP = timedelta(minutes=15)
_HISTORY = 2 / 3  # of a finite source is there from the start; the rest is played

DAGSTER_YAML = """\
telemetry:
  enabled: false
concurrency:
  pools:
    default_limit: 1
  runs:
    max_concurrent_runs: 4
run_monitoring:
  enabled: true
  start_timeout_seconds: 180
"""


def up() -> None:
    """Run the platform until Ctrl-C."""
    console = Console()
    project = load_project()
    with Supervisor(project.home) as supervisor:
        left = supervisor.reap()
        if left:
            console.print(f"ended {left} processes an earlier run left behind")
        platform = Platform(project, supervisor, console)
        with _until_told_to_end():
            platform.start()
            platform.feed()
    console.print("stopped")


class Platform:
    """The processes of one project."""

    def __init__(self, project: Project, supervisor: Supervisor, console: Console) -> None:
        self._project = project
        self._supervisor = supervisor
        self._console = console
        self._ports = project.platform

    def start(self) -> None:
        """Start everything and print where it is; raise PlatformError for a port that is taken, before any start."""
        flows = self._project.flows.values()
        sidecars = {flow.name: self._ports.sidecar_port + index for index, flow in enumerate(flows)}
        require_free(
            [
                ("dagster_port", self._ports.dagster_port),
                ("mlflow_port", self._ports.mlflow_port),
                *(("sidecar_port", port) for port in sidecars.values()),
            ]
        )
        tracking_uri = start_mlflow(self._supervisor, self._project.home, self._ports.mlflow_port)
        environment = {
            "DAGSTER_HOME": str(self._dagster_home()),
            "MODELFLOW_HOME": str(self._project.home),
            "MLFLOW_TRACKING_URI": tracking_uri,
        }
        workspace = str(self._project.root / "workspace.yaml")
        webserver = ["-m", "dagster_webserver", "-h", "127.0.0.1", "-p", str(self._ports.dagster_port), "-w", workspace]
        self._supervisor.start(
            "dagster-webserver",
            [sys.executable, *webserver],
            environment=environment,
            folder=self._project.root,
        )
        self._supervisor.start(
            "dagster-daemon",
            [str(Path(sys.executable).with_name("dagster-daemon")), "run", "-w", workspace],
            environment=environment,
            folder=self._project.root,
        )
        wait_for_mlflow(self._supervisor, self._ports.mlflow_port)
        for flow in flows:
            start_sidecar(self._supervisor, flow, tracking_uri, home=self._project.home, port=sidecars[flow.name])
        self._supervisor.wait_until(
            "dagster-webserver", lambda: answers(self._ports.dagster_port, "/server_info"), timeout_s=120
        )
        self._console.print(f"Dagster  http://127.0.0.1:{self._ports.dagster_port}")
        self._console.print(f"MLflow   {tracking_uri}")
        for name, port in sidecars.items():
            self._console.print(f"sidecar  http://127.0.0.1:{port}  ({name})")

    def feed(self) -> None:
        """Play the sources of the flows for as long as they last, and then just wait; ends by an exception alone."""
        flows = [flow for flow in self._project.flows.values() if flow.data.loader is not None]
        feeds = [_Feed(self._project, flow, self._console) for flow in flows]
        for feed in feeds:
            feed.begin()
        self._console.print("Ctrl-C stops everything.")
        pause_s = _STEP / timedelta(hours=1) / self._ports.replay_hours_per_second
        while True:
            time.sleep(pause_s)
            self._supervisor.check()
            for feed in feeds:
                feed.step()

    def _dagster_home(self) -> Path:
        folder = self._project.home / "dagster"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "dagster.yaml").write_text(DAGSTER_YAML, encoding="utf-8")
        with dg.DagsterInstance.from_config(str(folder)):
            return folder  # its tables are there now; webserver and daemon would race to make them


class _Feed:
    """One flow's source, played from where its log stands."""

    def __init__(self, project: Project, flow: Flow, console: Console) -> None:
        self.flow = flow
        self._console = console
        self._store = FeatureStore(flow, root=project.root, home=project.home)
        self._replay = Replay(load_facts(flow, project.home))

    def begin(self) -> None:
        """Ingest the history when the log is empty."""
        if self._store.progress().clock is not None:
            return
        start = day_start(self.flow.data.starts)
        days = (self._replay.end - start) * _HISTORY // timedelta(days=1)
        self._console.print(f"{self.flow.name}: ingesting the first {days} days")
        self._take_in(start + timedelta(days=days))

    def step(self) -> None:
        """Let the flow's clock move on; a failure is shown and tried again at the next step."""
        clock = self._store.progress().clock
        if clock is None or clock >= self._replay.end:
            return
        try:
            self._take_in(clock + _STEP)
        except ModelFlowError as error:
            self._console.print(f"{self.flow.name}: {error}")

    def _take_in(self, until: datetime) -> None:
        self._replay.ingest(self._store.log, until)
        self._store.absorb()


@contextmanager
def _until_told_to_end() -> Iterator[None]:
    """Let Ctrl-C and TERM end what goes on within, at any moment: it goes on from there when it is started again."""
    told = Event()

    def end(_number: int, _frame: FrameType | None) -> None:
        told.set()
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    try:
        yield
    except (KeyboardInterrupt, RuntimeError):  # DuckDB makes the second of the first
        if not told.is_set():
            raise

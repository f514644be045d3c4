"""`modelflow demo`: eight months are learned, four are lived through, and a report says what came of it.

January to August are ingested and learned in one full training, run by Dagster and promoted through the gate; the
sidecar starts from the registry; then the autumn is replayed. The demo starts clean every time: whatever an
earlier one left, processes or files, is removed first.
"""

import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import dagster as dg
import numpy as np
import pyarrow as pa
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from ml_core.data.replay import Replay, load_facts
from ml_core.data.store import FeatureStore
from ml_core.errors import PlatformError
from ml_core.flow.registry import registry_of
from ml_core.project import Flow, Project, load_project
from ml_core.typed import typed_instant
from orchestration.definitions import build_definitions
from orchestration.demo import picture, report
from orchestration.demo.caller import Answers, Caller
from orchestration.demo.runs import Runs
from orchestration.demo.story import learn_when_due, live_through, moments_between, wait_until_served
from orchestration.demo.streaming import stream
from orchestration.processes import Supervisor, free_port, start_mlflow, start_sidecar, wait_for_mlflow
from orchestration.resources import platform_of

FLOW = "flight_delays"
_TRAIN_UNTIL = "2013-09-01"
_REPLAY_UNTIL = "2014-01-01"


def demo(
    train_until: Annotated[str, typer.Option(help="learn the facts known before this day first")] = _TRAIN_UNTIL,
    replay_until: Annotated[str, typer.Option(help="then live through the days before this one")] = _REPLAY_UNTIL,
) -> None:
    """Replay the flights of 2013 and write a report, var/demo/report.json."""
    start, end = typed_instant(train_until), typed_instant(replay_until)
    console = Console()
    project = load_project()
    home = project.home / "demo"
    console.print(f"[bold]Model Flow demo[/bold]: everything it makes lies in {home}")
    supervisor = Supervisor(home)
    supervisor.reap()
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    with supervisor:
        outcome = _Demo(project, home, supervisor, console).run(start, end)
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
        self._mlflow_port = free_port()
        tracking_uri = start_mlflow(
            supervisor, home, self._mlflow_port
        )  # it takes its time; the data is read meanwhile
        environment = {"MODELFLOW_HOME": str(home), "MLFLOW_TRACKING_URI": tracking_uri}
        self._project = load_project(project.root, environment=environment)
        self._sources = project.home
        self._flow: Flow = self._project.flow(FLOW)
        self._store = FeatureStore(self._flow, root=self._project.root, home=home)
        self._registry = registry_of(self._project)

    def run(self, train_until: datetime, replay_until: datetime) -> dict[str, Any]:
        """Tell the whole story and return the report."""
        with self._phase("read the year's facts"):
            facts = load_facts(self._flow, self._sources)
            replay = Replay(facts)
        with self._phase("ingest the history and build its features"):
            replay.ingest(self._store.log, train_until)
            self._store.absorb()
        with self._phase("wait for the registry"):
            wait_for_mlflow(self._supervisor, self._mlflow_port)
        with self._instance() as instance:
            runs = Runs(build_definitions(self._project), platform_of(self._project), instance)
            with self._phase("materialise the days and train the first version, in Dagster"):
                list(runs.tick(f"{FLOW}_new_days"))
                runs.execute(f"{FLOW}_full_training")
            with self._phase("stream the months to come through a broker, into a model that streams"):
                streamed = stream(
                    self._project, self._flow, self._registry, self._supervisor, facts,
                    since=train_until, until=replay_until + self._flow.data.label_window,
                )  # fmt: skip
            with self._phase("start the sidecar"):
                port = free_port()
                start_sidecar(self._supervisor, self._flow, self._project.tracking_uri, home=self._home, port=port)
                caller = Caller(port)
                wait_until_served(caller, 1)
            with self._phase("replay, serve and learn"):
                self._live(replay, facts, caller, runs, train_until, replay_until)
            with self._phase("wait for the last outcomes"):
                replay.ingest(self._store.log, replay_until + self._flow.data.label_window)
                self._store.absorb()
                list(runs.tick(f"{FLOW}_new_days"))
            with self._phase("compare with the frozen first version"):
                return self._report(caller.answers, streamed, runs, replay_until)

    def _live(  # noqa: PLR0917 - the parts of the story, each once
        self,
        replay: Replay,
        facts: Mapping[str, pa.Table],
        caller: Caller,
        runs: Runs,
        start: datetime,
        end: datetime,
    ) -> None:
        columns = (
            TextColumn("  {task.description}"),
            BarColumn(),
            TextColumn("{task.fields[day]}"),
            TimeElapsedColumn(),
        )
        with Progress(
            *columns,
            console=self._console,
        ) as progress:
            days = (end - start).days
            task = progress.add_task("one request per flight, before its outcome", total=days, day="")

            def show(clock: datetime) -> None:
                progress.update(task, completed=(clock - start).days, day=f"{clock:%Y-%m-%d}")

            live_through(
                self._store,
                replay,
                caller,
                moments=moments_between(self._flow, facts, start, end),
                tick=lambda let_go: learn_when_due(self._flow, self._registry, runs, caller, let_go),
                show=show,
            )

    def _report(self, answers: Answers, streamed: pa.Table, runs: Runs, end: datetime) -> dict[str, Any]:
        """Join what was served with the outcomes, and with what a sidecar pinned to version 1 says of the same rows."""
        rows = pa.concat_tables(answers.rows)
        port = free_port()
        first = f"models:/{FLOW}/1"
        start_sidecar(
            self._supervisor, self._flow, self._project.tracking_uri, home=self._home, port=port, address=first
        )
        frozen_caller = Caller(port)
        wait_until_served(frozen_caller, 1)
        frozen = frozen_caller.score_together(rows)
        versions = self._registry.versions(FLOW)
        examples = self._store.examples(versions[0].watermark, self._store.progress().next_example)
        served = report.Served.join(rows, answers.scores, frozen, examples)
        weeks = served.weeks(end)
        picture.draw(weeks, self._home / "live-vs-frozen.png")
        content = {
            "requests": report.request_counts(answers.versions, answers.failures),
            "versions": report.version_rows(versions, self._registry.ledger.entries(FLOW)),
            "weeks": weeks,
            "last_8_weeks": served.over(end, weeks=8),
            "all": served.over(end, weeks=52),
            "sync_intervals": served.beside(streamed),
            "failures": answers.failures[:20],
            "timing": {
                "seconds": self._seconds,
                "request_p50_ms": round(float(np.quantile(answers.latencies_s, 0.50)) * 1e3, 3),
                "request_p99_ms": round(float(np.quantile(answers.latencies_s, 0.99)) * 1e3, 3),
            },
            "ids": {
                "dagster_runs": runs.run_ids,
                "mlflow_runs": [version.mlflow_run_id for version in versions],
            },
        }
        report.write(content, self._home / "report.json")
        return content

    @contextmanager
    def _instance(self) -> Iterator[dg.DagsterInstance]:
        """Use a Dagster instance on disk, which `make up` could open as well."""
        folder = self._home / "dagster"
        folder.mkdir()
        (folder / "dagster.yaml").write_text("telemetry:\n  enabled: false\n", encoding="utf-8")
        with dg.DagsterInstance.from_config(str(folder)) as instance:
            yield instance

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        """Say what is done, and how long it took, on the console and in the report's `timing`."""
        self._console.print(f"[bold]{name}[/bold] ...")
        started = time.perf_counter()
        yield
        self._seconds[name] = round(time.perf_counter() - started, 2)
        self._console.print(f"  {self._seconds[name]:.1f} s")

"""The story of a deployment: it comes up, does its main job, loses every part in turn, and is none the worse for it."""

import http.client
import json
import signal
import threading
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from ml_core.data.replay import Replay, load_facts
from ml_core.data.store import FeatureStore
from ml_core.project import Flow, Project, day_start, load_project
from ml_core.streaming.broker import Broker
from scripts.deployed.cells import Cells
from scripts.deployed.compose import ROOT, read_services
from scripts.deployed.load import Callers, Facts
from scripts.deployed.standins import standin

_FLOW = "flight_delays"
_FIRST_DAYS = 45
_STEP = timedelta(hours=3)
_STEP_S = 1.0
_KILLED = (
    *("postgres", "kafka", "mlflow", "code", "webserver", "daemon", "ingest", "learn", "sidecar-a", "sidecar-b"),
    "prometheus",
)


@dataclass
class Report:
    """What was seen."""

    began: float = field(default_factory=time.monotonic)
    back_s: dict[str, float] = field(default_factory=dict)
    told: dict[str, Any] = field(default_factory=dict)

    def say(self, words: str) -> None:
        """Print what happens, and when."""
        print(f"[{time.monotonic() - self.began:6.1f} s] {words}", flush=True)


def tell(place: Path, environments: dict[str, Path]) -> None:
    """Run the story; exit with what was not as it should be."""
    services, subnet = read_services(place / "secrets")
    report = Report()
    cells = Cells(services, subnet, place, environments, standin)
    if cells.left_out:
        report.say(f"not run here, no program for it: {', '.join(cells.left_out)}")
    try:
        _Story(cells, place, report).run()
    finally:
        (place / "report.json").write_text(json.dumps(report.told, indent=2) + "\n", encoding="utf-8")
        cells.down()


class _Story:
    def __init__(self, cells: Cells, place: Path, report: Report) -> None:
        self._cells, self._report = cells, report
        home = cells.volume("state", "10001")
        environment = {"MODELFLOW_HOME": str(home), "MLFLOW_TRACKING_URI": "http://mlflow:5000"}
        self._project: Project = load_project(ROOT, environment=environment)
        self._flow: Flow = self._project.flow(_FLOW)
        self._store = FeatureStore(self._flow, root=ROOT, home=home)
        self._token = (place / "secrets" / "caller-token").read_text(encoding="utf-8")
        self._undisturbed = FeatureStore(self._flow, root=ROOT, home=place / "undisturbed")
        self._tables = load_facts(self._flow, place / "source")
        self._until = day_start(self._flow.data.starts) + timedelta(days=_FIRST_DAYS)

    def run(self) -> None:
        """Tell it."""
        say, cells = self._report.say, self._cells
        cells.up()
        resident = [name for name, cell in cells.cells.items() if not (cell.service.once or cell.service.on_demand)]
        for name in resident:
            if name not in {"sidecar-a", "sidecar-b"}:
                cells.wait_healthy(name)
        say(f"{len(resident)} parts are up, each as its health check wants it")
        facts = Facts(self._flow, self._tables, Broker("kafka:9092"))
        say(f"{facts.send(self._until):,} facts sent, of the first {_FIRST_DAYS} days")
        self._wait(lambda: self._ready("balancer"), "a sidecar is ready: the daemon had the first version trained", 240)
        end = self._until
        rows = self._store.feature_rows(end - timedelta(days=2), end).drop(["key", "request_time"]).to_pylist()
        callers = Callers(("balancer", 8080), self._token, rows)
        first = callers.ask(rows[0])
        say(f"version {first} serves")
        callers.start()
        ended = threading.Event()
        failures: list[str] = []
        feeding = threading.Thread(target=self._feed, args=(facts, ended, failures))
        feeding.start()
        try:
            self._kill_all(callers)
            self._back_up(callers)
            at = max(callers.versions)
            self._wait(lambda: max(callers.versions) > at, f"a version newer than {at} serves", 420)
        finally:
            ended.set()
            feeding.join()
            callers.stop()
            facts.close()
        self._settle(callers, failures, first)

    def _kill_all(self, callers: Callers) -> None:
        cells = self._cells
        for name in _KILLED:
            asked = callers.answered
            cells.kill(name)
            time.sleep(2)
            cells.start(name)
            took = cells.wait_healthy(name)
            if name.startswith("sidecar"):
                self._wait(lambda name=name: self._ready(name), None, 120)  # type: ignore[misc]
            self._report.back_s[name] = round(took + 2, 1)
            self._report.say(
                f"{name} was killed and is back after {took + 2:.1f} s;"
                f" {callers.answered - asked:,} answered meanwhile, {len(callers.failures)} failed so far"
            )
            self._rest(5)
        cells.signal("balancer", signal.SIGUSR2)
        time.sleep(3)
        self._report.say(f"balancer has reloaded itself; {len(callers.failures)} failed so far")

    def _back_up(self, callers: Callers) -> None:
        """Back the platform up while it works, by the service that is there for it."""
        began = time.monotonic()
        self._cells.run("backup", ["modelflow", "backup", "/backups/under-load"], timeout_s=120)
        folder = self._cells.volume("backups", "10001") / "under-load"
        manifest = json.loads((folder / "backup.json").read_text(encoding="utf-8"))
        self._report.told["backup"] = {key: value for key, value in manifest.items() if key != "files"}
        self._report.say(
            f"backed up in {time.monotonic() - began:.1f} s: {len(manifest['files'])} files;"
            f" {len(callers.failures)} failed so far"
        )

    def _feed(self, facts: Facts, ended: threading.Event, failures: list[str]) -> None:
        """Keep facts coming, three hours a second."""
        while not ended.wait(_STEP_S):
            try:
                facts.send(self._until + _STEP)
            except Exception as error:  # noqa: BLE001 - the story's boundary: it is told, and fails the check
                failures.append(f"facts could not be sent: {error!r}")
                return
            self._until += _STEP

    def _settle(self, callers: Callers, failures: list[str], first: int) -> None:
        """Compare with a store that nothing was done to, and end the check by what was seen."""
        say, told = self._report.say, self._report.told
        self._wait(lambda: (self._store.progress().clock or self._until) >= self._until, "all facts are taken in", 180)
        replay = Replay(self._tables)
        replay.ingest(self._undisturbed.log, self._until)
        self._undisturbed.absorb()
        count = self._undisturbed.progress().next_example
        same = self._store.progress().next_example == count and _same(
            self._store.examples(0, count), self._undisturbed.examples(0, count)
        )
        told |= {
            "answered": callers.answered,
            "failed": callers.failures,
            "slowest_answer_s": round(callers.slowest_s, 3),
            "versions": dict(sorted(callers.versions.items())),
            "back_after_s": self._report.back_s,
            "restarts": {name: cell.starts - 1 for name, cell in self._cells.cells.items()},
            "examples": count,
            "examples_as_undisturbed": same,
            "targets_up": self._targets_up(),
            "not_run": self._cells.left_out,
            "seconds": round(time.monotonic() - self._report.began),
        }
        say(f"{callers.answered:,} predictions answered, {len(callers.failures)} failed; versions {told['versions']}")
        say(f"{count:,} examples, {'the same as' if same else 'NOT those of'} an undisturbed store")
        wrong = [*callers.failures[:5], *failures]
        if not same:
            wrong.append("the examples are not those of an undisturbed store")
        wrong += [f"Prometheus cannot ask {target}" for target, up in told["targets_up"].items() if not up]
        if max(callers.versions) <= first:
            wrong.append("no later version came to serve")
        if wrong:
            raise SystemExit("deploy-check failed: " + "; ".join(wrong))
        say("deploy-check: all as it should be")

    def _rest(self, seconds: float) -> None:
        """Let everything go on for a while."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self._cells.tend()
            time.sleep(0.2)

    def _ready(self, name: str) -> bool:
        connection = http.client.HTTPConnection(name, 8080, timeout=2)
        try:
            connection.request("GET", "/v2/health/ready")
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _targets_up(self) -> dict[str, bool]:
        """Return what Prometheus says of the parts it asks."""
        with urllib.request.urlopen("http://prometheus:9090/api/v1/targets", timeout=10) as answer:
            targets = json.loads(answer.read())["data"]["activeTargets"]
        return {each["labels"]["instance"]: each["health"] == "up" for each in targets}

    def _wait(self, condition: Callable[[], bool], what: str | None, timeout_s: float) -> None:
        """Wait until something holds; tell it, or end the check when it does not in time."""
        began = time.monotonic()
        while not condition():
            self._cells.tend()
            if time.monotonic() - began > timeout_s:
                raise SystemExit(f"waited {timeout_s:.0f} s in vain: {what}")
            time.sleep(0.2)
        if what:
            self._report.say(what)


def _same(one: pa.Table, other: pa.Table) -> bool:
    """Say whether two tables hold the same values, whatever their chunks."""
    return bool(one.schema.equals(other.schema) and one.combine_chunks().equals(other.combine_chunks()))

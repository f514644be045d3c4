"""`make bench-followers`: hundreds of followers at one real MLflow server, and a promotion that all of them see.

MLflow runs over sqlite with two workers, as `docker/compose.yaml` runs it with PostgreSQL. The followers start all at
once, settle, and then a version is promoted the platform's way. How long it takes is counted from the first follower
that sees the new version, or from the promotion's end where that comes first. The server and all followers share
the machine: its CPU seconds are the server's processes' alone.
"""

import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil

from benchmarks.crowd import Crowd, crowd
from benchmarks.flights import wide_flights
from benchmarks.model import FLOW, SEED, free_port, mlflow_server, running, trained
from benchmarks.registry import ACCEPTED, Packages
from benchmarks.report import Row, bound, write
from ml_core.flow.registry import Registry
from serving.following import FollowerSettings

# followers, and the seconds between two looks: 1 is the default, and docs/capacity.md says what to set for more than 50
_FLEETS = ((50, 1.0), (200, 5.0), (500, 10.0), (500, 1.0))
_WORKERS = 2
_PROMOTIONS = 2
_LONGEST_S = 120.0
_ADDRESS = f"models:/{FLOW}/Production"


def rows() -> Iterator[Row]:
    """Measure every fleet and yield the rows of `var/bench/followers.json`."""
    table = wide_flights(5_000)
    with tempfile.TemporaryDirectory(prefix="bench-followers-") as folder:
        home, port = Path(folder), free_port()
        uri = f"http://127.0.0.1:{port}"
        command = mlflow_server(home, port)
        command[command.index("--workers") + 1] = str(_WORKERS)
        with running(command, port, "/health", home / "mlflow.log") as server:
            registry = Registry(uri, ledger_uri=f"sqlite:///{home}/ledger.db")
            flow = _Flow(registry, Packages(home, trained(SEED, table), table))
            flow.promote()
            for size, interval_s in _FLEETS:
                yield from _measured(uri, psutil.Process(server.pid), flow, size, interval_s)


class _Flow:
    """Publishes versions and promotes them; `champion` is the newest."""

    def __init__(self, registry: Registry, packages: Packages) -> None:
        self._registry, self._packages = registry, packages
        self.champion: int | None = None

    def publish(self) -> int:
        return self._packages.publish(self._registry)

    def promote(self, version: int | None = None) -> float:
        """Make a version the champion, by default one that is published now; return the instant it was."""
        version = self.publish() if version is None else version
        self._registry.promote(FLOW, version, verdict=ACCEPTED, expected_champion=self.champion)
        self.champion = version
        return time.monotonic()


def _measured(uri: str, server: psutil.Process, flow: _Flow, size: int, interval_s: float) -> Iterator[Row]:
    name = f"{size} followers, every {interval_s:g} s"
    started = time.monotonic()
    with crowd(uri, _ADDRESS, size, FollowerSettings(poll_interval_s=interval_s)) as followers:
        seen = followers.seen
        if not followers.wait_served(flow.champion or 0, _LONGEST_S):
            raise SystemExit(f"{name}: not all served within {_LONGEST_S:g} s of their start; {dict(seen.errors)}")
        yield bound(f"{name}: all started at once, the last one serves after", time.monotonic() - started, "s", None)
        time.sleep(max(10.0, 2 * interval_s))
        starting = sum(seen.errors.values())
        seen.errors.clear()
        yield bound(f"{name}: requests that failed in that start", starting, "", None)
        yield from _at_rest(name, server, followers, max(2 * interval_s, 10.0))
        saw, served = [], []
        for _ in range(_PROMOTIONS):
            waits = flow.publish()
            took = _promotion(flow, followers, waits)
            saw.append(took[0] / interval_s)
            served.append(took[1] / interval_s)
            time.sleep(interval_s)
        for told, share in (("p50", 50), ("p99", 99), ("the last one", 100)):
            limit = 2.0 if share == 100 else None
            ours = statistics.median(float(np.percentile(each, share)) for each in saw)
            yield bound(f"{name}: sees a promotion, {told}", ours, "polls", limit)
        ours = statistics.median(float(each.max()) for each in served)
        yield bound(f"{name}: serves it, the last one", ours, "polls", None)
        yield bound(f"{name}: requests that failed", sum(seen.errors.values()), "", 0)
        for error, count in seen.errors.most_common(3):
            print(f"  {count} times {error}")


def _at_rest(name: str, server: psutil.Process, followers: Crowd, seconds: float) -> Iterator[Row]:
    """Watch the server while nothing changes."""
    before, cpu, started = followers.seen.requests.total(), _cpu_s(server), time.monotonic()
    time.sleep(seconds)
    took = time.monotonic() - started
    asked, used = followers.seen.requests.total() - before, _cpu_s(server) - cpu
    yield bound(f"{name}: requests at the server", asked / took, "1/s", None)
    yield bound(f"{name}: CPU of the server's processes", 100 * used / took, "% core", None)
    yield bound(f"{name}: CPU of the server a request", 1e3 * used / max(1, asked), "ms", None)
    yield bound(f"{name}: memory of the server's processes", _rss(server) / 2**20, "MiB", None)


def _promotion(flow: _Flow, followers: Crowd, version: int) -> tuple[np.ndarray, np.ndarray]:
    """Promote a version and return how many seconds each follower took to see it, and to serve it."""
    done = flow.promote(version)
    if not followers.wait_served(version, _LONGEST_S):
        raise SystemExit(f"not every follower served version {version} within {_LONGEST_S:g} s")
    seen = followers.seen
    began = min(done, *seen.resolved[version].values())
    saw, served = (np.array(list(where[version].values())) - began for where in (seen.resolved, seen.served))
    return saw, served


def _processes(server: psutil.Process) -> list[psutil.Process]:
    return [server, *server.children(recursive=True)]


def _cpu_s(server: psutil.Process) -> float:
    return sum(times.user + times.system for times in (each.cpu_times() for each in _processes(server)))


def _rss(server: psutil.Process) -> float:
    return sum(each.memory_info().rss for each in _processes(server))


if __name__ == "__main__":
    write("followers", list(rows()))

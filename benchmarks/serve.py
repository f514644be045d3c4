"""`make bench-serve`: the sidecar beside `mlflow models serve`, with the same model, the same bodies and the same load.

A real registry holds two versions of the seed pipeline trained on flights. Both servers have one worker and are driven
by wrk, one after the other; every figure is the median of three runs. Then the sidecar is measured while it swaps: how
latency suffers, whether a request fails or mixes versions, how soon a promotion is served, what memory it takes, and
how soon it is ready with the registry down. The embedded predictor's rows of `benchmarks.predict` follow.
"""

import http.client
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pyarrow as pa

from benchmarks import predict
from benchmarks.flights import SCHEMA, wide_flights
from benchmarks.model import FLOW, SEED, free_port, mlflow_server, publish, running, split_body, trained
from benchmarks.report import Row, bound, less, more, write
from benchmarks.wrk import load

_ARROW = "application/vnd.apache.arrow.stream"
_RUNS = 3
_RUN_S = 2.0
_SWAPS = 200
_WINDOW_S = 4.0
_PROMOTIONS = 20
_POLL_S = 0.2
_BATCHES = 12


def rows() -> Iterator[Row]:
    """Measure the sidecar and yield the rows of `var/bench/serve.json`."""
    table = wide_flights(20_000 + _BATCHES * 1000)
    learned, asked = table.slice(0, 20_000), table.slice(20_000).select(list(SCHEMA))
    with tempfile.TemporaryDirectory(prefix="bench-serve-") as folder, ExitStack() as registry:
        home, port = Path(folder), free_port()
        uri = f"http://127.0.0.1:{port}"
        registry.enter_context(running(mlflow_server(home, port), port, "/health", home / "mlflow.log"))
        champion = _Champion(uri)
        for part in (learned, learned.slice(0, 10_000)):
            publish(uri, trained(SEED, part), learned, home / str(part.num_rows))
        champion.move(1)
        yield from _beside_mlflow(home, uri, asked)
        yield from _while_it_swaps(home, uri, champion, asked)
        cache = home / "cache"
        with _sidecar(home, uri, "--cache", str(cache)):
            pass
        registry.close()  # the registry is down from here on
        yield _cold_start(home, uri, cache)


class _Champion:
    """Moves the alias that the sidecar follows."""

    def __init__(self, uri: str) -> None:
        from mlflow import MlflowClient

        self._client = MlflowClient(uri, uri)

    def move(self, version: int) -> None:
        self._client.set_registered_model_alias(FLOW, "champion", str(version))


@contextmanager
def _sidecar(home: Path, uri: str, *options: str) -> Iterator[tuple[int, psutil.Process]]:
    port = free_port()
    address = ("serving", f"models:/{FLOW}@champion", "--tracking-uri", uri, "--port", str(port), *options)
    with running([sys.executable, "-m", *address], port, "/ping", home / "sidecar.log") as process:
        yield port, psutil.Process(process.pid)


def _beside_mlflow(home: Path, uri: str, asked: pa.Table) -> list[Row]:
    """Return throughput, latency and memory of both servers and of one that does nothing."""
    one, batches = split_body(asked.slice(0, 1)), _batches(asked)
    thousand = [split_body(batch) for batch in batches]
    forms = {"strings": batches, "dictionaries": _batches(_with_dictionaries(asked))}
    with _sidecar(home, uri) as (port, process):
        url = f"http://127.0.0.1:{port}/invocations"
        ours, ours_alone = _loaded(url, one, connections=32), _loaded(url, one)
        ours_json = _loaded(url, *thousand)
        streams = {form: _loaded(url, *map(_arrow, batches), content_type=_ARROW) for form, batches in forms.items()}
        ours_mb = _memory_mb(process)
    with _noop(home) as port:
        nothing = _loaded(f"http://127.0.0.1:{port}/", one, connections=32)
    with _peer(home, uri) as (port, process):
        url = f"http://127.0.0.1:{port}/invocations"
        peer, peer_alone, peer_json = _loaded(url, one, connections=32), _loaded(url, one), _loaded(url, *thousand)
        peer_mb = _memory_mb(process)
    return [
        more("1 row, 32 connections: requests", ours.rate, peer.rate, "1/s", at_least=200),
        less("1 row, 32 connections: p99", ours.p99_s * 1e3, peer.p99_s * 1e3, "ms"),
        less("1 row, 1 connection: p50", ours_alone.p50_s * 1e3, peer_alone.p50_s * 1e3, "ms", at_least=40),
        more(
            "1 row, 32 connections, beside the same server doing nothing", ours.rate, nothing.rate, "1/s", at_least=0.25
        ),
        more("1,000 rows as JSON: rows", ours_json.rate * 1e3, peer_json.rate * 1e3, "rows/s", at_least=20),
        *(
            more(
                f"1,000 rows as Arrow {form}, beside the peer's JSON: rows",
                stream.rate * 1e3,
                peer_json.rate * 1e3,
                "rows/s",
                at_least=100,
            )
            for form, stream in streams.items()
        ),
        bound("resident memory of one worker after that load", ours_mb, "MB", 200, peer=peer_mb),
    ]


def _while_it_swaps(home: Path, uri: str, champion: _Champion, asked: pa.Table) -> list[Row]:
    """Return what callers notice of swaps, and how soon a promotion reaches them.

    Windows with swaps and windows without take turns, all else as it is: the speed of a shared machine changes from one
    minute to the next.
    """
    one = split_body(asked.slice(0, 1))
    with _sidecar(home, uri, "--poll-interval", "0.02") as (port, process):
        url = f"http://127.0.0.1:{port}/invocations"
        load(url, one, connections=8, seconds=2)
        before_mb = _memory_mb(process)
        checker = _Checker(port, split_body(asked.slice(0, 50)))
        calm: list[float] = []
        during: list[float] = []
        failed, served, swapping, done = 0, 0, threading.Event(), threading.Event()

        def drive() -> None:
            nonlocal failed
            while not done.is_set():
                seen = load(url, one, connections=8, seconds=_WINDOW_S)
                (during if swapping.is_set() else calm).append(seen.p99_s)
                failed += seen.failed
                swapping.clear() if swapping.is_set() else swapping.set()
            swapping.set()

        driving = threading.Thread(target=drive)
        driving.start()
        checker.start()
        try:
            for swap in range(_SWAPS):
                swapping.wait()
                version = 2 - swap % 2
                champion.move(version)
                _wait_version(port, version)
                served += 1
        finally:
            done.set()
            driving.join()
            checker.finish()
        after_mb = _memory_mb(process)
    with _sidecar(home, uri, "--poll-interval", str(_POLL_S)) as (port, _):
        took = []
        for promotion in range(_PROMOTIONS):
            version = 2 - (promotion + served) % 2
            champion.move(version)
            began = time.perf_counter()
            _wait_version(port, version)
            took.append(time.perf_counter() - began)
    p99, without = statistics.median(during), statistics.median(calm)
    return [
        bound(f"{served} swaps under load, 8 connections: failed requests", failed + checker.failed, "", 0),
        bound(f"{checker.answers:,} batches while swapping: answers of no one version", checker.mixed, "", 0),
        bound("p99 while swapping / p99 without", p99 / without, "", 1.5),
        bound("p99 while swapping, 8 connections", p99 * 1e3, "ms", None, peer=without * 1e3),
        bound(f"resident memory grown by {served} swaps", after_mb - before_mb, "MB", None),
        bound(
            f"{_PROMOTIONS} promotions, polls every {_POLL_S * 1e3:.0f} ms: the slowest to be served",
            max(took) * 1e3,
            "ms",
            _POLL_S * 1e3 + 200,
        ),
    ]


class _Checker(threading.Thread):
    """Asks for the same rows all the time: each answer must be, to the byte, that of the version it names."""

    def __init__(self, port: int, body: bytes) -> None:
        super().__init__(daemon=True)
        self._port, self._body, self._done = port, body, threading.Event()
        self.answers = self.failed = 0
        self._seen: dict[str, set[bytes]] = {}

    @property
    def mixed(self) -> int:
        """Answers beyond the one each version has."""
        return sum(len(answers) - 1 for answers in self._seen.values())

    def run(self) -> None:
        while not self._done.is_set():
            version, answer = _asked(self._port, self._body)
            self.answers += 1
            if version is None:
                self.failed += 1
            else:
                self._seen.setdefault(version, set()).add(answer)
            time.sleep(0.005)

    def finish(self) -> None:
        self._done.set()
        self.join()


def _cold_start(home: Path, uri: str, cache: Path) -> Row:
    """Return how long a start takes until it is ready, from the cache, nobody answering at the registry's address."""
    took = []
    for _ in range(_RUNS):
        began = time.perf_counter()
        with _sidecar(home, uri, "--cache", str(cache)):
            took.append(time.perf_counter() - began)
    return bound("start with a cached model and the registry down: ready", statistics.median(took), "s", 2.0)


@contextmanager
def _peer(home: Path, uri: str) -> Iterator[tuple[int, psutil.Process]]:
    """Run `mlflow models serve` on the first version."""
    port = free_port()
    script = (
        "import os, sys; os.environ['MLFLOW_TRACKING_URI'] = sys.argv[1]; from mlflow.cli import cli; cli(sys.argv[2:])"
    )
    serve = ("models", "serve", "-m", f"models:/{FLOW}/1", "--env-manager", "local", "--workers", "1")
    command = [sys.executable, "-c", script, uri, *serve, "--port", str(port)]
    with running(command, port, "/ping", home / "peer.log") as process:
        yield port, psutil.Process(process.pid)


@contextmanager
def _noop(home: Path) -> Iterator[int]:
    port = free_port()
    server = ("--loop", "uvloop", "--http", "httptools", "--log-level", "warning", "--no-access-log")
    headers = ("--no-server-header", "--no-date-header", "--app-dir", str(Path(__file__).parents[1]))
    command = [sys.executable, "-m", "uvicorn", "benchmarks.noop:application", *server, *headers, "--port", str(port)]
    with running(command, port, "/", home / "noop.log"):
        yield port


@dataclass(frozen=True, slots=True)
class _Seen:
    """Medians of the runs of one load."""

    rate: float
    p50_s: float
    p99_s: float


def _loaded(url: str, *bodies: bytes, connections: int = 1, content_type: str = "application/json") -> _Seen:
    """Return what wrk sees; a failed request ends the benchmark."""
    seen = [
        load(url, *bodies, connections=connections, seconds=_RUN_S, content_type=content_type) for _ in range(_RUNS)
    ]
    if any(each.failed for each in seen):
        raise SystemExit(
            f"{url}: {[each.failed for each in seen]} of {[each.requests for each in seen]} requests failed"
        )
    return _Seen(
        *(statistics.median(getattr(each, of) for each in seen) for of in ("requests_per_s", "p50_s", "p99_s"))
    )


def _memory_mb(process: psutil.Process) -> float:
    """Return the largest resident memory among a process and its children: what the one worker holds."""
    return max(each.memory_info().rss for each in (process, *process.children(recursive=True))) / 1e6


def _asked(port: int, body: bytes) -> tuple[str | None, bytes]:
    """Return the version that an answer names and its body; None for anything but 200."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("POST", "/invocations", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer = response.read()
        return (response.headers.get("X-Model-Version", "") if response.status == 200 else None), answer
    except (OSError, http.client.HTTPException):
        return None, b""
    finally:
        connection.close()


def _wait_version(port: int, version: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    deadline = time.monotonic() + 30
    try:
        while True:
            connection.request("GET", "/version")
            if json.loads(connection.getresponse().read()).get("version") == version:
                return
            if time.monotonic() > deadline:
                raise SystemExit(f"waited for version {version} to be served")
            time.sleep(0.002)
    finally:
        connection.close()


def _batches(table: pa.Table) -> list[pa.Table]:
    """Return a table's rows as a caller has them who scores a stream: another thousand each time."""
    return [table.slice(start, 1000) for start in range(0, _BATCHES * 1000, 1000)]


def _with_dictionaries(table: pa.Table) -> pa.Table:
    columns = table.combine_chunks().columns
    encoded = [each.dictionary_encode() if pa.types.is_string(each.type) else each for each in columns]
    return pa.table(encoded, names=table.column_names)


def _arrow(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def main() -> None:
    """Print the table and write `var/bench/serve.json`."""
    write("serve", [*rows(), *predict.rows()])


if __name__ == "__main__":
    main()

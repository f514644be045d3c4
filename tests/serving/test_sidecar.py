"""The sidecar as a process: how it starts, follows, drains and ends, with real sockets and a registry over HTTP."""

import contextlib
import http.client
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ml_core.errors import PlatformError
from serving.sidecar import _bound

ROW = {"carrier": "UA", "origin": "EWR", "delay": 12.5, "hour": 7}
BODY = json.dumps({"dataframe_split": {"columns": list(ROW), "data": [list(ROW.values())] * 3}}).encode()
FOLLOW = ("models:/f/Production",)


class Load(threading.Thread):
    """Sends requests without a pause on one connection, and keeps every answer's versions."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.port = port
        self.answers: list[tuple[int, tuple[int, ...]]] = []
        self.failures: list[str] = []
        self.slowest_s = 0.0
        self.finished = threading.Event()

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        while not self.finished.is_set():
            began = time.perf_counter()
            try:
                connection.request("POST", "/invocations", BODY, {"Content-Type": "application/json"})
                response = connection.getresponse()
                scores = json.loads(response.read())["predictions"]
                versions = tuple(round(score * 100) for score in scores)
                self.answers.append((int(response.headers["X-Model-Version"]), versions))
            except (OSError, http.client.HTTPException, KeyError, ValueError) as error:
                self.failures.append(repr(error))
            self.slowest_s = max(self.slowest_s, time.perf_counter() - began)
        connection.close()

    def end(self) -> None:
        self.finished.set()
        self.join(10)


def under_load(port: int, tell: Callable[[], None], threads: int = 4) -> list[Load]:
    """Tell a story while requests are being sent."""
    loads = [Load(port) for _ in range(threads)]
    for load in loads:
        load.start()
    try:
        tell()
    finally:
        for load in loads:
            load.end()
    return loads


def assert_all_answered_by_one_version_each(loads: list[Load]) -> set[int]:
    assert [failure for load in loads for failure in load.failures] == []
    answers = [answer for load in loads for answer in load.answers]
    assert all(set(by_row) == {said} for said, by_row in answers)
    return {said for said, _ in answers}


def test_a_port_is_held_from_the_moment_it_is_told() -> None:
    """Two sidecars started at once both said that they listened, and one of them was deaf."""
    with contextlib.closing(_bound("127.0.0.1", 0, shared=False)) as first:
        port = first.getsockname()[1]
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
        with pytest.raises(PlatformError, match=f"cannot listen on port {port}"):
            _bound("127.0.0.1", port, shared=False)


def test_it_is_live_at_once_and_ready_only_with_a_verified_model(sidecar: Any, rest_registry: Any) -> None:
    """An orchestrator that trusts `ready` must never route a caller to a server that cannot answer."""
    running = sidecar(*FOLLOW, rest_registry.uri, "--poll-interval", "0.05")
    for path in ("/ping", "/health", "/v2/health/ready", "/v2/models/f/ready", "/version"):
        assert running.request("GET", path)[0] == 503, path
    status, headers, body = running.request("POST", "/invocations", BODY)
    assert (status, headers["retry-after"], json.loads(body)["error_code"]) == (503, "1", "NOT_READY")
    rest_registry.folder.add(1)
    rest_registry.folder.promote(1)
    running.wait_version(1)
    for path in ("/ping", "/health", "/v2/health/ready", "/v2/models/f/ready", "/version"):
        assert running.request("GET", path)[0] == 200, path
    version = running.get("/version")
    assert version["flow"] == "f"
    assert version["watermark"] == '{"examples": 10}'
    assert version["trained_through"] == "2013-09-01T00:00:00+00:00"
    assert version["loaded_at"].endswith("+00:00")
    assert running.terminate() == 0


def test_twenty_swaps_under_load_fail_no_request_and_mix_no_versions(sidecar: Any, rest_registry: Any) -> None:
    """A caller must not be able to tell that models are being swapped, but by the version's header."""
    folder = rest_registry.folder
    folder.add(1)
    folder.promote(1)
    running = sidecar(*FOLLOW, rest_registry.uri, "--poll-interval", "0.02")
    running.wait_version(1)

    def swap() -> None:
        for version in range(2, 24):
            folder.add(version)
            folder.promote(version)
            running.wait_version(version)
            time.sleep(0.02)

    loads = under_load(running.port, swap)
    served = assert_all_answered_by_one_version_each(loads)
    assert len(served) >= 20
    assert running.get("/status")["swaps"] == 23
    assert running.terminate() == 0


def test_a_slow_download_and_a_broken_version_disturb_no_request(sidecar: Any, rest_registry: Any) -> None:
    """Loading must never be on the way of a request."""
    folder = rest_registry.folder
    for version in (1, 2, 3):
        folder.add(version)
    folder.promote(1)
    (folder.root / "2" / "model.onnx").write_bytes(b"no graph")
    running = sidecar(*FOLLOW, rest_registry.uri, "--poll-interval", "0.02")
    running.wait_version(1)

    def tell() -> None:
        folder.promote(2)
        running.wait(lambda side: bool(side.get("/status")["quarantine"]), "quarantine")
        assert "model.onnx" in running.get("/status")["quarantine"][0]["reason"]
        assert running.request("GET", "/v2/health/ready")[0] == 200
        rest_registry.delay_s = 1.5
        folder.promote(3)
        running.wait(lambda side: side.get("/status")["state"] == "downloading", "downloading")
        running.wait_version(3)

    loads = under_load(running.port, tell)
    assert assert_all_answered_by_one_version_each(loads) == {1, 3}
    assert max(load.slowest_s for load in loads) < 1.0, "a request waited for a download"


def test_the_registry_goes_and_comes_back_and_nobody_notices(sidecar: Any, rest_registry: Any) -> None:
    """The registry is restarted for its own reasons."""
    folder = rest_registry.folder
    for version in (1, 2):
        folder.add(version)
    folder.promote(1)
    running = sidecar(*FOLLOW, rest_registry.uri, "--poll-interval", "0.02", "--registry-timeout", "0.3")
    running.wait_version(1)

    def tell() -> None:
        rest_registry.gone()
        running.wait(lambda side: not side.get("/status")["registry"]["answers"], "notice")
        folder.promote(2)
        rest_registry.up()
        running.wait_version(2)
        rest_registry.delay_s = 30
        running.wait(lambda side: not side.get("/status")["registry"]["answers"], "notice")
        assert running.request("GET", "/ping")[0] == 200

    assert assert_all_answered_by_one_version_each(under_load(running.port, tell)) == {1, 2}
    rest_registry.delay_s = 0
    assert running.terminate() == 0


def test_a_restart_with_the_registry_down_serves_from_the_cache(
    sidecar: Any, rest_registry: Any, tmp_path: Any
) -> None:
    """After a power cut the predictor must not wait for the registry."""
    rest_registry.folder.add(4)
    rest_registry.folder.promote(4)
    options = ("--cache", str(tmp_path / "cache"), "--poll-interval", "0.05")
    first = sidecar(*FOLLOW, rest_registry.uri, *options)
    first.wait_version(4)
    first.process.kill()
    first.process.wait(10)
    rest_registry.gone()
    second = sidecar(*FOLLOW, rest_registry.uri, *options)
    second.wait_version(4)
    assert second.get("/version")["from_cache"] is True
    assert second.request("POST", "/invocations", BODY)[1]["x-model-version"] == "4"
    rest_registry.up()
    second.wait(lambda side: side.get("/version")["from_cache"] is False, "confirmed by the registry")


def test_term_under_load_drains_and_exits_0(sidecar: Any, rest_registry: Any) -> None:
    """A rolling restart must not cost a single answer that was begun."""
    rest_registry.folder.add(1)
    rest_registry.folder.promote(1)
    running = sidecar(*FOLLOW, rest_registry.uri)
    running.wait_version(1)
    half = socket.create_connection(("127.0.0.1", running.port), 5)
    head = b"POST /invocations HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: "
    half.sendall(head + str(len(BODY)).encode() + b"\r\n\r\n" + BODY[:10])
    time.sleep(0.2)
    running.process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    half.sendall(BODY[10:])
    answer = half.recv(65536)
    half.close()
    assert answer.startswith(b"HTTP/1.1 200")
    assert running.process.wait(10) == 0


def test_a_port_in_use_is_an_error_that_names_it(free_port: int) -> None:
    """The commonest reason why nothing answers, told in one line."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", free_port))
        taken.listen()
        command = [sys.executable, "-m", "serving", "models:/f/Production", "--port", str(free_port)]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert ended.returncode != 0
    assert str(free_port) in ended.stderr
    assert "Traceback" not in ended.stderr


def test_an_address_that_is_none_is_an_error_that_shows_the_form() -> None:
    """A typing mistake must not become a server that is never ready."""
    command = [sys.executable, "-m", "serving", "flight_delays/Production", "--port", "0"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert ended.returncode != 0
    assert "models:/<flow>/Production" in ended.stderr
    assert "Traceback" not in ended.stderr


_UNTOLD = (
    "import runpy, serving.sidecar as sidecar; sidecar.die_with_parent = lambda _: None;"
    "runpy.run_module('serving', run_name='__main__')"
)


@pytest.mark.parametrize("start", [("-m", "serving"), ("-c", _UNTOLD)], ids=["told by the kernel", "not told"])
def test_it_ends_when_its_parent_is_killed(start: tuple[str, str], free_port: int) -> None:
    """A demo that was killed must leave no server behind."""
    child = f"[sys.executable, *{start}, 'models:/f/Production', '--port', '{free_port}',"
    story = (
        "import os, subprocess, sys, time;"
        f"child = subprocess.Popen({child} '--die-with-parent', str(os.getpid())]);"
        "print(child.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", story], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    listening_by = time.monotonic() + 60
    while not _listens(free_port) and time.monotonic() < listening_by:
        time.sleep(0.05)
    parent.kill()
    parent.wait(5)
    parent.stdout.close()
    deadline = time.monotonic() + 15
    while _alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _alive(pid)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        with open(f"/proc/{pid}/stat") as stat:  # noqa: PTH123 - a pseudo file
            return stat.read().split()[2] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def test_serving_starts_without_what_trainers_need(rest_registry: Any) -> None:
    """Two gigabytes of trainers' libraries beside every web server would be the end of sidecars."""
    rest_registry.folder.add(1)
    rest_registry.folder.promote(1)
    heavy = ("pandas", "sklearn", "dagster", "numba", "mlflow", "matplotlib", "scipy", "pydantic")
    story = (
        "import sys; from serving import LocalPredictor; import serving.sidecar, serving.cli;"
        f"p = LocalPredictor('models:/f/Production', tracking_uri='{rest_registry.uri}');"
        f"print(p.predict({ROW!r}).version); p.close();"
        f"print([m for m in {heavy!r} if m in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", story], capture_output=True, text=True, timeout=30, check=True)
    assert told.stdout.split("\n")[:2] == ["1", "[]"]


def test_a_large_batch_does_not_make_the_sidecar_load_pandas(sidecar: Any, rest_registry: Any) -> None:
    """The first batch would wait for it, and every worker would hold 50 MB of it."""
    rest_registry.folder.add(1)
    rest_registry.folder.promote(1)
    running = sidecar(*FOLLOW, rest_registry.uri)
    running.wait_version(1)
    table = pa.Table.from_pylist([ROW | {"carrier": f"new {number}"} for number in range(1_000)])
    body = io.BytesIO()
    with pa.ipc.new_stream(body, table.schema) as stream:
        stream.write_table(table)
    told = {"Content-Type": "application/vnd.apache.arrow.stream"}
    status, _, answer = running.request("POST", "/invocations", body.getvalue(), told)
    assert (status, pa.ipc.open_stream(answer).read_all().num_rows) == (200, 1_000)
    mapped = Path(f"/proc/{running.process.pid}/maps").read_text(encoding="utf-8")
    assert "pyarrow" in mapped
    assert "pandas" not in mapped


@pytest.mark.parametrize("head", [b"", b"POST /invocations HTTP/1.1\r\nhost: x\r\nx-slow: "])
def test_connections_that_say_nothing_or_little_keep_nobody_from_being_served(
    sidecar: Any, rest_registry: Any, head: bytes
) -> None:
    """Idle pools and slow attackers look alike; neither may cost another caller its answer."""
    rest_registry.folder.add(1)
    rest_registry.folder.promote(1)
    running = sidecar(*FOLLOW, rest_registry.uri)
    running.wait_version(1)
    idle = [socket.create_connection(("127.0.0.1", running.port), 5) for _ in range(300)]
    for connection in idle:
        connection.sendall(head)
    assert running.request("POST", "/invocations", BODY)[0] == 200
    for connection in idle:
        connection.close()
    assert running.terminate() == 0

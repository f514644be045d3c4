"""What callers, clocks, disks and time do to a sidecar: it never lies about being ready, nor pays with its life."""

import gc
import json
import resource
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest

from ml_core.clock import ManualClock
from ml_core.flow.read import ModelAddress
from serving.follower import Follower
from serving.following import FollowerSettings
from serving.http import Sidecar
from tests.serving.asking import ROW, ask_application, scores_of

FOLLOW = ("models:/f/Production",)
PRODUCTION = ModelAddress.parse(FOLLOW[0])
BODY = json.dumps({"dataframe_records": [ROW]}).encode()
START = datetime(2013, 9, 1, tzinfo=UTC)  # what the packages of the tests have learned


def served(follower: Follower) -> int | None:
    return follower.current.version if follower.current else None


@pytest.mark.parametrize("jump", [timedelta(days=-4000), timedelta(days=4000)], ids=["back", "ahead"])
def test_a_clock_that_jumps_delays_neither_a_swap_nor_a_retry(registry: Any, jump: timedelta) -> None:
    """Machines wake up in the wrong year; only what is said about ages may follow them."""
    clock, hand = ManualClock(START + timedelta(hours=1)), [0.0]
    follower = Follower(PRODUCTION, "folder", registry=registry, clock=clock, monotonic=lambda: hand[0])
    for version in (1, 2, 3):
        registry.add(version)
    registry.promote(1)
    follower.step()
    assert follower.staleness_s == 3600
    clock.instant = clock.now() + jump
    assert follower.staleness_s == 3600 + jump.total_seconds()
    registry.promote(2)
    follower.step()
    assert served(follower) == 2
    registry.downloading = lambda _, package: (package / "model.onnx").unlink()
    registry.promote(3)
    follower.step()
    assert (served(follower), len(follower.quarantine)) == (2, 1)
    clock.instant = clock.now() - 2 * jump
    registry.downloading = lambda *_: None
    hand[0] += 2
    follower.step()
    assert served(follower) == 3
    assert follower.ready


def test_age_and_freshness_are_those_of_a_clock_outside(registry: Any) -> None:
    """An alert on staleness is worth what its figure is worth."""
    clock = ManualClock(START + timedelta(seconds=90))
    follower = Follower(PRODUCTION, "folder", registry=registry, clock=clock)
    registry.add(1)
    registry.promote(1)
    follower.step()
    clock.instant = START + timedelta(seconds=400)
    told = ask_application(Sidecar(follower), "/metrics")[2].decode()
    assert "modelflow_freshness_seconds 90.0" in told
    assert "modelflow_staleness_seconds 400.0" in told
    assert ask_application(Sidecar(follower), "/status")[2]["staleness_s"] == 400


def test_a_full_disk_under_the_cache_costs_the_cache_and_no_swap(
    registry: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was proved is served, whether it can be kept or not; what was kept before is kept."""
    settings = FollowerSettings(cache=tmp_path / "cache")
    follower = Follower(PRODUCTION, "folder", settings=settings, registry=registry)
    for version in (1, 2):
        registry.add(version)
    registry.promote(1)
    follower.step()

    def full(self: Path, *_: Any, **__: Any) -> int:
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_text", full)
    registry.promote(2)
    follower.step()
    assert served(follower) == 2
    assert follower.quarantine == ()
    assert json.loads((tmp_path / "cache" / "last.json").read_text())["package"].startswith("1-")


@pytest.mark.parametrize(
    "body",
    [
        b'{"inputs": ' + b"[" * 200_000,
        b'{"a":' * 100_000,
        b'{"inputs": {"carrier": ["\xff\xfe"]}}',
        b"\xed\xa0\x80",
        b'{"dataframe_records": [' + b'{"delay": ' + b"9" * 50_000 + b"}]}",
        b"\x00" * 1000,
    ],
    ids=["deep lists", "deep objects", "no UTF-8", "a lone surrogate", "a long number", "zeros"],
)
def test_a_hostile_body_is_the_callers_mistake(follower: Follower, body: bytes) -> None:
    """None of them may reach the parser's own limits, or ours."""
    application = Sidecar(follower)
    for path in ("/invocations", "/v2/models/f/infer"):
        status, _, answer = ask_application(application, path, body)
        assert (status, answer["error_code"]) == (400, "BAD_REQUEST")
    assert ask_application(application, "/ping")[0] == 200


@pytest.mark.parametrize("announced", [True, False], ids=["with its length", "in chunks"])
def test_a_body_of_a_gigabyte_is_refused_before_it_is_read(sidecar: Any, rest_registry: Any, announced: bool) -> None:
    """It costs neither memory nor the answers of others."""
    rest_registry.folder.add(1)
    rest_registry.folder.promote(1)
    running = sidecar(*FOLLOW, rest_registry.uri)
    running.wait_version(1)
    before = psutil.Process(running.process.pid).memory_info().rss
    part, sent = b"x" * 1_000_000, 0
    length = b"content-length: 1000000000" if announced else b"transfer-encoding: chunked"
    with socket.create_connection(("127.0.0.1", running.port), 20) as connection:
        connection.sendall(b"POST /invocations HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n")
        connection.sendall(length + b"\r\n\r\n")
        try:
            for _ in range(1000):
                connection.sendall(part if announced else b"%x\r\n" % len(part) + part + b"\r\n")
                sent += len(part)
        except OSError:  # it has hung up, as it should
            pass
    assert sent < 200_000_000
    assert running.request("POST", "/invocations", BODY)[0] == 200
    assert psutil.Process(running.process.pid).memory_info().rss - before < 100_000_000
    assert running.terminate() == 0


@pytest.mark.slow
def test_ten_thousand_idle_connections_keep_nobody_from_being_served(sidecar: Any, rest_registry: Any) -> None:
    """Every service of a large company keeps a pool open to it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert hard > 10_500, f"expected to be allowed 10,500 open files, found {hard}"
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    rest_registry.folder.add(1)
    rest_registry.folder.promote(1)
    running = sidecar(*FOLLOW, rest_registry.uri)
    running.wait_version(1)
    idle: list[socket.socket] = []
    try:
        idle.extend(socket.create_connection(("127.0.0.1", running.port), 20) for _ in range(10_000))
        for _ in range(20):
            assert running.request("POST", "/invocations", BODY)[0] == 200
        idle[-1].sendall(b"GET /ping HTTP/1.1\r\nhost: x\r\n\r\n")
        assert idle[-1].recv(100).startswith(b"HTTP/1.1 200")
        assert running.terminate() == 0
    finally:
        for connection in idle:
            connection.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.slow
def test_memory_is_flat_over_a_thousand_swaps(registry: Any) -> None:
    """A flow that is fresh to the minute swaps a thousand times a day, and nobody restarts it."""
    follower = Follower(PRODUCTION, "folder", registry=registry)
    for version in (1, 2):
        registry.add(version)
    process, seen = psutil.Process(), []
    for swap in range(1000):
        registry.promote(1 + swap % 2)
        follower.step()
        assert served(follower) == 1 + swap % 2
        scores_of(follower, ROW)
        if swap % 100 == 99:
            gc.collect()
            seen.append(process.memory_info().rss)
    assert follower.swaps == 1000
    assert seen[-1] - seen[1] < 20_000_000, [mark // 1_000_000 for mark in seen]

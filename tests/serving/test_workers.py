"""Several worker processes behind one port: they swap together, and one that is killed is replaced."""

import os
import signal
import time
from typing import Any

import pytest

from tests.serving.test_sidecar import BODY, FOLLOW, assert_all_answered_by_one_version_each, under_load


@pytest.fixture
def running(sidecar: Any, rest_registry: Any) -> Any:
    """Return a sidecar with two workers that serves version 1."""
    rest_registry.folder.add(1)
    rest_registry.folder.promote(1)
    running = sidecar(*FOLLOW, rest_registry.uri, "--workers", "2", "--poll-interval", "0.05")
    running.wait(lambda side: versions(side) == [1, 1], "both workers")
    return running


def workers(running: Any) -> list[dict[str, Any]]:
    return list(running.get("/status")["workers"])


def versions(running: Any) -> list[int]:
    return [worker["version"] for worker in workers(running)]


def test_workers_swap_together_under_load(running: Any, rest_registry: Any) -> None:
    """A caller that opens a second connection must not fall back to the version before."""
    folder = rest_registry.folder

    def swap() -> None:
        for version in range(2, 8):
            folder.add(version)
            folder.promote(version)
            running.wait(lambda side, version=version: versions(side) == [version] * 2, "both workers")

    loads = under_load(running.port, swap, threads=6)
    assert assert_all_answered_by_one_version_each(loads) == set(range(1, 8))
    for load in loads:  # a connection stays with its worker, and no worker goes back
        served = [version for version, _ in load.answers]
        assert served == sorted(served)
    assert running.terminate() == 0


def test_a_killed_worker_is_replaced_while_the_others_go_on(running: Any) -> None:
    """The kernel's out-of-memory killer takes one process, and nobody should have to come in for it."""
    before = {worker["pid"] for worker in workers(running)}
    victim = min(before)
    os.kill(victim, signal.SIGKILL)
    served = [running.request("POST", "/invocations", BODY)[0] for _ in range(40)]  # connections of their own each
    assert set(served) <= {200, 503}, "the one that took its place may not be ready for a moment"
    running.wait(
        lambda side: versions(side) == [1, 1] and victim not in {worker["pid"] for worker in workers(side)},
        "new worker",
    )
    assert [running.request("POST", "/invocations", BODY)[0] for _ in range(40)] == [200] * 40
    assert running.terminate() == 0


def test_the_workers_end_with_their_parent(running: Any) -> None:
    """A supervisor that is killed must leave no process on its port."""
    pids = [worker["pid"] for worker in workers(running)]
    running.process.kill()
    running.process.wait(10)
    deadline = time.monotonic() + 15
    while any(map(_alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(_alive, pids))


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") as stat:  # noqa: PTH123 - a pseudo file
        return stat.read().split()[2] != "Z"

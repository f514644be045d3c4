"""The workers' shared memory: pages that are never read half, and swaps that wait for each other, but not for ever."""

import os
import threading
from typing import Any

import pytest

from ml_core.flow.read import VersionRef
from serving.board import Board, Peers
from serving.http import Sidecar
from serving.telemetry import Telemetry
from tests.serving.asking import ROW, ask_application


def ref(version: int) -> VersionRef:
    return VersionRef("f", version, "Production", "", {"manifest_sha256": f"{version:064x}"})


def peers(board: Board, worker: int, **settings: Any) -> Peers:
    return Peers(board, worker, **{"patience_s": 20.0, **settings})


def in_thread(peer: Peers, version: int) -> threading.Thread:
    thread = threading.Thread(target=peer.swap_together, args=(ref(version),), daemon=True)
    thread.start()
    return thread


def test_a_page_is_read_whole_while_another_process_rewrites_it() -> None:
    """Half of one count and half of another would be an alert about nothing."""
    board = Board(2)
    assert board.read_page(0) is None
    writer = os.fork()
    if writer == 0:
        try:
            for number in range(3_000):
                board.write_page(0, [number] * 500)
        finally:
            os._exit(0)
    seen = []
    while os.waitpid(writer, os.WNOHANG) == (0, 0):
        page = board.read_page(0)
        if page is not None:
            assert page == [page[0]] * 500
            seen.append(page[0])
    assert seen == sorted(seen)
    assert board.read_page(0) == [2_999] * 500
    assert board.read_page(1) is None


def test_a_page_too_large_for_its_slot_is_refused() -> None:
    """It would run into the next worker's."""
    with pytest.raises(ValueError, match="at most"):
        Board(2).write_page(0, "x" * 70_000)


def test_the_first_version_of_a_worker_waits_for_nobody() -> None:
    """Somebody waits for an answer; a worker that is replaced must serve at once."""
    board = Board(2)
    peers(board, 0).swap_together(ref(1))
    peers(board, 1).swap_together(ref(2))


def test_workers_that_serve_swap_only_when_all_have_the_version_ready() -> None:
    """A caller with two connections should not see two versions for longer than a moment."""
    board = Board(3)
    workers = [peers(board, worker) for worker in range(3)]
    for worker in workers:
        worker.swap_together(ref(1))
    waiting = [in_thread(worker, 2) for worker in workers[:2]]
    waiting[0].join(0.05)
    assert all(thread.is_alive() for thread in waiting)
    workers[2].swap_together(ref(2))
    for thread in waiting:
        thread.join(10)
        assert not thread.is_alive()


def test_nobody_waits_for_a_worker_that_refused_the_version_or_ended() -> None:
    """One full disk must not keep the others from following."""
    board = Board(3)
    workers = [peers(board, worker) for worker in range(3)]
    for worker in workers:
        worker.swap_together(ref(1))
    workers[1].refuse(ref(2))
    board.clear_marks(2)
    workers[0].swap_together(ref(2))


def test_patience_ends() -> None:
    """A worker that hangs leaves the others free to go on."""
    board, slept = Board(2), []
    workers = [peers(board, worker, patience_s=0.0, sleep=slept.append) for worker in range(2)]
    for worker in workers:
        worker.swap_together(ref(1))
    workers[0].swap_together(ref(2))


def test_metrics_are_those_of_all_workers_and_outlive_each(follower: Any) -> None:
    """A scrape reaches one worker, and a counter that falls looks like a restart of everything."""
    board = Board(2)
    first, second = (Sidecar(follower, peers=peers(board, worker)) for worker in range(2))
    for application, requests in ((first, 2), (second, 3)):
        for _ in range(requests):
            ask_application(application, "/invocations", {"inputs": ROW})
        application.telemetry.in_flight = 1
        application.tick()

    def lines(application: Sidecar) -> list[str]:
        return list(ask_application(application, "/metrics")[2].decode().splitlines())

    assert 'modelflow_requests_total{path="/invocations",status="200"} 5.0' in lines(first)
    assert 'modelflow_phase_seconds_count{phase="score"} 5.0' in lines(second)
    assert 'modelflow_workers{version="7"} 2.0' in lines(first)
    replaced = Sidecar(follower, peers=peers(board, 1))
    assert isinstance(replaced.telemetry, Telemetry)
    assert replaced.telemetry.in_flight == 0
    replaced.tick()
    assert 'modelflow_requests_total{path="/invocations",status="200"} 5.0' in lines(first)
    status = ask_application(first, "/status")[2]
    assert [worker["version"] for worker in status["workers"]] == [7, 7]

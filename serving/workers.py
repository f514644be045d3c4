"""The workers of one sidecar: forked from one parent that replaces those that die, and ends with them.

Each worker has a listening socket of its own on the one port, so that the kernel spreads connections over them. The
parent keeps every socket open: connections that wait for a worker that has died are answered by the one that takes its
place, and nobody is refused. TERM and INT are passed on; the parent ends with code 0 when all workers have drained.
"""

import logging
import os
import signal
import socket
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from ml_core.process import die_with_parent
from serving.board import Board

_LOG = logging.getLogger("modelflow.serving")
_SETTLED_S = 5.0
_LONGEST_PAUSE_S = 5.0
_GRACE_S = 5.0

Serve = Callable[[int, Sequence[socket.socket]], None]


class Workers:
    """Keeps as many workers running as there are listeners.

    Parameters
    ----------
    listeners : sequence of socket
        One a worker, bound to the same port.
    board : Board
        Where a worker's marks are cleared when it ends.
    serve : callable
        What a worker does: given its number and its listener, it serves until it is told to stop.
    drain_s : float
        How long workers may take to end after TERM before they are killed.
    """

    def __init__(self, listeners: Sequence[socket.socket], board: Board, serve: Serve, *, drain_s: float) -> None:
        self._listeners = listeners
        self._board = board
        self._serve = serve
        self._drain_s = drain_s
        self._pids: dict[int, int] = {}
        self._began: dict[int, float] = {}
        self._failures = 0
        self._stopping = False
        self._code: int = 0

    def run(self) -> int:
        """Run until told to stop; return 0 when every worker that was told to stop drained in time."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        signal.signal(signal.SIGALRM, self._kill)
        for worker in range(len(self._listeners)):
            self._start(worker)
        while self._pids:
            pid, status = os.wait()
            for ended in [worker for worker, known in self._pids.items() if known == pid]:
                self._ended(ended, os.waitstatus_to_exitcode(status))
        return self._code

    def _ended(self, worker: int, code: int) -> None:
        del self._pids[worker]
        self._board.clear_marks(worker)
        if self._stopping:
            if code != -signal.SIGTERM:  # it was told to stop before it served anything
                self._code = max(self._code, abs(code))
            return
        lasted_s = time.monotonic() - self._began[worker]
        self._failures = 0 if lasted_s > _SETTLED_S else self._failures + 1
        pause_s = min(0.1 * 2.0 ** (self._failures - 1), _LONGEST_PAUSE_S) if self._failures else 0.0
        _LOG.error("worker %s ended with code %s after %.1f s; another takes its place", worker, code, lasted_s)
        time.sleep(pause_s)
        self._start(worker)

    def _start(self, worker: int) -> None:
        parent = os.getpid()
        signals = {signal.SIGTERM, signal.SIGINT, signal.SIGALRM}
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)  # none may arrive before a child has its own handlers
        try:
            if self._stopping:
                return
            with warnings.catch_warnings():
                # the parent runs no thread of its own; idle ones of array libraries are made for being forked
                warnings.simplefilter("ignore", DeprecationWarning)
                pid = os.fork()
            if pid == 0:
                self._be(worker, parent, signals)
            self._pids[worker], self._began[worker] = pid, time.monotonic()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)

    def _be(self, worker: int, parent: int, signals: set[signal.Signals]) -> None:
        """Be a worker, and never return."""
        code = 1
        try:
            for number in signals:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
            die_with_parent(parent)
            for other, listener in enumerate(self._listeners):
                if other != worker:
                    listener.close()
            self._serve(worker, [self._listeners[worker]])
            code = 0
        except BaseException:  # the process boundary: nothing may run on in a copy of the parent  # noqa: BLE001
            _LOG.exception("worker %s failed", worker)
        finally:
            logging.shutdown()
            os._exit(code)

    def _stop(self, *_: Any) -> None:
        if not self._stopping:
            self._stopping = True
            for listener in self._listeners:
                listener.close()
            signal.setitimer(signal.ITIMER_REAL, self._drain_s + _GRACE_S)
        for pid in self._pids.values():
            os.kill(pid, signal.SIGTERM)

    def _kill(self, *_: Any) -> None:
        for pid in self._pids.values():
            os.kill(pid, signal.SIGKILL)

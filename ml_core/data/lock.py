"""A lock between processes with many readers or one writer, fair to both, and released by the kernel.

Two files carry it: whoever wants in queues on the turnstile first, so a waiting writer is not overtaken by readers
that come after it. `flock` belongs to the open file, so a killed holder lets go at once. Waiting is bounded.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ml_core.errors import StoreBusyError

_POLL_S = 0.002


@contextmanager
def locked(directory: Path, *, exclusive: bool, wait_s: float) -> Iterator[float]:
    """Hold the lock of `directory`; yield how many seconds were spent waiting for it.

    Raises
    ------
    StoreBusyError
        The lock was not free within `wait_s` seconds.
    """
    started = time.monotonic()
    deadline = started + wait_s
    with (directory / "lock").open("a+b") as held, (directory / "turnstile").open("a+b") as turnstile:
        _acquire(turnstile.fileno(), fcntl.LOCK_EX, deadline, directory, held.fileno())
        try:
            mode = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
            _acquire(held.fileno(), mode, deadline, directory, held.fileno())
        finally:
            fcntl.flock(turnstile, fcntl.LOCK_UN)
        if exclusive:
            os.ftruncate(held.fileno(), 0)
            os.pwrite(held.fileno(), str(os.getpid()).encode(), 0)
        yield time.monotonic() - started


def wanted(directory: Path) -> bool:
    """Say whether somebody queues for the lock of `directory`."""
    with (directory / "turnstile").open("a+b") as turnstile:
        try:
            fcntl.flock(turnstile, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def _acquire(file: int, mode: int, deadline: float, directory: Path, held: int) -> None:
    while True:
        try:
            fcntl.flock(file, mode | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                writer = os.pread(held, 20, 0).decode() or "none"
                raise StoreBusyError(
                    f"{directory}: expected the feature store to be free in time, found it still held; last writer:"
                    f" process {writer}. Try again, or see what that process is doing"
                ) from None
            time.sleep(_POLL_S)
        else:
            return

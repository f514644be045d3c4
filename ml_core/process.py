"""A process among others: how it is told to stop, how it ends with its parent, and a name that tells it has ended."""

import ctypes
import gc
import logging
import os
import signal
import sys
import threading
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG = 1
_OBJECTS_A_LOOK = 50_000


def die_with_parent(parent: int) -> None:
    """Ask the kernel to terminate this process when its parent, process `parent`, is gone.

    Linux only. Call it first thing in the child: a parent that died before the call is noticed, too.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)


def told_to_stop() -> threading.Event:
    """Return an event that TERM and INT set."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("kafka").setLevel(logging.WARNING)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


def keep_what_is_loaded() -> None:
    """Take what this process has loaded by now out of the garbage collector's sight, and let it look less often.

    For processes that make many small objects for every record: each look would walk over all modules again.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_OBJECTS_A_LOOK, *gc.get_threshold()[1:])


def do_without(library: str) -> None:
    """Let a library count as not installed in this process, unless it is loaded already.

    pyarrow loads pandas with the first array it makes, wherever there is one: 50 MB, and up to two seconds.
    """
    sys.meta_path.insert(0, _Absent(library))


class _Absent(MetaPathFinder):
    """Finds nothing of one library."""

    def __init__(self, library: str) -> None:
        self._library = library

    def find_spec(self, fullname: str, *_: Any) -> None:
        """Refuse the library; leave all others to those who look next."""
        if fullname == self._library:
            raise ModuleNotFoundError(f"this process does without {self._library}", name=fullname)


def this_process() -> str:
    """Return a name that no other process of this machine has until it restarts, also across containers."""
    return f"{_machine()}:{os.getpid()}:{_started(os.getpid())}"


def has_ended(name: str) -> bool:
    """Say whether a process named by `this_process` is known to have ended; of another machine's nothing is known."""
    machine, _, rest = name.partition(":")
    pid, _, started = rest.partition(":")
    return machine == _machine() and _started(int(pid)) != started


def _machine() -> str:
    """Return this boot of this machine, and the namespace in which process numbers are counted."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{boot}/{Path('/proc/self/ns/pid').stat().st_ino}"


def _started(pid: int) -> str:
    """Return when a process started, in ticks since boot; "" when there is none, or it is only waiting to be buried."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]

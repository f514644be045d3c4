"""Runs one command and makes sure that it, and everything it starts, ends with this process or with its parent.

`python -m orchestration.guard PARENT -- COMMAND ...`. The kernel tells the guard when process PARENT is gone; the guard
then ends its whole process group: first politely, and whoever is left after a while not. It uses the standard library
alone, so it is there before what it guards.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

_PR_SET_PDEATHSIG = 1
_PATIENCE_S = 4.0


def main() -> int:
    """Run the command of `sys.argv`; return its exit code."""
    parent, command = int(sys.argv[1]), sys.argv[3:]

    def end(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the group's own signal comes back to us
        os.killpg(os.getpgrp(), signal.SIGTERM)
        deadline = time.monotonic() + _PATIENCE_S
        while not _is_alone():
            if time.monotonic() > deadline:
                os.killpg(os.getpgrp(), signal.SIGKILL)
            time.sleep(0.05)

    # a command that maps TERM onto INT must not inherit an INT that is ignored
    signal.signal(signal.SIGINT, signal.default_int_handler)
    child = subprocess.Popen(command)  # noqa: S603 - the supervisor's own command
    signal.signal(signal.SIGTERM, end)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        end(signal.SIGTERM, None)
    return child.wait()


def _is_alone() -> bool:
    """Say whether nobody else of this process group lives; one that ended and was not asked about does not."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, group = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()[:3]
        except OSError:  # it has just ended
            continue
        if int(group) == os.getpgrp() and state != "Z" and int(folder.name) != os.getpid():
            return False
    return True


if __name__ == "__main__":
    sys.exit(main())

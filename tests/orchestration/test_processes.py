"""A platform's processes belong to one supervisor at a time."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from orchestration.processes import Supervisor

_REAP = (
    "import sys; from pathlib import Path; from orchestration.processes import Supervisor\n"
    "with Supervisor(Path(sys.argv[1])) as supervisor: print(supervisor.reap())"
)
_START = (
    "import sys, time; from pathlib import Path; from orchestration.processes import Supervisor\n"
    "supervisor = Supervisor(Path(sys.argv[1])); supervisor.start('sleeper', ['sleep', '300'])\n"
    "print('started', flush=True); time.sleep(300)"
)


def reap(home: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _REAP, str(home)], capture_output=True, text=True, timeout=60, check=False
    )


def children(pid: int) -> list[int]:
    return [child.pid for child in psutil.Process(pid).children()]


def test_a_second_start_leaves_a_running_platform_alone(tmp_path: Path) -> None:
    """Whoever types `make up` twice must not lose the first."""
    with Supervisor(tmp_path) as supervisor:
        supervisor.start("sleeper", ["sleep", "300"])
        second = reap(tmp_path)
        assert second.returncode == 1
        assert f"is in use by process {os.getpid()}; stop that one first" in second.stderr
        supervisor.check()
        assert reap(tmp_path / "another home").stdout == "0\n"
    assert reap(tmp_path).stdout == "0\n"


def test_what_a_killed_platform_left_behind_is_ended(tmp_path: Path) -> None:
    """Its guard was killed with it, so nobody else does."""
    first = subprocess.Popen([sys.executable, "-c", _START, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None
    assert first.stdout.readline() == "started\n"
    (guard,) = children(first.pid)
    while not children(guard):
        time.sleep(0.05)
    for pid in (guard, first.pid):
        os.kill(pid, signal.SIGKILL)
    first.wait()
    first.stdout.close()
    assert reap(tmp_path).stdout == "1\n"

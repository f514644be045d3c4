"""The guard: whatever it started ends with it, in peace where it can."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

# tells that it runs, and takes half a second to end once it is told to; so does a process that it starts
LEISURELY = """
import pathlib, signal, subprocess, sys, time
told, *deeper = map(pathlib.Path, sys.argv[1:])
def end(*_):
    time.sleep(0.5)
    told.write_text("ended in peace")
    sys.exit(7)
signal.signal(signal.SIGTERM, end)
if deeper:
    subprocess.Popen([sys.executable, "-c", pathlib.Path(deeper[1]).read_text(), deeper[0]])
    while not deeper[0].exists():
        time.sleep(0.01)
told.write_text("running")
while True:
    time.sleep(60)
"""
DEAF = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('running', flush=True); time.sleep(600)"
)


def guarded(*command: str) -> subprocess.Popen[bytes]:
    """Start a command under a guard of this process, in a group of its own."""
    guard = [sys.executable, "-m", "orchestration.guard", str(os.getpid()), "--", sys.executable, "-c", *command]
    return subprocess.Popen(guard, start_new_session=True)


def test_who_ends_when_told_to_is_waited_for_and_its_code_handed_on(tmp_path: Path) -> None:
    """A sidecar drains, a trainer writes down where it stands: neither may be cut off, nor waited for in vain."""
    script, told, deeper = tmp_path / "script.py", tmp_path / "told", tmp_path / "deeper"
    script.write_text(LEISURELY)
    guard = guarded(LEISURELY, str(told), str(deeper), str(script))
    while not (told.exists() and told.read_text() == "running"):
        assert guard.poll() is None
        time.sleep(0.01)
    guard.terminate()
    # a guard that runs out of patience is killed with its group, and has no code of its own
    assert guard.wait(60) == 7
    assert told.read_text() == deeper.read_text() == "ended in peace"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_who_does_not_hear_ends_all_the_same(number: signal.Signals) -> None:
    """Also where the one that asked for it is gone: a port that stays taken keeps the next start from its work."""
    asker = subprocess.Popen(
        [sys.executable, "-c", f"""
import os, subprocess, sys, time
guard = [sys.executable, "-m", "orchestration.guard", str(os.getpid()), "--", sys.executable, "-c", {DEAF!r}]
child = subprocess.Popen(guard, stdout=subprocess.PIPE, text=True, start_new_session=True)
print(child.stdout.readline().strip(), child.pid, flush=True)
time.sleep(600)
"""],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert asker.stdout is not None
    running, pid = asker.stdout.readline().split()
    assert running == "running"
    guard = psutil.Process(int(pid))
    family = [guard, *guard.children()]
    assert len(family) == 2
    if number == signal.SIGTERM:
        guard.terminate()
    else:
        asker.kill()
    while any(map(lives, family)):
        time.sleep(0.05)
    asker.kill()
    asker.communicate()


def lives(process: psutil.Process) -> bool:
    """Say whether a process is there, and not only its code for who may ask for it."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False

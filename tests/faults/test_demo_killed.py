"""The demo killed at any moment: the next start is clean, and nothing of the last one is left running."""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHORT = ["demo", "--train-until", "2013-01-20", "--replay-until", "2013-01-22"]


def start(home: Path) -> "subprocess.Popen[bytes]":
    environment = os.environ | {"MODELFLOW_HOME": str(home)}
    program = str(Path(sys.executable).with_name("modelflow"))
    return subprocess.Popen([program, *SHORT], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)


def left_running(home: Path) -> list[str]:
    """Name the processes that carry the mark of this home."""
    mark = f"MODELFLOW_SUPERVISED_BY={home}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and mark in (entry / "environ").read_bytes():
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


@pytest.mark.slow
@pytest.mark.timeout(1_200)
def test_a_demo_killed_at_ten_moments_leaves_nothing_running_and_the_next_one_succeeds(tmp_path: Path) -> None:
    """SIGKILL gives a process no chance to clean up: its children notice, and the next start removes what it wrote."""
    moments = random.Random(7)  # noqa: S311 - a reproducible choice of moments
    for _ in range(10):
        demo = start(tmp_path)
        time.sleep(moments.uniform(1, 45))
        demo.kill()
        demo.wait()
        deadline = time.monotonic() + 30
        while left_running(tmp_path / "demo") and time.monotonic() < deadline:
            time.sleep(0.2)
        assert left_running(tmp_path / "demo") == []
    assert start(tmp_path).wait(300) == 0
    report = json.loads((tmp_path / "demo" / "report.json").read_text())
    assert report["requests"]["failed"] == 0
    assert report["versions"][0]["version"] == 1
    assert left_running(tmp_path / "demo") == []

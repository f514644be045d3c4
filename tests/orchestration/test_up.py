"""The platform ends when it is told to, whatever it is at."""

import signal
import subprocess
import sys

import pytest

_WAITS = "import time; time.sleep(60)"
_ASKS = "import duckdb; duckdb.sql('select count(*) from range(1000000000000) t(a) where hash(a) = 0').fetchall()"
_FAILS = "raise RuntimeError('of its own')"
_SCRIPT = """
from orchestration.up import _until_told_to_end
with _until_told_to_end():
    print("within", flush=True)
    {work}
print("ended", flush=True)
"""


def start(work: str) -> subprocess.Popen[str]:
    script = [sys.executable, "-c", _SCRIPT.format(work=work)]
    return subprocess.Popen(script, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("work", [_WAITS, _ASKS], ids=["waiting", "in the middle of a query"])
def test_a_signal_ends_what_goes_on(work: str, number: signal.Signals) -> None:
    """Taking in eight months of flights is a matter of a minute, and nobody waits that long for Ctrl-C."""
    with start(work) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "within\n"
        process.send_signal(number)
        told, failed = process.communicate(timeout=30)
        assert (process.returncode, told, failed) == (0, "ended\n", "")


def test_an_error_is_still_one() -> None:
    """Only what a signal caused is its doing."""
    with start(_FAILS) as process:
        told, failed = process.communicate(timeout=30)
        assert (process.returncode, told) == (1, "within\n")
        assert "RuntimeError: of its own" in failed

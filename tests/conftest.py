"""What all rooms' tests share.

Invariant: a test that had to be skipped is named in the summary, and with `--fail-on-skip` it fails the session,
so that continuous integration never passes on tests it did not run. What a library's own check leaves out (those of
scikit-learn, of array libraries that are not there) is not one of our tests.
"""

import hashlib
import os
import runpy
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# whoever begins one of these last keeps the others waiting; the first is the longest
LONGEST = [
    "faults/test_demo_killed.py",
    "integration/test_running_platform.py",
    "test_readme.py",
    "flow/test_interrupted.py",
    "flow/test_registry.py",
    "streaming/test_learner.py",
    "flow/test_backup.py",
    "training/spark/test_learning.py",
]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--fail-on-skip`, which `.ci/run` sets."""
    parser.addoption("--fail-on-skip", action="store_true", help="a skipped test makes the session fail")


def pytest_configure() -> None:
    """Let Python keep what it compiles, whatever the environment says.

    Tests start more than a hundred processes that import MLflow or Dagster; where `PYTHONDONTWRITEBYTECODE` is set, as
    it often is in containers, each of them would compile all of that again, for ten seconds and more.
    """
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files, so that workers that take one file after the other end at about the same time."""
    places = {ROOT / "tests" / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(LONGEST)))


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Turn success into failure when a test was skipped and none may be."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    reports = reporter.stats.get("skipped", []) if reporter else []
    skipped = [report for report in reports if Path(report.longrepr[0]).resolve().is_relative_to(ROOT / "tests")]
    if session.config.getoption("--fail-on-skip") and skipped and exitstatus == pytest.ExitCode.OK:
        reporter.write_line(f"{len(skipped)} skipped, and --fail-on-skip is set", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session")
def plain_environment() -> Callable[..., Path]:
    """Return a maker of environments that have none of our code: `plain_environment("name", "-r", lock)`.

    The arguments after the name are those of `uv pip install`. An environment is kept under `var/envs` by the digest
    of its arguments and of the files among them, and made once.
    """
    settings = runpy.run_path(str(ROOT / "scripts" / "bootstrap.py"))["uv_settings"]
    uv = Path(sys.executable).with_name("uv")

    def make(name: str, *arguments: str | Path) -> Path:
        content = hashlib.sha256(sys.version.encode())
        for argument in arguments:
            content.update(argument.read_bytes() if isinstance(argument, Path) else argument.encode())
        place = ROOT / "var" / "envs" / f"{name}-{content.hexdigest()[:12]}"
        python = place / "bin" / "python"
        if not (place / ".ready").exists():
            environment = {**os.environ, **settings()}
            subprocess.run([uv, "venv", "--clear", "--python", sys.executable, place], check=True, timeout=60)
            install = [uv, "pip", "install", "--python", python, *arguments]
            subprocess.run(install, check=True, timeout=240, env=environment)
            (place / ".ready").touch()
        return python

    return make


@pytest.fixture
def free_port() -> int:
    """Return a loopback port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

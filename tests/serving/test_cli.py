"""The command line refuses numbers that make no sense, before anything is begun."""

import subprocess
import sys
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from serving.cli import serve
from serving.settings import Settings

SENSELESS = [
    ("--workers", "0"),
    ("--port", "-1"),
    ("--port", "70000"),
    ("--poll-interval", "0"),
    ("--poll-interval", "-1"),
    ("--poll-interval", "nan"),
    ("--poll-interval", "inf"),
    ("--registry-timeout", "0"),
    ("--max-staleness", "nan"),
    ("--max-body-bytes", "0"),
    ("--max-rows", "0"),
    ("--max-in-flight", "-5"),
    ("--max-queue", "0"),
    ("--deadline", "0"),
    ("--log-share", "5"),
    ("--log-share", "nan"),
    ("--log-bytes", "0"),
    ("--shadow-share", "-0.1"),
    ("--canary-share", "1.1"),
    ("--die-with-parent", "0"),
]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """Return what the sidecar is started with; it is not."""
    told: list[Settings] = []

    def run(settings: Settings) -> int:
        told.append(settings)
        return 0

    monkeypatch.setattr("serving.sidecar.run", run)
    monkeypatch.setenv("COLUMNS", "200")
    return told


def invoke(*options: str, **environment: str) -> Any:
    application = typer.Typer()
    application.command()(serve)
    return CliRunner().invoke(application, ["models:/f/Production", *options], env=environment)


@pytest.mark.parametrize(("option", "value"), SENSELESS)
def test_a_number_that_makes_no_sense_is_refused_by_its_option(told: list[Settings], option: str, value: str) -> None:
    """A share of 5 or an interval of nan would be found out in production, by what it does there."""
    answer = invoke(option, value)
    assert (answer.exit_code, told) == (2, [])
    assert option in answer.output
    assert "is not in the range" in answer.output or "expected a finite number" in answer.output


def test_it_is_refused_where_the_environment_says_it_too(told: list[Settings]) -> None:
    """In a container that is where settings come from."""
    answer = invoke(MODELFLOW_SERVE_WORKERS="0")
    assert (answer.exit_code, told) == (2, [])
    assert "MODELFLOW_SERVE_WORKERS" in answer.output


def test_numbers_at_the_edge_of_sense_are_taken(told: list[Settings]) -> None:
    """Port 0 is any free one, and a share of 1 is everything."""
    options = ("--port", "0", "--poll-interval", "0.02", "--log", "logged", "--log-share", "1", "--max-staleness", "60")
    assert invoke(*options).exit_code == 0
    (settings,) = told
    assert settings.log is not None
    assert (settings.port, settings.log.share, settings.follower.poll_interval_s) == (0, 1.0, 0.02)
    assert (settings.workers, settings.follower.max_staleness_s, settings.limits.deadline_s) == (1, 60.0, 10.0)


def test_the_process_ends_with_code_2_and_no_traceback() -> None:
    """What starts it tells a mistake in its settings from a fault by the code."""
    command = [sys.executable, "-m", "serving", "models:/f/Production", "--workers", "0"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert answer.returncode == 2
    assert "Traceback" not in answer.stderr

"""What all rooms' tests share.

Invariant: a test that had to be skipped is named in the summary, and with `--fail-on-skip` it fails the session,
so that continuous integration never passes on tests it did not run.
"""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--fail-on-skip`, which `.ci/run` sets."""
    parser.addoption("--fail-on-skip", action="store_true", help="a skipped test makes the session fail")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Turn success into failure when a test was skipped and none may be."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if reporter else []
    if session.config.getoption("--fail-on-skip") and skipped and exitstatus == pytest.ExitCode.OK:
        reporter.write_line(f"{len(skipped)} skipped, and --fail-on-skip is set", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED

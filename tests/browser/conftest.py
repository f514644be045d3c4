"""A browser and a Dagster webserver for the tests of what people see.

Debian's chromium is installed where that is possible (root and apt-get); elsewhere these tests are skipped by name.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestration.processes import Supervisor, answers, free_port

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def chromium() -> None:
    """Make sure that chromium is there, or skip."""
    if shutil.which("chromium") is None:
        if os.geteuid() != 0 or shutil.which("apt-get") is None:
            pytest.skip("needs Debian's chromium: apt-get install chromium")
        subprocess.run([ROOT / ".ci" / "debian-packages"], check=True, timeout=600)


@pytest.fixture(scope="session")
def dagster_pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a webserver on the shipped workspace with an empty home; return its address."""
    home = tmp_path_factory.mktemp("browser")
    (home / "dagster.yaml").write_text("telemetry:\n  enabled: false\n", encoding="utf-8")
    port = free_port()
    command = [sys.executable, "-m", "dagster_webserver", "--workspace", str(ROOT / "workspace.yaml")]
    with Supervisor(home) as supervisor:
        supervisor.start(
            "dagster-webserver",
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            environment={"DAGSTER_HOME": str(home), "MODELFLOW_HOME": str(home / "var")},
        )
        supervisor.wait_until("dagster-webserver", lambda: answers(port, "/server_info"), timeout_s=120)
        yield f"http://127.0.0.1:{port}"

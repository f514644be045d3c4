"""The image definitions: linted, and complete without an engine at hand."""

import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"


@pytest.mark.parametrize("image", sorted(DOCKER.glob("*.Dockerfile")), ids=lambda file: file.stem)
def test_every_image_definition_passes_the_linter(image: Path) -> None:
    """An unpinned base or a root user would reach every place the image runs."""
    hadolint = Path(sys.executable).with_name("hadolint")
    found = subprocess.run([hadolint, image], capture_output=True, text=True, check=False, timeout=60)
    assert (found.returncode, found.stdout) == (0, "")


def test_the_sidecar_starts_with_nothing_but_its_own_lock(
    plain_environment: Callable[..., Path], free_port: int, tmp_path: Path
) -> None:
    """A package missing from the sidecar's lock would only be noticed when the container starts."""
    python = plain_environment("sidecar", "--require-hashes", "-r", DOCKER / "sidecar-requirements.lock")
    for room in ("ml_core", "serving"):  # what the image copies
        shutil.copytree(ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run([python, "-c", "import serving, serving.topic, kafka"], cwd=tmp_path, check=True, timeout=60)
    address = f"http://127.0.0.1:{free_port}"
    environment = {
        **os.environ,
        "MODELFLOW_SERVE_PORT": str(free_port),
        "MODELFLOW_SERVE_CACHE": str(tmp_path / "cache"),
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",  # nothing answers there
    }
    command = [python, "-m", "serving", "models:/none/Production"]
    with subprocess.Popen(command, cwd=tmp_path, env=environment) as sidecar:
        try:
            assert status_of(f"{address}/v2/health/live") == 200
            assert status_of(f"{address}/v2/health/ready") == 503
        finally:
            sidecar.send_signal(signal.SIGTERM)
            code = sidecar.wait(timeout=30)
    assert code == 0


@pytest.mark.slow
@pytest.mark.parametrize(("compiler", "built"), [(None, True), ("/bin/false", False)])
def test_what_is_compiled_is_built_as_the_image_builds_it(compiler: str | None, built: bool, tmp_path: Path) -> None:
    """From the rooms it copies; without a compiler it is left out, and the sidecar does without."""
    shutil.copytree(ROOT / "serving", tmp_path / "serving", ignore=shutil.ignore_patterns("__pycache__", "*.so", "*.c"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    command = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
    environment = os.environ if compiler is None else {**os.environ, "CC": compiler}
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=300)
    found = sorted(file.name.partition(".")[0] for file in (tmp_path / "serving" / "scorer").glob("*.so"))
    assert found == (["jsonrows", "stringtable"] if built else [])


def status_of(url: str) -> int:
    """Return the status that `url` answers with, waiting for its server to listen."""
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - a loopback address
                return int(answer.status)
        except urllib.error.HTTPError as refused:
            return refused.code
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)

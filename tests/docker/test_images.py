"""The image definitions: linted, and complete without an engine at hand."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from fnmatch import fnmatch
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


@pytest.mark.parametrize("image", sorted(DOCKER.glob("*.Dockerfile")), ids=lambda file: file.stem)
def test_what_an_image_copies_is_sent_to_the_builder(image: Path) -> None:
    """What .dockerignore leaves out is not found, and the image cannot be built."""
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", image.read_text(), re.MULTILINE)
    for source in " ".join(copied).split():
        assert (ROOT / source).exists()
        places = [source, *map(str, Path(source).parents)]
        fitting = [rule for rule in rules if any(fnmatch(place, rule.lstrip("!")) for place in places)]
        assert fitting[-1].startswith("!"), f"{source} is left out by {fitting[-1]}"


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
@pytest.mark.parametrize(("compiler", "built"), [(None, ["jsonrows", "stringtable"]), ("/bin/false", [])])
def test_what_is_compiled_is_built_from_what_is_handed_out(
    compiler: str | None, built: list[str], tmp_path: Path
) -> None:
    """From the archive that pip would get; without a compiler it is left out, and serving goes on without."""
    source = tmp_path / "source"
    shutil.copytree(ROOT / "serving", source / "serving", ignore=shutil.ignore_patterns("__pycache__", "*.so", "*.c"))
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    environment = os.environ | ({} if compiler is None else {"CC": compiler})
    setup = [sys.executable, "setup.py", "--quiet"]
    subprocess.run([*setup, "sdist"], cwd=source, check=True, timeout=300)
    (archive,) = (source / "dist").iterdir()
    shutil.unpack_archive(archive, tmp_path)
    (handed_out,) = tmp_path.glob("modelflow-*")
    subprocess.run([*setup, "build_ext", "--inplace"], cwd=handed_out, env=environment, check=True, timeout=300)
    found = sorted(file.name.partition(".")[0] for file in (handed_out / "serving" / "scorer").glob("*.so"))
    assert found == built
    shutil.copytree(ROOT / "ml_core", handed_out / "ml_core", dirs_exist_ok=True)
    said = f"import serving, sys; from serving.scorer.texts import COMPILED; sys.exit(COMPILED is not {bool(built)})"
    subprocess.run([sys.executable, "-c", said], cwd=handed_out, check=True, timeout=60)


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

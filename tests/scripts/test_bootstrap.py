"""The set-up script: from python3 alone, quick when nothing changed, never half done."""

import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "bootstrap.py"
PROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "small"
version = "1"

[tool.setuptools]
py-modules = []
"""


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a project as small as can be: its lock holds uv and setuptools alone."""
    place = tmp_path_factory.mktemp("clone")
    (place / "scripts").mkdir()
    shutil.copy(SCRIPT, place / "scripts")
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    pins = re.findall(r"^(?:uv|setuptools)==.*(?:\n {4}.*)*", lock, re.MULTILINE)
    (place / "requirements.lock").write_text("\n".join(pins) + "\n", encoding="utf-8")
    (place / "pyproject.toml").write_text(PROJECT, encoding="utf-8")
    return place


def bootstrap(place: Path) -> str:
    """Run the script as make does; return what it said."""
    command = [sys.executable, "scripts/bootstrap.py"]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_makes_an_environment_once_and_then_leaves_it_alone(clone: Path) -> None:
    """Every make target runs it first, so a second run must cost nothing."""
    assert "creating .venv" in bootstrap(clone)
    installed = subprocess.run(
        [clone / ".venv" / "bin" / "uv", "pip", "list", "--python", clone / ".venv"],
        check=True, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert {"small", "setuptools", "uv"} <= {line.split()[0] for line in installed.stdout.splitlines()}
    assert bootstrap(clone) == ""


def test_a_changed_project_file_is_installed_without_starting_over(clone: Path) -> None:
    """A new console script or dependency has to reach people who only pull and run make."""
    bootstrap(clone)
    (clone / "pyproject.toml").write_text(PROJECT.replace('version = "1"', 'version = "2"'), encoding="utf-8")
    said = bootstrap(clone)
    assert "installing the project" in said
    assert "creating .venv" not in said


def test_an_interrupted_set_up_is_taken_up_again(clone: Path) -> None:
    """Without its last step an environment may lack anything."""
    bootstrap(clone)
    (clone / ".venv" / ".ready").unlink()
    assert "ready after" in bootstrap(clone)


@pytest.mark.slow  # it makes one environment more
def test_an_environment_that_was_moved_is_made_anew(clone: Path, tmp_path: Path) -> None:
    """Its scripts would start the interpreter of the old place."""
    bootstrap(clone)
    moved = tmp_path / "moved"
    shutil.copytree(clone, moved, symlinks=True)
    assert "creating .venv" in bootstrap(moved)


def functions() -> dict[str, Any]:
    """Load the script's functions."""
    return runpy.run_path(str(SCRIPT))


def test_uv_asks_the_index_that_pip_is_configured_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Behind a company's mirror the set-up would otherwise stop half-way."""
    for name in [name for name in os.environ if name.startswith(("UV_", "SSL_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("UV_INDEX", "https://mine.example/simple")
    settings = functions()["uv_settings"]
    listed = (
        "global.index-url='https://mirror.example/simple'\n:env:.extra-index-url='https://other.example/simple'\n"
        f":env:.find-links='/no/such/folder {tmp_path}'\nglobal.timeout='60'"
    )
    monkeypatch.setitem(settings.__globals__, "answer", lambda *_: listed)
    found = settings()
    assert found["UV_DEFAULT_INDEX"] == "https://mirror.example/simple"
    assert found["UV_FIND_LINKS"] == str(tmp_path)
    assert "UV_INDEX" not in found  # a UV_ variable that is set wins


def test_another_python_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock was resolved for 3.11 to 3.13; elsewhere it fails in ways nobody understands."""
    monkeypatch.setattr(sys, "version_info", (3, 9, 2, "final", 0))
    with pytest.raises(SystemExit, match=r"expected Python 3\.11 to 3\.13, found 3\.9\.2"):
        functions()["main"]()

"""Where a machine stands and what language it speaks changes nothing: the same bits come of the same facts."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.registries import empty_registry

ROOT = Path(__file__).resolve().parents[2]
# a locale that is not installed falls back to C, and would test nothing
_INSTALLED = {
    name.lower()
    for name in subprocess.run(["locale", "-a"], capture_output=True, text=True, check=False).stdout.split()
}
_LOCALES = [("C", "c"), ("POSIX", "posix"), ("C.UTF-8", "c.utf8"), ("de_DE.UTF-8", "de_de.utf8")]
PLACES = [
    *({"TZ": zone} for zone in ("America/New_York", "Asia/Kathmandu", "Pacific/Apia")),
    *(
        {"TZ": "Asia/Kathmandu", "LC_ALL": name, "LANG": name, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
        for name, installed in _LOCALES
        if installed in _INSTALLED
    ),
]


def lived(folder: Path, place: dict[str, str]) -> Any:
    """Return what a flow came to in a process of its own at a place."""
    empty_registry(folder / "home" / "mlflow" / "mlflow.db")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "TZ", "PYTHON"))}
    ran = subprocess.run(
        [sys.executable, "-m", "tests.faults.one_life", str(folder)],
        cwd=ROOT, env=kept | place, capture_output=True, check=False, timeout=180,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr.decode("utf-8", "replace")[-3000:]
    return json.loads(ran.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def in_utc(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return what the flow came to in UTC, in C.UTF-8."""
    told = lived(tmp_path_factory.mktemp("utc"), {"TZ": "UTC", "LC_ALL": "C.UTF-8"})
    assert told["after 2 days"]["rows"] == 300
    assert (told["after 4 days"]["rows"], told["after 4 days"]["version"]) == (600, 2)
    return told


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES, ids=lambda place: " ".join(f"{name}={each}" for name, each in place.items()))
def test_a_life_is_the_same_bits_everywhere(in_utc: Any, tmp_path: Path, place: dict[str, str]) -> None:
    """A laptop in Kathmandu and a container without locales have to be able to reproduce each other's versions."""
    # without UTF-8 a path beyond ASCII has no text that DuckDB could be given
    folder = "zurich" if place.get("LC_ALL") in {"C", "POSIX"} else "Zürich"
    assert lived(tmp_path / folder, place) == in_utc


@pytest.mark.slow
def test_what_is_compared_would_show_a_difference(in_utc: Any) -> None:
    """The digests are of content: a day more makes others."""
    before, after = in_utc["after 2 days"], in_utc["after 4 days"]
    assert all(before[name] != after[name] for name in ("manifest", "state", "features", "examples", "metrics"))

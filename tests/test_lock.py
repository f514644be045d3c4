"""The locks: complete, hashed, free of addresses, and in agreement with each other and with pyproject.toml."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
IMAGES = sorted((ROOT / "docker").glob("*-requirements.lock"))
LOCKS = [ROOT / "requirements.lock", *IMAGES]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PIN = re.compile(
    r"^(?P<name>[\w.-]+)==(?P<version>\S+)(?: ; (?P<marker>.*?))? \\(?P<hashes>(?:\n {4}.*)+)", re.MULTILINE
)


def pins(lock: Path) -> set[tuple[str, str, str]]:
    """Return name, version and marker of every entry of a lock."""
    text = lock.read_text(encoding="utf-8")
    return {(pin["name"], pin["version"], pin["marker"] or "") for pin in PIN.finditer(text)}


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_every_entry_has_hashes_and_no_line_has_an_address(lock: Path) -> None:
    """An address in the lock would send everybody to one person's mirror."""
    text = lock.read_text(encoding="utf-8")
    assert "://" not in text
    assert "--index" not in text
    assert len(pins(lock)) == len(re.findall(r"^\S", text, re.MULTILINE))
    assert all("--hash=sha256:" in pin["hashes"] for pin in PIN.finditer(text))


@pytest.mark.parametrize("image", IMAGES, ids=lambda lock: lock.name)
def test_an_image_runs_the_versions_that_were_tested(image: Path) -> None:
    """A sidecar with another onnxruntime could score differently from the trainer."""
    tested = {(name, version) for name, version, _ in pins(LOCKS[0])}
    known = {name for name, _ in tested}
    assert {(name, version) for name, version, _ in pins(image) if name in known} <= tested


@pytest.mark.parametrize("text", [*PROJECT["project"]["dependencies"], *PROJECT["dependency-groups"]["dev"]])
def test_the_lock_satisfies_what_the_project_asks_for(text: str) -> None:
    """Run `make lock` when this fails: pyproject.toml was changed and the lock was not."""
    wanted = Requirement(text)
    found = [
        version
        for name, version, marker in pins(LOCKS[0])
        if name == canonicalize_name(wanted.name) and applies(marker)
    ]
    assert len(found) == 1
    assert wanted.specifier.contains(found[0])


def test_the_lock_of_spark_is_what_the_extra_and_its_group_ask_for() -> None:
    """It is no part of the other locks, whose users do not wait for several hundred megabytes."""
    (extra,) = PROJECT["project"]["optional-dependencies"]["spark"]
    assert PROJECT["dependency-groups"]["spark"] == [extra]
    locked = {name: version for name, version, _ in pins(ROOT / "docker" / "spark-requirements.lock")}
    assert Requirement(extra).specifier.contains(locked["pyspark"])
    assert "pyspark" not in {name for name, *_ in pins(LOCKS[0])}


def applies(marker: str) -> bool:
    """Whether an entry is for this machine."""
    return not marker or Marker(marker).evaluate()

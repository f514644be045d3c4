"""Taking a backup: databases, artifacts, then stores, and a manifest written last."""

import hashlib
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ml_core.clock import SystemClock
from ml_core.data.log import EventLog
from ml_core.data.store import FeatureStore
from ml_core.disk import room_for
from ml_core.errors import BackupError
from ml_core.flow.backup.databases import dump, kind_of, require
from ml_core.flow.registry import Registry, registry_of
from ml_core.project import Project

FORMAT = 1
MANIFEST = "backup.json"
# what the next process makes anew, or what belongs to a process that runs
_DERIVED = {"learner", "lock", "turnstile", ".producer"}
_ATTEMPTS, _PAUSE_S = 60, 1.0
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Place:
    """Where a platform keeps its registry.

    Attributes
    ----------
    databases : tuple of str
        MLflow's own first, then others that belong to it, such as its users'. The ledger's is found by itself.
    artifacts : Path or None
        The folder of the artifacts; None where they lie in a store that is kept by other means.
    """

    databases: tuple[str, ...]
    artifacts: Path | None


def place_of(
    project: Project,
    databases: tuple[str, ...] = (),
    artifacts: Path | None = None,
    *,
    without_artifacts: bool = False,
) -> Place:
    """Return where a project's registry lies: as told, else where the project itself would keep it."""
    local = project.home / "mlflow"
    if not databases:
        server = project.tracking_uri.startswith("http")
        databases = (f"sqlite:///{local}/mlflow.db" if server else project.tracking_uri,)
    everything = databases if project.ledger_uri in databases else (*databases, project.ledger_uri)
    for uri in everything:
        kind_of(uri)
    return Place(everything, None if without_artifacts else artifacts or local / "artifacts")


def take(project: Project, directory: Path, place: Place) -> dict[str, Any]:
    """Copy the platform into `directory`, which must not exist yet; return the manifest.

    Raises
    ------
    BackupError
        The directory is there already, a database cannot be dumped, artifacts are not where they should be or were let
        go meanwhile, or the flows did not stand still for long enough to be dumped between two transitions.
    SegmentError
        An event log has a gap.
    """
    if directory.exists():
        raise BackupError(f"{directory}: expected nothing there yet; name a new folder for each backup")
    for uri in place.databases:
        require(uri)
    part = directory.with_name(f".{directory.name}.part")
    try:
        with room_for("a backup", directory):
            return _taken(project, directory, part, place)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _taken(project: Project, directory: Path, part: Path, place: Place) -> dict[str, Any]:
    """Copy everything into `part`, and make it `directory` when it is whole."""
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    registry = registry_of(project)
    heads = _databases(project, registry, part, place)
    if place.artifacts is not None and any(head["head"] for head in heads.values()):
        _artifacts(place.artifacts, part / "artifacts")
    _require_all_kept(registry, heads)
    held = {name: _store(project, name, part) for name in project.flows}
    manifest = {
        "format": FORMAT,
        "release": version("modelflow"),
        "made_at": SystemClock().now().isoformat(),
        "databases": [kind_of(uri) for uri in place.databases],
        "artifacts": None if place.artifacts is None else str(place.artifacts.absolute()),
        "flows": {name: heads[name] | {"store_held_s": round(held[name], 3)} for name in project.flows},
        "files": {str(file.relative_to(part)): digest(file) for file in files_of(part)},
    }
    (part / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    part.rename(directory)
    return manifest


def files_of(directory: Path) -> Iterator[Path]:
    """Yield the files of a backup in a fixed order, its manifest left out."""
    yield from sorted(file for file in directory.rglob("*") if file.is_file() and file != directory / MANIFEST)


def digest(file: Path) -> str:
    """Return a file's sha256."""
    content = hashlib.sha256()
    with file.open("rb") as opened:
        while block := opened.read(_BLOCK):
            content.update(block)
    return content.hexdigest()


def _databases(project: Project, registry: Registry, part: Path, place: Place) -> dict[str, dict[str, Any]]:
    """Dump every database between two looks at the ledger that agree; return each flow's head at that moment."""
    for _ in range(_ATTEMPTS):
        before = {name: registry.ledger.newest(name) for name in project.flows}
        if not any(entry.open for entry in before.values()):
            shutil.rmtree(part / "databases", ignore_errors=True)
            (part / "databases").mkdir()
            heads = {name: registry.head(name) for name in project.flows}
            for number, uri in enumerate(place.databases):
                dump(uri, part / "databases" / f"{number}.dump")
            if before == {name: registry.ledger.newest(name) for name in project.flows}:
                return {
                    name: {
                        "entry": before[name].number,
                        "head": None if head is None else head.version,
                        "watermark": None if head is None else head.watermark,
                    }
                    for name, head in heads.items()
                }
        time.sleep(_PAUSE_S)
    moving = [name for name in project.flows if registry.ledger.newest(name).open]
    raise BackupError(
        f"expected a moment without a transition in any flow, found none in {_ATTEMPTS} looks;"
        f" under way now: {moving or 'none, but they follow each other closely'}"
    )


def _artifacts(source: Path, target: Path) -> None:
    if not source.is_dir():
        raise BackupError(
            f"expected the registry's artifacts at {source}, found nothing; name their folder with --artifacts, or say"
            " --without-artifacts where they lie in a store that is kept by other means"
        )
    try:
        shutil.copytree(source, target)
    except shutil.Error as error:  # what retention let go while it was copied
        raise BackupError(f"{source}: not all of it could be copied; try again: {str(error)[:300]}") from error


def _require_all_kept(registry: Registry, heads: dict[str, dict[str, Any]]) -> None:
    """Raise BackupError where versions of the dump were let go before their artifacts were copied."""
    for name, head in heads.items():
        since = [entry for entry in registry.ledger.entries(name) if entry.number > head["entry"]]
        if any(entry.kind == "delete" for entry in since):
            raise BackupError(f"{name}: retention let versions go while their artifacts were copied; try again")


def _store(project: Project, name: str, part: Path) -> float:
    """Copy a flow's store and event log while nobody writes; return how many seconds they were held."""
    store = FeatureStore(project.flow(name), root=project.root, home=project.home)
    if not store.directory.exists():
        return 0.0
    with store.standing_still():
        began = time.monotonic()
        for source in sorted(store.directory.rglob("*")):
            inside = source.relative_to(store.directory)
            if _DERIVED & set(inside.parts) or source.suffix == ".part" or not source.is_file():
                continue
            target = part / "flows" / name / inside
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
        held = time.monotonic() - began
    copied = EventLog(part / "flows" / name / "log")
    for partition in copied.partitions():
        copied.segments(partition)  # raises where one is missing between two others
    return held

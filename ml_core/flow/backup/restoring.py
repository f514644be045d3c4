"""Putting a backup back, into a place where there is nothing yet."""

import json
import shutil
from pathlib import Path
from typing import Any

from ml_core.errors import BackupError
from ml_core.flow.backup.databases import kind_of, load, move_artifacts, require_empty
from ml_core.flow.backup.taking import FORMAT, MANIFEST, Place, digest, files_of
from ml_core.project import Project


def restore(project: Project, directory: Path, place: Place) -> dict[str, Any]:
    """Prove a backup whole, then put it into the project's home and its registry's databases; return its manifest.

    Nothing may run on the home meanwhile. What is there already is never overwritten.

    Raises
    ------
    BackupError
        The backup is damaged or of a later release, or the place is not empty. Nothing was put there.
    """
    manifest = prove(directory)
    kinds = [kind_of(uri) for uri in place.databases]
    if kinds != manifest["databases"]:
        raise BackupError(
            f"expected databases of the kinds {manifest['databases']}, as they were, found {kinds}; name them with"
            " --database, in that order, the ledger's last where it is one of its own"
        )
    flows = [name for name in project.flows if (project.home / "flows" / name).exists()]
    if flows or (place.artifacts is not None and place.artifacts.exists() and any(place.artifacts.iterdir())):
        raise BackupError(f"{project.home}: expected no state there yet, found {flows or place.artifacts}")
    for uri in place.databases:
        require_empty(uri)
    for number, uri in enumerate(place.databases):
        load(uri, directory / "databases" / f"{number}.dump")
    for name in ("flows", "artifacts"):
        target = place.artifacts if name == "artifacts" else project.home / "flows"
        if target is not None and (directory / name).exists():
            shutil.copytree(directory / name, target, dirs_exist_ok=True)
    if manifest["artifacts"] is not None and place.artifacts is not None:
        before, now = Path(manifest["artifacts"]), place.artifacts.absolute()
        for old, new in ((before.as_uri(), now.as_uri()), (str(before), str(now))):
            move_artifacts(place.databases[0], old, new)
    return manifest


def prove(directory: Path) -> dict[str, Any]:
    """Return the manifest of a backup whose every file is what it was; raise BackupError otherwise."""
    try:
        manifest: dict[str, Any] = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
        listed, found_format = dict(manifest["files"]), manifest["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BackupError(f"{directory}: expected a backup with its {MANIFEST}, found {error!r}") from error
    if found_format != FORMAT:
        raise BackupError(
            f"{directory}: expected a backup of format {FORMAT}, found {found_format!r}, made by release"
            f" {manifest.get('release')}; restore it with that release, then bring the installation up to date"
        )
    found = {str(file.relative_to(directory)): digest(file) for file in files_of(directory)}
    if found != listed:
        wrong = sorted(name for name in found.keys() | listed.keys() if found.get(name) != listed.get(name))
        raise BackupError(f"{directory}: expected every file as it was copied; missing, added or altered: {wrong[:5]}")
    return manifest

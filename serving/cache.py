"""The last good package on this machine, so that a start with the registry down serves at once.

Invariant: `last.json` is replaced as a whole and names a package that was proved before it was kept; what is read back
is proved again. The cache is one address's at one registry: a folder that holds another's is ignored. A cache that
cannot be written costs the cache, never a swap.
"""

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from ml_core.flow.read import VersionRef

_LOG = logging.getLogger("modelflow.serving")
_LAST, _VERSIONS, _INCOMING = "last.json", "versions", "incoming"


class PackageCache:
    """A folder that keeps one proved package, and takes downloads in.

    Parameters
    ----------
    directory : Path or None
        None keeps nothing, and takes downloads in the system's temporary folder.
    origin : str
        The registry and the address the packages come from.
    """

    def __init__(self, directory: Path | None, *, origin: str) -> None:
        self._directory = directory
        self._origin = origin
        if directory is not None:
            _sweep(directory)

    @contextmanager
    def incoming(self) -> Iterator[Path]:
        """Yield a folder for one download; what is left of it afterwards is removed."""
        if self._directory is not None:
            self._directory.mkdir(parents=True, exist_ok=True)
        folder = tempfile.mkdtemp(prefix=f"{_INCOMING}-{os.getpid()}-", dir=self._directory)
        try:
            yield Path(folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def elsewhere(self) -> Iterator[Path]:
        """Yield a folder for one download outside the cache, for when there is no room in it; nothing of it is kept."""
        with tempfile.TemporaryDirectory(prefix=f"{_INCOMING}-{os.getpid()}-", ignore_cleanup_errors=True) as folder:
            yield Path(folder)

    def keep(self, ref: VersionRef, package: Path) -> None:
        """Move a proved package into the cache and make it the last good one."""
        if self._directory is None:
            return
        name = f"{ref.version}-{(ref.manifest_sha256 or '')[:16]}"
        target = self._directory / _VERSIONS / name
        try:
            target.parent.mkdir(exist_ok=True)
            if target.exists():
                _mend(target, package)
            else:
                package.rename(target)
            fresh = self._directory / f"{_INCOMING}-{os.getpid()}-{_LAST}"
            fresh.write_text(json.dumps({"origin": self._origin, "package": name, "ref": asdict(ref)}), "utf-8")
            fresh.replace(self._directory / _LAST)
            for other in target.parent.iterdir():
                if other != target:
                    shutil.rmtree(other, ignore_errors=True)
        except OSError as error:
            _LOG.warning("version %s could not be kept in %s: %s", ref.version, self._directory, error)

    def last(self) -> tuple[VersionRef, Path] | None:
        """Return the last good version and its package's folder, which the caller has to prove again."""
        if self._directory is None or not (self._directory / _LAST).is_file():
            return None
        try:
            kept = json.loads((self._directory / _LAST).read_text("utf-8"))
            if kept["origin"] != self._origin:
                _LOG.info("%s holds packages of %s; ignored", self._directory, kept["origin"])
                return None
            return VersionRef(**kept["ref"]), self._directory / _VERSIONS / kept["package"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            _LOG.warning("%s cannot be used: %r", self._directory / _LAST, error)
            return None


def _mend(kept: Path, package: Path) -> None:
    """Move a proved package over a kept one of the same digest, which the disk may have damaged.

    It goes file by file, each replaced as a whole, so that a crash leaves nothing worse than it was.
    """
    files = [file.relative_to(package) for file in package.rglob("*") if file.is_file()]
    for file in files:
        (kept / file).parent.mkdir(parents=True, exist_ok=True)
        (package / file).replace(kept / file)
    for file in [file for file in kept.rglob("*") if not file.is_dir() and file.relative_to(kept) not in files]:
        file.unlink(missing_ok=True)


def _sweep(directory: Path) -> None:
    """Remove downloads of processes that are gone."""
    for leftover in directory.glob(f"{_INCOMING}-*"):
        owner = leftover.name.split("-")[1]
        if not Path("/proc", owner).exists():
            shutil.rmtree(leftover, ignore_errors=True) if leftover.is_dir() else leftover.unlink(missing_ok=True)

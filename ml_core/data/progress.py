"""How far a flow's data has come: a value, and the JSON it is kept as, in the store and beside it for sensors."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path

from ml_core.errors import DataError


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a flow's data has come; what sensors decide by.

    Attributes
    ----------
    clock : datetime or None
        The instant through which every partition is complete; None before the first facts.
    next_example : int
        The offset the next labelled example will get.
    labelled_through : datetime or None
        When the newest example became known.
    offsets : mapping of str to int
        Per partition, the offset of the next fact to absorb.
    late_facts : int
        Facts that came in after the clock had passed the instant they were known.
    late_labels : int
        Labels that came after the flow's label window, and were not joined.
    joined_through : datetime or None
        The clock up to which labels were joined to their rows; None as long as it has been the clock itself.
    features : str
        The fingerprint of the definition the feature table was built by.
    """

    clock: datetime | None = None
    next_example: int = 0
    labelled_through: datetime | None = None
    offsets: Mapping[str, int] | None = None
    late_facts: int = 0
    late_labels: int = 0
    joined_through: datetime | None = None
    features: str = ""


def as_text(progress: Progress) -> str:
    """Return a progress as JSON; what `progress_of` reads."""
    return json.dumps(asdict(progress), default=datetime.isoformat)


def progress_of(content: str, where: str) -> Progress:
    """Read a progress as it was written; raise DataError where this release does not know what it says."""
    try:
        read = json.loads(content)
        for name in ("clock", "labelled_through", "joined_through"):
            read[name] = None if read.get(name) is None else datetime.fromisoformat(read[name])
        return Progress(**read)
    except (ValueError, TypeError, AttributeError) as error:
        known = [each.name for each in fields(Progress)]
        raise DataError(
            f"{where}: expected a progress of {known}, found {content[:300]!r} ({error}); if a later release wrote it,"
            " use that release, or restore the backup made before; if progress.json alone is damaged, remove it: it is"
            " made anew by the next absorption"
        ) from error


class ProgressFile:
    """A progress where sensors find it: replaced as a whole after each transaction it tells of.

    Parameters
    ----------
    path : Path
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> Progress:
        """Return what the file says; where there is none, that nothing has come."""
        if not self._path.exists():
            return Progress(offsets={})
        return progress_of(self._path.read_text(encoding="utf-8"), str(self._path))

    def says(self, progress: Progress) -> bool:
        """Say whether the file says this; one that cannot be read does not."""
        try:
            return self._path.exists() and self.read() == progress
        except DataError:
            return False

    def write(self, progress: Progress) -> None:
        """Replace what the file says."""
        part = self._path.with_suffix(".part")
        part.write_text(as_text(progress) + "\n", encoding="utf-8")
        part.replace(self._path)

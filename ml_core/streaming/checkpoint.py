"""A learner's state, its watermark and its evidence on disk, as one folder that is renamed into place.

A checkpoint is a shortcut, and never the truth: it is what learning the examples from its base version's watermark on
gives, bit for bit. One that is damaged, or of a version that is no longer the head, is passed over.
"""

import json
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ml_core.errors import PackageError, StateError
from ml_core.flow.version import ModelVersion
from ml_core.pipeline import PipelineModel
from ml_core.project import PipelineSettings
from ml_core.training.evaluation import SLICE_FILE, ScoredSlice

_ABOUT = "about.json"
_STATE = "state"
_DIGITS = 12


@dataclass(frozen=True, slots=True)
class Position:
    """Where a learner stands.

    Attributes
    ----------
    base : int
        The version it continues.
    manifest_sha256 : str
        The digest of that version's manifest.
    started : int
        The offset of the first example it learned beyond that version.
    watermark : int
        The offset of the next example.
    """

    base: int
    manifest_sha256: str
    started: int
    watermark: int

    @classmethod
    def at(cls, head: ModelVersion) -> "Position":
        """Return where a learner stands that has just loaded `head`."""
        return cls(head.version, head.manifest_sha256, head.next_example, head.next_example)

    def continues(self, head: ModelVersion) -> bool:
        """Say whether what was learned here is what a child of `head` learns."""
        return replace(self, watermark=head.next_example) == Position.at(head)


class Checkpoints:
    """The checkpoints of one flow: the newest, and one that a registration may still be reading.

    One process has them at a time. A folder that this one neither wrote nor read whole is not taken for its name.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._whole: set[Path] = set()

    def write(self, position: Position, model: PipelineModel, evidence: ScoredSlice) -> Path:
        """Write a checkpoint and return its folder; those before the last one go.

        The name says of which package it is: registries number their versions alike.
        """
        name = f"{position.base:08d}-{position.started:020d}-{position.watermark:020d}"
        folder = self._directory / f"{name}-{position.manifest_sha256[:_DIGITS]}"
        if folder in self._whole:
            return folder
        part = folder.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        model.save(part / _STATE)
        evidence.save(part)
        (part / _ABOUT).write_text(json.dumps(asdict(position)), encoding="utf-8")
        before = [other for other in self._folders() if other != folder]
        # one of an earlier process may be damaged; where this one dies in between, what is older is as good
        if folder.exists():
            shutil.rmtree(folder)
        part.rename(folder)
        self._whole.add(folder)
        for old in before[:-1]:
            self._whole.discard(old)
            shutil.rmtree(old, ignore_errors=True)
        return folder

    def newest(
        self, head: ModelVersion, pipeline: PipelineSettings
    ) -> tuple[Position, PipelineModel, ScoredSlice] | None:
        """Return the furthest whole checkpoint that continues `head`; None where there is none."""
        for folder in reversed(self._folders()):
            try:
                position, model, evidence = read_checkpoint(folder, pipeline)
            except (PackageError, StateError):
                continue
            if position.continues(head):
                self._whole.add(folder)
                return position, model, evidence
        return None

    def _folders(self) -> list[Path]:
        """Return the whole ones, oldest first."""
        folders = [path for path in self._directory.glob("*-*") if not path.suffix]
        return sorted(folders, key=lambda path: path.stat().st_mtime_ns)


def read_checkpoint(folder: Path, pipeline: PipelineSettings) -> tuple[Position, PipelineModel, ScoredSlice]:
    """Read one checkpoint.

    Raises
    ------
    StateError, PackageError
        It is damaged, or of another pipeline.
    """
    try:
        position = Position(**json.loads((folder / _ABOUT).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise StateError(f"{folder}: expected a learner's checkpoint, found {error}; it can be deleted") from error
    return position, PipelineModel.load(folder / _STATE, pipeline), ScoredSlice.load(folder / SLICE_FILE)

"""What runs in a task of Spark: a shard's rows read from the shared folder, and learned or scored from a given state.

Both functions are pure: a task that is run again, elsewhere, gives the same bytes. States travel as the files of a
saved trainer state, so no pickle of ours is in them and a damaged one is noticed.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ml_core.errors import InputError
from ml_core.pipeline import PipelineModel
from ml_core.project import PipelineSettings
from ml_core.training.tasks import no_scores


@dataclass(frozen=True, slots=True)
class Shard:
    """Consecutive examples, as a Parquet file of their own."""

    first: int
    stop: int
    file: str

    def batches(self, signature: Mapping[str, str]) -> Iterator[pa.RecordBatch]:
        """Yield its rows in order, strings as Arrow dictionaries."""
        texts = [name for name, kind in signature.items() if kind == "string"]
        with pq.ParquetFile(self.file, read_dictionary=texts) as file:
            yield from file.iter_batches()


@dataclass(frozen=True, slots=True)
class SavedState:
    """A pipeline model's trainer state by the names and contents of its files."""

    files: tuple[tuple[str, bytes], ...]
    settings: PipelineSettings

    @classmethod
    def of(cls, model: PipelineModel) -> Self:
        """Save a model."""
        with tempfile.TemporaryDirectory(prefix="modelflow-state-") as folder:
            model.save(Path(folder))
            files = tuple((file.name, file.read_bytes()) for file in sorted(Path(folder).iterdir()))
        return cls(files, model.settings)

    def load(self) -> PipelineModel:
        """Return the model; raise StateError where a file is damaged."""
        with tempfile.TemporaryDirectory(prefix="modelflow-state-") as folder:
            for name, content in self.files:
                Path(folder, name).write_bytes(content)
            return PipelineModel.load(Path(folder), self.settings)


@dataclass(frozen=True, slots=True)
class Said:
    """What a model said of a shard's rows.

    Attributes
    ----------
    labels : ndarray of float64, shape (n_rows,)
    scores : ndarray of float64, shape (n_rows,), with more classes (n_rows, n_classes)
    state : SavedState or None
        Where the rows were learned, what came of it.
    refused : str
        Why the model refused a batch; the rest is empty then.
    """

    labels: NDArray[np.float64]
    scores: NDArray[np.float64]
    state: SavedState | None = None
    refused: str = ""


def learn(state: SavedState, shard: Shard) -> Said:
    """Score each row of the shard, then learn it."""
    return _said(state, shard, lambda model: model.learn_batches(shard.batches(model.signature)), keep=True)


def score(state: SavedState, shard: Shard) -> Said:
    """Score the rows of the shard."""

    def scored(model: PipelineModel) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
        for batch in shard.batches(model.signature):
            yield batch.column("label").to_numpy(zero_copy_only=False), model.predict(batch)

    return _said(state, shard, scored, keep=False)


def _said(
    state: SavedState,
    shard: Shard,
    go: Callable[[PipelineModel], Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]],
    *,
    keep: bool,
) -> Said:
    model = state.load()
    labels, scores = [np.empty(0)], [no_scores(model.n_classes)]
    try:
        for those, said in go(model):
            labels.append(those.astype(np.float64))
            scores.append(said)
    except InputError as error:  # trying again elsewhere would not help
        return Said(np.empty(0), no_scores(model.n_classes), refused=f"examples [{shard.first}, {shard.stop}): {error}")
    kept = SavedState.of(model) if keep else None
    return Said(np.concatenate(labels), np.concatenate(scores), kept)

"""A training whose rows are learned on Spark, one shard after another or several side by side.

Under ``sequential`` a shard begins with the state the one before it left: the bits of a training without Spark. Under
``average`` the shards of a group go on from one state, and what they make of it is merged in their order
(`ml_core.pipeline.merging`); the group after it goes on from there. The newest rows are held back
until all before them are one model: a quarter, within what the gate wants and looks at.

The invariant of both: every score in the evidence is what the very model that is published said of a row before that
row, or any row after it, was learned by it or by any shard it was merged from.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ml_core.data.spark import tasks
from ml_core.data.store import FeatureStore
from ml_core.data.words import decoded
from ml_core.errors import InputError, ProjectError
from ml_core.pipeline import PipelineModel
from ml_core.pipeline.merging import merge, obstacle, settled_after
from ml_core.project import Flow, SparkTrainingSettings
from ml_core.training.evaluation import ScoredSlice
from ml_core.training.spark import shards
from ml_core.training.spark.plan import Range, planned
from ml_core.training.spark.shards import Said, SavedState, Shard
from ml_core.training.tasks import no_scores, task_of

# The newest share of a slice that is held back under `average`, unless the gate wants more or looks at less.
_NEWEST = 4


def require_mergeable(flow: Flow, model: PipelineModel) -> None:
    """Refuse a pipeline that the flow's `spark_training` cannot train.

    Raises
    ------
    ProjectError
        A part is fitted on all rows at once, or, under ``average``, has no rule by which states become one; it is
        named.
    """
    if flow.spark_training is None:
        return
    if model.fits or not model.by_row or flow.incremental_training.policy == "refit":
        part = next((stage.kind for stage in model.foreign), model.head.name)
        raise ProjectError(
            f"{flow.name}: expected a pipeline that learns row by row for spark_training, found {part!r}, which is"
            " fitted on all rows at once; remove the table spark_training"
        )
    found = obstacle(model)
    if flow.spark_training.mode == "average" and found is not None:
        raise ProjectError(f'{flow.name}: {found}. Set spark_training.mode = "sequential"')


def learn(
    flow: Flow,
    store: FeatureStore,
    model: PipelineModel,
    first: int,
    stop: int,
    *,
    average: bool = True,
    compare: bool = False,
) -> tuple[PipelineModel, ScoredSlice]:
    """Learn the examples at offsets [first, stop) on Spark; `model` stays as it is.

    Parameters
    ----------
    average : bool
        Whether, under ``average``, any are learned side by side; else all are held back.
    compare : bool
        Whether `model` itself scores the same rows, as a parent's evidence.

    Returns
    -------
    model, evidence
        Under ``sequential`` the evidence is of all rows, under ``average`` of those held back.

    Raises
    ------
    ProjectError
        The pipeline cannot be trained so, or pyspark is not installed.
    PlatformError
        Spark is not to be had.
    InputError
        The model refused rows.
    """
    require_mergeable(flow, model)
    settings = _settings(flow)
    held = _held_back(flow, stop - first) if average else stop - first
    alone = max(settled_after(model) - model.n_trained, 0 if model.n_trained else 1)
    plan = planned(settings, first, stop, judged=held, alone=alone)
    begun = state = SavedState.of(model)
    said: list[Said] = []
    with _handed_over(store, model, plan.ranges) as files:
        for group in plan.groups:
            learned = _run(flow, shards.learn, state, [files[each] for each in group])
            state = _merged(state, learned)
            said += learned if group[0][0] >= plan.judged_from else []
        theirs = [files[each] for each in plan.ranges if each[0] >= plan.judged_from]
        parent = _run(flow, shards.score, begun, theirs) if compare else []
    evidence = ScoredSlice(
        plan.judged_from,
        np.concatenate([np.empty(0), *(each.labels for each in said)]),
        np.concatenate([no_scores(model.n_classes), *(each.scores for each in said)]),
        _scores(parent),
        task_of(model.n_classes),
    )
    return state.load(), evidence


def _held_back(flow: Flow, rows: int) -> int:
    return min(rows, max(flow.gate.min_rows, min(flow.gate.max_rows, rows // _NEWEST)))


def _settings(flow: Flow) -> SparkTrainingSettings:
    if flow.spark_training is None:
        raise ProjectError(
            f"{flow.name}: expected a table spark_training, found none; write it, or train without Spark"
        )
    return flow.spark_training


def _run(
    flow: Flow, function: Callable[[SavedState, Shard], Said], state: SavedState, pieces: Sequence[Shard]
) -> list[Said]:
    """Run one task a shard; raise InputError with the first shard whose rows were refused."""
    said = tasks.run(flow.data, function, state, pieces)
    for each in said:
        if each.refused:
            raise InputError(f"{flow.name}: {each.refused}")
    return said


def _merged(before: SavedState, learned: Sequence[Said]) -> SavedState:
    """Return what the shards of a group made of the state before them; of one alone, its own."""
    states = [each.state for each in learned if each.state is not None]
    if len(states) == 1:
        return states[0]
    model = before.load()
    merge(model, [state.load() for state in states])
    return SavedState.of(model)


def _scores(said: Iterable[Said]) -> NDArray[np.float64]:
    parts = [each.scores for each in said]
    return np.concatenate(parts) if parts else no_scores()


@contextmanager
def _handed_over(store: FeatureStore, model: PipelineModel, ranges: Sequence[Range]) -> Iterator[dict[Range, Shard]]:
    """Write the rows of each range as a Parquet file, the columns that are learned from; remove them at the end."""
    store.spark_folder.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="training-", dir=store.spark_folder)).resolve()
    try:
        folder.chmod(0o755)  # workers may run as another user, and read here
        yield _written(store, ["label", *model.signature], ranges, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _written(store: FeatureStore, columns: Sequence[str], ranges: Sequence[Range], folder: Path) -> dict[Range, Shard]:
    made: dict[Range, Shard] = {}
    at, rest = ranges[0][0], list(ranges)
    writer: Any = None
    for batch in store.example_batches(at, ranges[-1][1]):
        rows = decoded(pa.Table.from_batches([batch.select(columns)]))
        while rows.num_rows:
            first, stop = rest[0]
            if writer is None:
                file = folder / f"{first:012d}-{stop:012d}.parquet"
                made[rest[0]] = Shard(first, stop, str(file))
                writer = pq.ParquetWriter(file, rows.schema, compression="zstd")
            taken = rows.slice(0, stop - at)
            writer.write_table(taken)
            at, rows = at + taken.num_rows, rows.slice(taken.num_rows)
            if at == stop:
                writer.close()
                writer = None
                del rest[0]
    return made

"""What a fresher model would be worth: the same history served again, its labels reaching the model sooner or later.

The protocol is that of Monolith (Liu et al. 2022, arXiv 2209.07663): a model of the history goes on over the rest under
several sync intervals. Every row is scored by what was known when it was asked about (`ml_core.training.prequential`),
so the figures are those of serving, label delay and all, and not those of learning in the labels' order.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ml_core.clock import as_utc
from ml_core.data.store import FeatureStore
from ml_core.errors import DataError, ProjectError
from ml_core.pipeline import PipelineModel
from ml_core.project import Flow
from ml_core.training import passes
from ml_core.training.prequential import NEVER, prequential
from ml_core.training.tasks import figures, task_of

_HISTORY = 0.5


@dataclass(frozen=True, slots=True)
class Fresh:
    """How well rows were answered under one sync interval.

    Attributes
    ----------
    every : timedelta or None
        How often labels reach the model; 0 as soon as they are known, None never.
    figures : dict of str to float
        As `ml_core.training.tasks.figures`, among them `loss`.
    """

    every: timedelta | None
    figures: dict[str, float]


def freshness(
    flow: Flow, store: FeatureStore, intervals: Sequence[timedelta | None], *, since: datetime | None = None
) -> list[Fresh]:
    """Learn the history once, then serve the rest under each of the intervals.

    Parameters
    ----------
    since : datetime, optional
        Where the history ends; by default half of the examples are history.

    Raises
    ------
    ProjectError
        The pipeline does not learn row by row.
    DataError
        There are no examples on one side of `since`.
    """
    stop = store.progress().next_example
    cut = int(stop * _HISTORY) if since is None else store.offset_at(since)
    if not 0 < cut < stop:
        raise DataError(
            f"{flow.name}: expected examples before and after the start of serving, found {cut} before and"
            f" {stop - cut} after it"
        )
    model = passes.build(flow, store)
    if model.fits or not model.by_row:
        raise ProjectError(f"{flow.name}: {model.head.name} or a stage does not learn row by row: nothing to compare")
    passes.learn(model, store, 0, cut)
    rows = store.examples(cut, stop)
    started = rows.column("labelled_at")[0].as_py() if since is None else as_utc(since)
    asked, known = (_seconds(rows.column(name), started) for name in ("request_time", "labelled_at"))
    labels, served = rows.column("label").to_numpy().astype(np.float64), asked >= 0
    if not served.any():
        raise DataError(f"{flow.name}: expected rows asked about from {started} on, found none")
    found = []
    with tempfile.TemporaryDirectory(prefix="freshness-") as folder:
        model.save(Path(folder))
        for every in intervals:
            interval = NEVER if every is None else every.total_seconds()
            trained = PipelineModel.load(Path(folder))
            scores = prequential(trained, rows, labels, asked=asked, delay=known - asked, every=interval)
            found.append(Fresh(every, figures(task_of(model.n_classes), labels[served], scores[served])))
    return found


def _seconds(times: pa.ChunkedArray, since: datetime) -> NDArray[np.float64]:
    passed = times.to_numpy() - np.datetime64(since.replace(tzinfo=None), "us")
    return np.asarray(passed / np.timedelta64(1, "s"), np.float64)

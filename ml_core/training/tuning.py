"""Many configurations of a flow's learner in one pass over its examples, the best by prequential loss.

Every row is scored by each candidate before that candidate learns it (prequential evaluation: Dawid 1984). The table is
read and transformed once (`ml_core.pipeline.sidebyside`); memory is one batch and one state per candidate.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml_core.data.store import FeatureStore
from ml_core.errors import DataError, ProjectError
from ml_core.pipeline import PipelineModel
from ml_core.pipeline.sidebyside import SideBySide
from ml_core.project import Flow
from ml_core.training.tasks import row_loss, task_of

_AROUND = (0.25, 0.5, 1.0, 2.0, 4.0)


@dataclass(frozen=True, slots=True)
class Tried:
    """One configuration and what it lost.

    Attributes
    ----------
    changed : mapping
        Its hyper-parameters in place of the flow's; none for the flow's own configuration.
    loss : float
        Mean prequential loss over all rows: log loss in nats, or squared error over the variance of the labels.
    late_loss : float
        The same over the newer half of the rows.
    failure : str
        Why it stopped learning, such as errors that diverged; its losses are infinite then.
    """

    changed: Mapping[str, Any]
    loss: float
    late_loss: float
    failure: str = ""


def grid_of(flow: Flow, store: FeatureStore, tried: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Return every combination of the values to try, after the flow's own configuration.

    Parameters
    ----------
    tried : mapping of str to sequence
        Values by hyper-parameter of the estimator; without any, a range around its learning rate `alpha`.
    """
    own = PipelineModel.build(flow.pipeline, store.schema()).head.settings()
    if not tried:
        if not isinstance(own.get("alpha"), float):
            raise ProjectError(f"{flow.name}: {own['name']} has no alpha to vary; say what to try, --try NAME=1,2,3")
        tried = {"alpha": [float(f"{own['alpha'] * factor:.6g}") for factor in _AROUND]}
    combinations = (dict(zip(tried, values, strict=True)) for values in itertools.product(*tried.values()))
    return [{}, *(each for each in combinations if own | each != own)]


def tune(
    flow: Flow, store: FeatureStore, grid: Sequence[Mapping[str, Any]], *, newest: int | None = None
) -> list[Tried]:
    """Let every configuration of `grid` learn the flow's examples side by side; return them, the lowest loss first.

    Parameters
    ----------
    newest : int, optional
        Learn only so many of the newest examples, from nothing; by default all.

    Raises
    ------
    ProjectError
        A hyper-parameter does not exist or is out of range, or the pipeline does not learn row by row.
    DataError
        There is nothing to learn.
    """
    stop = store.progress().next_example
    first = 0 if newest is None else max(0, stop - newest)
    if stop <= first:
        raise DataError(f"{flow.name}: expected labelled examples, found none; ingest facts first")
    settings = (
        flow.pipeline.model_copy(update={"estimator": {**flow.pipeline.estimator, **changed}}) for changed in grid
    )
    models = SideBySide([PipelineModel.build(each, store.schema()) for each in settings])
    task, half = task_of(models.models[0].n_classes), (stop - first) // 2
    halves, labels_seen = np.zeros((2, len(grid))), _Moments()
    rows = 0
    for labels, scores in models.learn(store.example_batches(first, stop)):
        cut = min(max(half - rows, 0), labels.size)
        for place, said in enumerate(scores):
            lost = (said - labels) ** 2 if task == "regression" else row_loss(task, labels, said)
            halves[:, place] += lost[:cut].sum(), lost[cut:].sum()
        labels_seen.add(labels)
        rows += labels.size
    halves /= labels_seen.variance if task == "regression" else 1.0
    found = [
        Tried(changed, loss=_mean(total.sum(), rows), late_loss=_mean(total[1], rows - half), failure=failure)
        for changed, total, failure in zip(grid, halves.T, models.failures, strict=True)
    ]
    return sorted(found, key=lambda each: each.loss)


class _Moments:
    """Count, sum and sum of squares of the labels, for the variance that errors are measured against."""

    def __init__(self) -> None:
        self._rows, self._sum, self._squares = 0, 0.0, 0.0

    def add(self, labels: NDArray[np.float64]) -> None:
        self._rows += labels.size
        self._sum += float(labels.sum())
        self._squares += float((labels**2).sum())

    @property
    def variance(self) -> float:
        mean = self._sum / self._rows
        return max(self._squares / self._rows - mean**2, np.finfo(np.float64).tiny)


def _mean(total: float, rows: int) -> float:
    """Return a mean loss; infinite for a candidate that gave no score somewhere."""
    return float(total / rows) if rows and np.isfinite(total) else float("inf")

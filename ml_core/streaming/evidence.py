"""What a learner said of its newest examples before it learned them, as many as the gate looks at."""

from collections import deque

import numpy as np
from numpy.typing import NDArray

from ml_core.training.evaluation import ScoredSlice
from ml_core.training.tasks import Task, no_scores


class Evidence:
    """Labels and scores of consecutive examples, of which the oldest are let go.

    Parameters
    ----------
    task : Task
    scored : ScoredSlice
        What it begins with.
    most_rows : int
        As many as are kept; up to a batch more, because batches are kept whole.
    """

    def __init__(self, task: Task, scored: ScoredSlice, most_rows: int) -> None:
        self._task: Task = task
        self._most_rows = most_rows
        self._parts: deque[tuple[NDArray[np.float64], NDArray[np.float64]]] = deque([(scored.labels, scored.scores)])
        self._rows = scored.labels.size

    def add(self, labels: NDArray[np.float64], scores: NDArray[np.float64]) -> None:
        """Take in a batch with the scores given before it was learned."""
        self._parts.append((labels, scores))
        self._rows += labels.size
        while self._rows - self._parts[0][0].size >= self._most_rows:
            self._rows -= self._parts.popleft()[0].size

    def until(self, watermark: int) -> ScoredSlice:
        """Return what is kept as a slice that ends before the example at `watermark`."""
        labels, scores = (np.concatenate(parts) for parts in zip(*self._parts, strict=True))
        return ScoredSlice(watermark - labels.size, labels, scores, no_scores(), self._task)

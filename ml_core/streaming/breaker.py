"""The circuit breaker: a loss far beyond the usual one holds publications back until it is usual again.

It watches what the model said of each example before it learned it. The usual loss is a running mean of windows in
which nothing was out of the ordinary, so a flood of wrong labels does not become the measure of itself. Whatever it
says, examples are learned: weights never depend on it.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ml_core.training.tasks import Task, row_loss

_REMEMBERS = 20


@dataclass(slots=True)
class Breaker:
    """Watches the loss, a window of examples at a time.

    Parameters
    ----------
    task : Task
    rows : int
        Examples in a window.
    ratio : float
        It opens at so many times the usual loss.

    Attributes
    ----------
    loss : float or None
        Of the last window.
    reason : str or None
        Why it is open; None while it is closed.
    trips : int
    """

    task: Task
    rows: int
    ratio: float
    loss: float | None = None
    reason: str | None = None
    trips: int = 0
    _usual: float = 0.0
    _windows: int = 0
    _labels: list[NDArray[np.float64]] = field(default_factory=list)
    _scores: list[NDArray[np.float64]] = field(default_factory=list)
    _held: int = 0

    def watch(self, labels: NDArray[np.float64], scores: NDArray[np.float64]) -> None:
        """Take in examples with the scores given before they were learned."""
        self._labels.append(labels)
        self._scores.append(scores)
        self._held += len(labels)
        if self._held < self.rows:
            return
        all_labels, all_scores = np.concatenate(self._labels), np.concatenate(self._scores)
        whole = self._held // self.rows * self.rows
        for start in range(0, whole, self.rows):
            stop = start + self.rows
            self._judge(float(row_loss(self.task, all_labels[start:stop], all_scores[start:stop]).mean()))
        self._labels, self._scores, self._held = [all_labels[whole:]], [all_scores[whole:]], self._held - whole

    def _judge(self, loss: float) -> None:
        self.loss = loss
        if self._windows and not loss <= self.ratio * self._usual:
            self.trips += self.reason is None
            self.reason = (
                f"the last {self.rows} examples cost {loss:.4g} each, more than {self.ratio:g} times the usual"
                f" {self._usual:.4g}"
            )
            return
        self.reason = None
        self._windows = min(self._windows + 1, _REMEMBERS)
        self._usual += (loss - self._usual) / self._windows

"""Figures of a stream of scored rows, equal at every prefix to scikit-learn's over all of them.

Means are kept as sums. The area under the ROC curve is the share of (positive, negative) pairs that are in order, ties
counting half (Mann and Whitney 1947): the pairs are counted, as whole numbers, while rows come, so nothing is binned or
estimated. It costs 8 bytes a row to remember the scores, or those of the last rows only, with a window.
"""

import numpy as np
from numpy.typing import NDArray

from ml_core.training.evaluation import Evaluation, row_log_loss

_N_BINS = 10


class RunningMetrics:
    """Figures over all rows so far, or over the last `window` of them.

    Parameters
    ----------
    window : int, optional
        How many of the newest rows count; by default all.
    n_bins : int
        Equally wide bins of the scores, for `calibration`.
    """

    def __init__(self, window: int | None = None, *, n_bins: int = _N_BINS) -> None:
        self.window = window
        self.rows = 0
        self._newest = np.empty((2, 0))
        self._label_sum = self._score_sum = self._loss_sum = self._square_sum = 0.0
        self._ordered = 0  # twice the pairs in order, plus the ties
        self._seen = np.empty(0), np.empty(0)  # the scores of negatives and of positives, sorted
        self._edges = np.linspace(0.0, 1.0, n_bins + 1)[1:-1]
        self._bins = np.zeros((3, n_bins))

    def add(self, labels: NDArray[np.float64], scores: NDArray[np.float64]) -> None:
        """Take in scored rows; both of shape (n_rows,), labels 0 or 1, scores in [0, 1]."""
        if self.window is not None:
            self._newest = np.concatenate([self._newest, [labels, scores]], axis=1)[:, -self.window :]
            self.rows = self._newest.shape[1]
            return
        self.rows += labels.size
        self._label_sum += float(labels.sum())
        self._score_sum += float(scores.sum())
        self._loss_sum += float(row_log_loss(labels, scores).sum())
        self._square_sum += float(((scores - labels) ** 2).sum())
        self._count_pairs(np.sort(scores[labels <= 0]), np.sort(scores[labels > 0]))
        self._bins += self._binned(labels, scores)

    @property
    def evaluation(self) -> Evaluation:
        """The figures now; there must be a row."""
        if self.window is not None:
            return Evaluation.of(*self._newest)
        negatives, positives = (side.size for side in self._seen)
        pairs = 2 * negatives * positives
        return Evaluation.from_means(
            self.rows,
            label_rate=self._label_sum / self.rows,
            mean_score=self._score_sum / self.rows,
            log_loss=self._loss_sum / self.rows,
            brier=self._square_sum / self.rows,
            auc=self._ordered / pairs if pairs else float("nan"),
        )

    def calibration(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
        """Return, for every bin that has rows, the share of positives, the mean score, and the rows."""
        bins = self._bins if self.window is None else self._binned(*self._newest)
        rows, positives, scores = bins[:, bins[0] > 0]
        return positives / rows, scores / rows, rows.astype(np.int64)

    def _binned(self, labels: NDArray[np.float64], scores: NDArray[np.float64]) -> NDArray[np.float64]:
        places, bins = np.searchsorted(self._edges, scores), self._bins.shape[1]
        return np.stack([np.bincount(places, weights, bins) for weights in (None, labels, scores)])

    def _count_pairs(self, negatives: NDArray[np.float64], positives: NDArray[np.float64]) -> None:
        """Count the pairs that new rows, sorted, make with those before and with each other."""
        old_negatives, old_positives = self._seen
        all_negatives = _merged(old_negatives, negatives)
        self._ordered += _below(all_negatives, positives)
        self._ordered += 2 * negatives.size * old_positives.size - _below(old_positives, negatives)
        self._seen = all_negatives, _merged(old_positives, positives)


def _below(some: NDArray[np.float64], others: NDArray[np.float64]) -> int:
    """Return twice how many of `some`, sorted, lie below each of `others`, plus the ties, over all of these."""
    return int(np.searchsorted(some, others, "left").sum() + np.searchsorted(some, others, "right").sum())


def _merged(old: NDArray[np.float64], new: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.insert(old, np.searchsorted(old, new), new)

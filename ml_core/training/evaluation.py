"""What a model said about rows before it learned them, and the figures that follow.

A `ScoredSlice` is the evidence of a training: for consecutive example offsets, the label, the score the model gave
*before* it learned the row (prequential, or test-then-train, evaluation: Dawid 1984; Gama, Sebastião and Rodrigues
2013), and for an increment the score of the unchanged parent on the same row. It travels with the version, so
that a verdict can be repeated and later versions can be compared on the same rows.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, Self
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from ml_core.errors import PackageError
from ml_core.flow.version import ModelVersion

SLICE_FILE = "scored_slice.npz"


class KeepsEvidence(Protocol):
    """What holds versions' evidence: the registry."""

    def download_evaluation(self, version: ModelVersion, directory: Path) -> Path:
        """Fetch what a training said before it learned into `directory`."""
        ...


# A score this close to 0 or 1 is a claim of certainty; log loss charges for it, but not infinitely.
_EPSILON = 1e-15


def row_log_loss(labels: NDArray[np.float64], scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the log loss of each row in nats, shape (n_rows,), scores clipped to [1e-15, 1 - 1e-15]."""
    clipped = np.clip(scores, _EPSILON, 1 - _EPSILON)
    return -np.where(labels > 0, np.log(clipped), np.log1p(-clipped))


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Figures over one set of scored rows.

    Attributes
    ----------
    rows : int
    label_rate, mean_score : float
        Share of positive labels, and the mean score; calibrated in the large when equal.
    log_loss : float
        Mean negative log likelihood in nats.
    normalised_entropy : float
        `log_loss` over the entropy of always predicting `label_rate` (He et al. 2014); below 1 is better than that.
    auc : float
        Area under the ROC curve; NaN where only one class occurs.
    brier : float
        Mean squared difference of score and label.
    """

    rows: int
    label_rate: float
    mean_score: float
    log_loss: float
    normalised_entropy: float
    auc: float
    brier: float

    @classmethod
    def of(cls, labels: NDArray[np.float64], scores: NDArray[np.float64]) -> Self:
        """Evaluate `scores` against `labels`, both of shape (n_rows,) with n_rows > 0."""
        both_classes = 0.0 < labels.mean() < 1.0
        return cls.from_means(
            labels.size,
            label_rate=float(labels.mean()),
            mean_score=float(scores.mean()),
            log_loss=float(row_log_loss(labels, scores).mean()),
            brier=float(np.mean((scores - labels) ** 2)),
            auc=float(roc_auc_score(labels, scores)) if both_classes and np.isfinite(scores).all() else float("nan"),
        )

    @classmethod
    def from_means(
        cls, rows: int, *, label_rate: float, mean_score: float, log_loss: float, brier: float, auc: float
    ) -> Self:
        """Return the figures of rows from their means."""
        rate = label_rate
        entropy = -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate)) if 0.0 < rate < 1.0 else 0.0
        ratio = float(log_loss / entropy) if entropy else float("inf")
        return cls(rows, label_rate, mean_score, log_loss, ratio, auc, brier)

    def figures(self) -> dict[str, float]:
        """Return the finite figures by name, as metrics are logged."""
        named = {name: float(getattr(self, name)) for name in self.__slots__}
        return {name: value for name, value in named.items() if np.isfinite(value)}


@dataclass(frozen=True, slots=True)
class ScoredSlice:
    """Labels and scores of the examples at offsets [first, first + n_rows).

    Attributes
    ----------
    first : int
        Offset of the first row.
    labels, scores : ndarray of float64, shape (n_rows,)
        The label, and the score given before the row was learned.
    parent_scores : ndarray of float64, shape (n_rows,), or empty
        What the unchanged parent said of the same rows; empty where there was none.
    task : {"binary", "multiclass", "regression"}
        How labels and scores are to be read (`ml_core.training.tasks`); a score of ``multiclass`` is a row of
        probabilities, shape (n_classes,).
    """

    first: int
    labels: NDArray[np.float64]
    scores: NDArray[np.float64]
    parent_scores: NDArray[np.float64]
    task: Literal["binary", "multiclass", "regression"] = "binary"

    @property
    def next(self) -> int:
        """The offset after the last row."""
        return self.first + self.labels.size

    def last(self, rows: int) -> "ScoredSlice":
        """Return the most recent `rows` rows, or all where there are fewer."""
        return self.between(max(self.first, self.next - rows), self.next)

    def between(self, first: int, stop: int) -> "ScoredSlice":
        """Return the rows at offsets [first, stop) that this slice holds."""
        start, end = max(first, self.first), min(stop, self.next)
        cut = slice(start - self.first, max(end, start) - self.first)
        return ScoredSlice(start, self.labels[cut], self.scores[cut], self.parent_scores[cut], self.task)

    def save(self, directory: Path) -> Path:
        """Write the slice into `directory` and return the file."""
        file = directory / SLICE_FILE
        np.savez(
            file,
            first=np.int64(self.first),
            labels=self.labels.astype(np.int8) if self.task == "binary" else self.labels,
            scores=self.scores,
            parent_scores=self.parent_scores,
            task=np.str_(self.task),
        )
        return file

    @classmethod
    def load(cls, file: Path) -> Self:
        """Read what `save` wrote; raise PackageError when it is not that."""
        try:
            with file.open("rb") as opened, np.load(opened, allow_pickle=False) as saved:
                return cls(
                    first=int(saved["first"]),
                    labels=saved["labels"].astype(np.float64),
                    scores=saved["scores"],
                    parent_scores=saved["parent_scores"],
                    task=saved["task"].item(),
                )
        except (OSError, EOFError, KeyError, ValueError, BadZipFile) as error:
            raise PackageError(f"{file}: expected the scored slice of a training, found {error}") from error


def evidence_of(registry: KeepsEvidence, version: ModelVersion) -> ScoredSlice:
    """Return what a version's training said of its rows; raise PackageError when it is damaged."""
    with tempfile.TemporaryDirectory(prefix="modelflow-evidence-") as scratch:
        return ScoredSlice.load(registry.download_evaluation(version, Path(scratch)) / SLICE_FILE)

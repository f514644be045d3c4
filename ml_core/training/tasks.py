"""What a model is asked for, two classes, several or a number, and how an answer is charged for under each.

The gate, the trainers and the plots ask here rather than know. A loss is comparable between models on the same rows,
and one unit of it means about as much under each task, so that the margins of a gate need no other defaults: log loss
in nats for classes, and for numbers the squared error over the variance of the labels.
"""

from collections.abc import Mapping
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from ml_core.flow.verdict import readable
from ml_core.training.evaluation import Evaluation, row_log_loss

Task = Literal["binary", "multiclass", "regression"]

LOSSES: Final[Mapping[Task, str]] = {
    "binary": "log loss",
    "multiclass": "log loss",
    "regression": "squared error over the variance of the labels",
}
"""What `row_loss` charges under each task, in words."""

# A probability this close to 0 is a claim of certainty; log loss charges for it, but not infinitely.
_EPSILON = 1e-15
_TWO = 2


def task_of(n_classes: int) -> Task:
    """Return the task of a model that tells so many classes apart; 0 for one that predicts a number."""
    if not n_classes:
        return "regression"
    return "binary" if n_classes == _TWO else "multiclass"


def loss_name(task: Task) -> str:
    """Return the name under which a task's loss is kept among the figures of a version or a verdict."""
    return "loss" if task == "regression" else "log_loss"


def no_scores(n_classes: int = 0) -> NDArray[np.float64]:
    """Return the scores of no rows, as a model that tells so many classes apart has them; also those of no parent."""
    return np.empty((0, n_classes) if n_classes > _TWO else 0, np.float64)


def row_loss(task: Task, labels: NDArray[np.float64], scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what each answer costs, shape (n_rows,).

    Parameters
    ----------
    labels : ndarray of float64, shape (n_rows,)
        0 or 1, the index of a class, or a number.
    scores : ndarray of float64, shape (n_rows,), under ``multiclass`` (n_rows, n_classes)
    """
    if task == "binary":
        return row_log_loss(labels, scores)
    if task == "multiclass":
        said = np.take_along_axis(scores, labels.astype(np.int64)[:, None], axis=1)[:, 0]
        return -np.log(np.clip(said, _EPSILON, 1.0))
    squared: NDArray[np.float64] = (scores - labels) ** 2 / _spread(labels)
    return squared


def figures(task: Task, labels: NDArray[np.float64], scores: NDArray[np.float64]) -> dict[str, float]:
    """Return the finite figures of scored rows by name, as metrics are logged.

    Always `loss`, the mean `row_loss`; `skill_ratio`, the loss over that of always giving the mean answer (below 1 is
    better than that; under ``binary`` it is the normalised entropy); and `calibration_error`, how far the mean answer
    lies from the mean label: in probability, the worst class's, or in standard deviations of the labels.
    """
    loss = float(row_loss(task, labels, scores).mean())
    if task == "binary":
        evaluation = Evaluation.of(labels, scores)
        gap, named = abs(evaluation.mean_score - evaluation.label_rate), evaluation.figures()
        ratio = evaluation.normalised_entropy
    elif task == "multiclass":
        rates = np.bincount(labels.astype(np.int64), minlength=scores.shape[1]) / labels.size
        entropy = -float((rates[rates > 0] * np.log(rates[rates > 0])).sum())
        ratio = loss / entropy if entropy else float("inf")
        gap = float(np.abs(scores.mean(axis=0) - rates).max())
        accuracy = float((scores.argmax(axis=1) == labels).mean())
        named = {"rows": float(labels.size), "log_loss": loss, "accuracy": accuracy}
    else:
        errors = scores - labels
        ratio, gap = loss, abs(float(errors.mean())) / float(np.sqrt(_spread(labels)))
        named = {
            "rows": float(labels.size),
            "mse": float((errors**2).mean()),
            "mae": float(np.abs(errors).mean()),
            "r2": 1 - loss,
        }
    named |= {"loss": loss, "skill_ratio": ratio, "calibration_error": gap}
    return {name: value for name, value in named.items() if np.isfinite(value)}


def listed(figures: Mapping[str, float]) -> str:
    """Return figures for people, by name."""
    return ", ".join(f"{name} {readable(value)}" for name, value in sorted(figures.items()))


def _spread(labels: NDArray[np.float64]) -> float:
    """Return the variance of the labels; 1 where they are all the same and give no scale."""
    return float(labels.var()) or 1.0

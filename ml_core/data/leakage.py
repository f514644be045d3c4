"""How much one column says of the label on its own: what says everything was probably written after the fact."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

TELLS_ALL = 0.995  # area under the curve, or share of rows, from which a column is suspected to know the label
_ENOUGH = 5  # rows with a value, from which its most frequent label means something


def told(values: list[Any], labels: list[Any], kind: str, n_classes: int) -> float:
    """Return how much one column says of the label: 1 is everything.

    Of numbers and two classes, the area under the ROC curve; of numbers and numbers, the rank correlation; otherwise
    the share of rows whose label is the one most often seen with their value, over values seen often enough.
    """
    if kind == "number" and n_classes <= 2:  # noqa: PLR2004 - two classes or a number
        y = np.array(labels, np.float64) if not n_classes else np.equal(labels, labels[0]).astype(float)
        x = np.array([np.nan if v is None else v for v in values], np.float64)
        return max(_rank_agreement(x[~np.isnan(x)], y[~np.isnan(x)], classes=n_classes),
                   _rank_agreement(np.isnan(x).astype(float), y, classes=n_classes))  # fmt: skip
    if not n_classes:
        return 0.0
    groups: dict[Any, dict[Any, int]] = {}
    for value, label in zip(values, labels, strict=True):
        counts = groups.setdefault(value, {})
        counts[label] = counts.get(label, 0) + 1
    often = [counts for counts in groups.values() if sum(counts.values()) >= _ENOUGH]
    rows = sum(sum(counts.values()) for counts in often)
    base = max(labels.count(label) for label in set(labels)) / len(labels)
    if rows < len(labels) / 2 or base > TELLS_ALL:
        return 0.0
    return sum(max(counts.values()) for counts in often) / rows


def _rank_agreement(x: NDArray[np.float64], y: NDArray[np.float64], *, classes: int) -> float:
    if x.size < 20 or np.ptp(x) == 0 or np.ptp(y) == 0:  # noqa: PLR2004 - too few to suspect anything
        return 0.0
    ranks = rankdata(x)
    if classes:
        positives = y > 0
        n, m = int(positives.sum()), int((~positives).sum())
        area = (ranks[positives].sum() - n * (n + 1) / 2) / (n * m)
        return float(max(area, 1 - area))
    return float(abs(np.corrcoef(ranks, rankdata(y))[0, 1]))

"""The interval of a mean difference over rows that stand in time: a paired bootstrap over blocks of consecutive rows.

Neighbouring rows share their hour and their weather, so rows are not drawn one by one (moving blocks: Künsch 1989, The
Annals of Statistics 17(3)).
"""

import numpy as np
from numpy.typing import NDArray

_RESAMPLES = 1_000


def paired_interval(differences: NDArray[np.float64], *, confidence: float, seed: int = 0) -> tuple[float, float]:
    """Return the block-bootstrap interval of the mean of `differences`, shape (n_rows,), in row order.

    Blocks hold about ``n_rows ** (1/3)`` consecutive rows; 1,000 resamples. Deterministic for a given `seed`.
    """
    length = max(1, round(differences.size ** (1 / 3)))
    blocks = np.array_split(differences, max(1, differences.size // length))
    sums = np.array([block.sum() for block in blocks])
    sizes = np.array([block.size for block in blocks])
    drawn = np.random.default_rng(seed).integers(0, sums.size, size=(_RESAMPLES, sums.size))
    means = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    lower, upper = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(lower), float(upper)

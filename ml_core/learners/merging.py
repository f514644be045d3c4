r"""Linear states that learned side by side from one beginning, made one: each coordinate weighed by what it was shown.

From a state with weights :math:`w_0` and squared gradients :math:`n_0`, shard *s* went on to :math:`w_s, n_s`. The
growth of squared gradients :math:`\Delta_s = n_s - n_0` is the coordinate's information in that shard (the gradients of
log loss have the Fisher information as their mean square), and the rule's own damping before it,
:math:`d = (\beta + \sqrt{n_0})/\alpha + \lambda_2`, is what holds the weight where it was. A shard is then a posterior
of precision :math:`d + c \Delta_s`, and the product of the shards over their common prior (Tresp 2000, "A Bayesian
Committee Machine", Neural Computation 12) is

.. math:: w = w_0 + \frac{\sum_s (d + c \Delta_s)(w_s - w_0)}{d + c \sum_s \Delta_s}, \quad n = n_0 + \sum_s \Delta_s

The coordinates of a row move its margin together, so each of them has less to do than its own :math:`\Delta` says: were
they to pull the same way, :math:`c` would be :math:`\kappa`, the entries of a row, all coordinates' :math:`\Delta` over
that of the intercept; were they to know nothing of each other, 1. :math:`c = \sqrt\kappa` is the choice that lost least
over all that was measured (docs/adr/0008).

What was shown often becomes an average weighted by information, as in iterative parameter mixing (McDonald, Hall and
Mann 2010; Zinkevich et al. 2010); what was shown rarely adds up, as it would have in one pass, and a coordinate that
one shard alone has seen is taken as that shard left it. Under ``ftrl`` a weight that L1 kept at zero everywhere has
nothing but a sum of gradients, and sums add. The order of the shards is fixed, so the same shards give the same bits.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ml_core.learners.rules import STATE_SAVED, Rates

MERGED_RULES = ("ftrl", "adagrad")
"""Rules that keep the squared gradients a merge is weighted by."""

_SQUARES = {"ftrl": 2, "adagrad": 1}

Memory = NDArray[np.float64]


def merged_memory(rule: str, rates: Rates, before: Memory, shards: Sequence[Memory]) -> Memory:
    """Return what the rule remembers once the shards are one.

    Parameters
    ----------
    rule : {"ftrl", "adagrad"}
    rates : tuple of float
        (alpha, beta, l1, l2).
    before : ndarray, shape (n_slots + 1, n_outputs, STATE_WIDTH[rule])
        The state every shard began from.
    shards : sequence of ndarray of that shape
        In their order.

    Returns
    -------
    ndarray
        A new one; under ``ftrl`` what follows from (z, n) is still to be derived. About 50 ns per coordinate and shard.
    """
    alpha, beta, _, l2 = rates
    squares, saved = _SQUARES[rule], STATE_SAVED[rule]
    begun, weight = before[..., squares], before[..., 0]
    damping = (beta + np.sqrt(begun)) / alpha + l2
    grown = np.zeros_like(weight)
    for shard in shards:
        grown += shard[..., squares] - begun
    shared = _shared(grown)
    moved, touched, made = np.zeros_like(weight), np.zeros(weight.shape, np.int64), before.copy()
    for shard in shards:
        changed = (shard[..., saved] != before[..., saved]).any(axis=-1)
        moved += (damping + shared * (shard[..., squares] - begun)) * (shard[..., 0] - weight)
        touched += changed
        made[changed] = shard[changed]  # what no other shard touches stays so
    several = touched > 1
    total = damping + shared * grown
    joined = weight + moved / np.where(total > 0, total, 1.0)
    made[several, 0], made[several, squares] = joined[several], (begun + grown)[several]
    if rule == "ftrl":
        made[several, 1] = _sums_of_gradients(rates, before, shards, joined, begun + grown)[several]
    return made


def _shared(grown: Memory) -> Memory:
    """Return c of each output, shape (n_outputs,): the root of how many entries a row has, the intercept among them."""
    shown = grown[-1]
    return np.sqrt(np.where(shown > 0, grown.sum(axis=0) / np.where(shown > 0, shown, 1.0), 1.0))


def _sums_of_gradients(
    rates: Rates, before: Memory, shards: Sequence[Memory], weights: Memory, squares: Memory
) -> Memory:
    """Return the z that stands for each merged weight under FTRL-proximal, or for none."""
    alpha, beta, l1, l2 = rates
    summed = before[..., 1] + sum(shard[..., 1] - before[..., 1] for shard in shards)
    quiet = before[..., 0] == 0
    for shard in shards:
        quiet &= shard[..., 0] == 0
    held = -weights * ((beta + np.sqrt(squares)) / alpha + l2) - np.sign(weights) * l1
    return np.where(quiet, summed, np.where(weights != 0, held, np.clip(summed, -l1, l1)))

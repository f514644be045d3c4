"""The compiled kernels of the learners: everything that runs once per row.

They stand in one file because the compiler's cache on disk looks at the time stamp of a kernel's own file only: a
kernel that called into another file would go on with the old version of it. All release the GIL, none allocates per
row, and sums run in the order of a row's entries.

A kernel works on a block: the memories of all coordinates of one row, one lane per number remembered, so that the
compiler can use the processor's vector units for the roots and divisions of `ml_core.learners.rules`. A last lane is
scratch: there `_weigh` leaves the roots for `_change`.
"""

import numpy as np

from ml_core.learners.compiled import kernel
from ml_core.learners.rules import LINKS, RULES

_FTRL, _ADAGRAD, _ADAM, _SGD = RULES.values()
_LOGISTIC, _IDENTITY, _SOFTMAX = LINKS.values()


@kernel
def _shrink(x, threshold):  # type: ignore[no-untyped-def]
    """Return the soft threshold of `x`, without a branch."""
    return max(x - threshold, 0.0) + min(x + threshold, 0.0)


@kernel
def _weigh(rule, block, size, rates, out):  # type: ignore[no-untyped-def]
    """Fill `out` with the weights of the first `size` memories of `block`, shape (STATE_WIDTH + 1, any)."""
    if rule != _FTRL:
        for j in range(size):
            out[j] = block[0, j]
        return
    alpha, beta, l1, l2 = rates
    per_root, fixed = 1.0 / alpha, beta / alpha + l2
    z, n, roots = block[0], block[1], block[2]
    for j in range(size):
        roots[j] = np.sqrt(n[j])
        # a coordinate without evidence weighs nothing, also where beta and l2 are zero
        damping = fixed + roots[j] * per_root
        out[j] = -_shrink(z[j], l1) / (damping if damping > 0.0 else 1.0)


@kernel
def _change(rule, block, size, rates, weights, gradients):  # type: ignore[no-untyped-def]  # noqa: PLR0917 - a kernel
    """Replace the first `size` memories of `block` by what `gradients`, taken at `weights`, add to them."""
    alpha, beta, l1, l2 = rates
    if rule == _FTRL:
        per_root = 1.0 / alpha
        z, n, roots = block[0], block[1], block[2]
        for j in range(size):
            g = gradients[j]
            z[j] = g - (np.sqrt(n[j] + g * g) - roots[j]) * per_root * weights[j]
            n[j] = g * g
    elif rule == _ADAGRAD:
        for j in range(size):
            g = gradients[j]
            root = beta + np.sqrt(block[1, j] + g * g)
            rate = alpha / root if root > 0.0 else 0.0
            block[0, j] = _shrink(weights[j] - rate * (g + l2 * weights[j]), rate * l1) - weights[j]
            block[1, j] = g * g
    elif rule == _ADAM:
        for j in range(size):
            g = gradients[j]
            m, v, t = 0.9 * block[1, j] + 0.1 * g, 0.999 * block[2, j] + 0.001 * g * g, block[3, j] + 1.0
            move = alpha * (m / (1.0 - 0.9**t)) / (np.sqrt(v / (1.0 - 0.999**t)) + 1e-8)
            block[0, j] = _shrink(weights[j] - move - alpha * l2 * weights[j], alpha * l1) - weights[j]
            block[1, j], block[2, j], block[3, j] = m - block[1, j], v - block[2, j], 1.0
    else:
        for j in range(size):
            g = gradients[j]
            block[0, j] = _shrink(weights[j] - alpha * (g + l2 * weights[j]), alpha * l1) - weights[j]


@kernel
def _sigmoid(margin):  # type: ignore[no-untyped-def]
    """Return the logistic function without overflow at either end."""
    if margin >= 0.0:
        return 1.0 / (1.0 + np.exp(-margin))
    odds = np.exp(margin)
    return odds / (1.0 + odds)


@kernel
def _link(link, margins, out):  # type: ignore[no-untyped-def]
    """Fill `out` with what the model says where its margins are `margins`."""
    if link == _LOGISTIC:
        out[0] = _sigmoid(margins[0])
    elif link == _IDENTITY:
        out[0] = margins[0]
    else:
        top = margins.max()
        total = 0.0
        for k in range(margins.size):
            out[k] = np.exp(margins[k] - top)
            total += out[k]
        for k in range(margins.size):
            out[k] /= total


@kernel
def _gather(memory, k, slots, block):  # type: ignore[no-untyped-def]
    """Copy the memories of output `k` at `slots`, and the intercept's after them, into `block`, a lane per part."""
    for part in range(memory.shape[2]):
        lane = block[part]
        for j in range(slots.size):
            lane[j] = memory[np.uint64(slots[j]), k, part]
        lane[slots.size] = memory[-1, k, part]


@kernel
def _add(memory, k, slots, block):  # type: ignore[no-untyped-def]
    """Add `block` to the memories `_gather` took it from."""
    for part in range(memory.shape[2]):
        lane = block[part]
        for j in range(slots.size):
            memory[np.uint64(slots[j]), k, part] += lane[j]
        memory[-1, k, part] += lane[slots.size]


@kernel
def learn_linear(indptr, indices, values, targets, row_weights, memory, rule, rates, link, scores):  # type: ignore[no-untyped-def]  # noqa: PLR0913, PLR0917 - a kernel takes arrays
    """Score each row into `scores`, (n_rows, n_outputs), then learn it; `memory` is `LinearState.memory`."""
    outputs, width = memory.shape[1], memory.shape[2]
    longest = 1
    for row in range(targets.size):
        longest = max(longest, indptr[row + 1] - indptr[row] + 1)
    block = np.empty((outputs, width + 1, longest))
    weights = np.empty((outputs, longest))
    margins, gradients = np.empty(outputs), np.empty(longest)
    for row in range(targets.size):
        slots, x = indices[indptr[row] : indptr[row + 1]], values[indptr[row] : indptr[row + 1]]
        for k in range(outputs):
            _gather(memory, k, slots, block[k])
            w = weights[k]
            _weigh(rule, block[k], x.size + 1, rates, w)
            margin = 0.0
            for j in range(x.size):
                margin += w[j] * x[j]
            margins[k] = margin + w[x.size]
        _link(link, margins, scores[row])
        if row_weights[row] == 0.0:
            continue
        for k in range(outputs):
            target = (1.0 if targets[row] == k else 0.0) if link == _SOFTMAX else targets[row]
            slope = (scores[row, k] - target) * row_weights[row]
            for j in range(x.size):
                gradients[j] = slope * x[j]
            gradients[x.size] = slope
            _change(rule, block[k], x.size + 1, rates, weights[k], gradients)
            _add(memory, k, slots, block[k])


@kernel
def linear_margins(indptr, indices, values, weights):  # type: ignore[no-untyped-def]
    """Return the margins of each row, (n_rows, n_outputs), under `weights`, (n_slots + 1, n_outputs)."""
    last, outputs = weights.shape[0] - 1, weights.shape[1]
    out = np.zeros((indptr.size - 1, outputs))
    for row in range(out.shape[0]):
        for entry in range(indptr[row], indptr[row + 1]):
            for k in range(outputs):
                out[row, k] += weights[indices[entry], k] * values[entry]
        for k in range(outputs):
            out[row, k] += weights[last, k]
    return out


@kernel
def linear_weights(memory, rule, rates):  # type: ignore[no-untyped-def]
    """Return the weights that `memory` stands for, (n_slots + 1, n_outputs)."""
    out, block = np.empty((memory.shape[0], memory.shape[1])), np.empty((memory.shape[2] + 1, memory.shape[1]))
    for slot in range(memory.shape[0]):
        block[:-1] = memory[slot].T
        _weigh(rule, block, memory.shape[1], rates, out[slot])
    return out


@kernel
def linked(link, margins):  # type: ignore[no-untyped-def]
    """Return what the model says where its margins are `margins`, of the same shape."""
    out = np.empty(margins.shape)
    for row in range(margins.shape[0]):
        _link(link, margins[row], out[row])
    return out


@kernel
def _noise(seed, slot, f):  # type: ignore[no-untyped-def]
    """Return a number in (-1, 1), never 0, that depends on its arguments alone (splitmix64: Steele et al. 2014)."""
    x = np.uint64(seed) * np.uint64(0xD1342543DE82EF95) + np.uint64(slot) * np.uint64(0x2545F4914F6CDD1D)
    x += (np.uint64(f) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return (np.float64(x >> np.uint64(11)) + 0.5) / 4503599627370496.0 - 1.0


@kernel
def _sums(slots, x, factors, sums):  # type: ignore[no-untyped-def]
    """Fill `sums` with the sum of v x for each factor; return the pairwise part of the margin."""
    pairs = 0.0
    for f in range(sums.size):
        total, squares = 0.0, 0.0
        for j in range(x.size):
            part = factors[slots[j], f, 0] * x[j]
            total += part
            squares += part * part
        sums[f] = total
        pairs += total * total - squares
    return 0.5 * pairs


@kernel
def learn_machine(indptr, indices, values, targets, row_weights, memory, factors, rates, factor_rates, seed, scores):  # type: ignore[no-untyped-def]  # noqa: PLR0913, PLR0917 - a kernel takes arrays
    """Score each row into `scores`, (n_rows,), then learn it; see `FMState` for the arrays."""
    longest = 1
    for row in range(targets.size):
        longest = max(longest, indptr[row + 1] - indptr[row] + 1)
    block, weights, gradients = np.empty((3, longest)), np.empty(longest), np.empty(longest)
    sums = np.empty(factors.shape[1])
    for row in range(targets.size):
        slots, x = indices[indptr[row] : indptr[row + 1]], values[indptr[row] : indptr[row + 1]]
        _gather(memory, 0, slots, block)
        _weigh(_FTRL, block, x.size + 1, rates, weights)
        margin = 0.0
        for j in range(x.size):
            margin += weights[j] * x[j]
        scores[row] = _sigmoid(margin + weights[x.size] + _sums(slots, x, factors, sums))
        if row_weights[row] == 0.0:
            continue
        slope = (scores[row] - targets[row]) * row_weights[row]
        for j in range(x.size):
            gradients[j] = slope * x[j]
        gradients[x.size] = slope
        _change(_FTRL, block, x.size + 1, rates, weights, gradients)
        _add(memory, 0, slots, block)
        _learn_factors(slots, x, slope, factors, factor_rates, seed, sums)


@kernel
def _learn_factors(slots, x, slope, factors, factor_rates, seed, sums):  # type: ignore[no-untyped-def]  # noqa: PLR0917 - a kernel
    rate, l2, size = factor_rates
    begun = True
    for j in range(x.size):
        if factors[slots[j], 0, 0] == 0.0 and factors[slots[j], 0, 1] == 0.0:
            begun = False
            for f in range(sums.size):
                factors[slots[j], f, 0] = size * _noise(seed, slots[j], f)
    if not begun:
        _sums(slots, x, factors, sums)
    for j in range(x.size):
        for f in range(sums.size):
            v = factors[slots[j], f, 0]
            g = slope * x[j] * (sums[f] - v * x[j]) + l2 * v
            factors[slots[j], f, 1] += g * g
            factors[slots[j], f, 0] = v - rate * g / np.sqrt(1.0 + factors[slots[j], f, 1])


@kernel
def score_machine(indptr, indices, values, weights, factors, link):  # type: ignore[no-untyped-def]  # noqa: PLR0917 - a kernel
    """Return the probability (with `link`) or the margin of each row, (n_rows,)."""
    out, sums = np.empty(indptr.size - 1), np.empty(factors.shape[1])
    for row in range(out.size):
        slots, x = indices[indptr[row] : indptr[row + 1]], values[indptr[row] : indptr[row + 1]]
        margin = 0.0
        for j in range(x.size):
            margin += weights[slots[j]] * x[j]
        margin = margin + weights[-1] + _sums(slots, x, factors, sums)
        out[row] = _sigmoid(margin) if link else margin
    return out

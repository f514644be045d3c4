"""The compiled kernels of the learners: everything that runs once per row.

They stand in one file because the compiler's cache on disk looks at the time stamp of a kernel's own file only: a
kernel that called into another file would go on with the old version of it, as they do with `prefetch`, which changes
no result. All release the GIL, none allocates per row, and sums run in the order of a row's entries, the intercept
last.

What a coordinate remembers is a *cell* of `STATE_WIDTH[rule]` neighbouring numbers, its weight first, so that scoring
reads one number whatever the rule. Under ``ftrl`` a cell is (w, z, n, root of n): the first and the last follow from
the others, and keeping them leaves one root and one division per entry. A row is learned from the cells as they were
when it was scored: copies of them are held for this, of one part side by side, so that several are computed at once,
and they are also how a second entry in the same cell is noticed.
"""

import numpy as np

from ml_core.learners.compiled import inlined, kernel, prefetch
from ml_core.learners.rules import LINKS, RULES

_FTRL, _ADAGRAD, _ADAM, _SGD = RULES.values()
_LOGISTIC, _IDENTITY, _SOFTMAX = LINKS.values()
# places in a cell; unsigned, because a signed index could count from the end and is checked for it
_0, _1, _2, _3, _4 = map(np.uint64, range(5))


@inlined
def _shrink(x, threshold):  # type: ignore[no-untyped-def]
    """Return the soft threshold of `x`, without a branch."""
    return max(x - threshold, 0.0) + min(x + threshold, 0.0)


@inlined
def _sigmoid(margin):  # type: ignore[no-untyped-def]
    """Return the logistic function without overflow at either end."""
    if margin >= 0.0:
        return 1.0 / (1.0 + np.exp(-margin))
    odds = np.exp(margin)
    return odds / (1.0 + odds)


@inlined
def _link(link, margins, out):  # type: ignore[no-untyped-def]
    """Fill `out` with what the model says where its margins are `margins`."""
    if link == _LOGISTIC:
        out[0] = _sigmoid(margins[0])
    elif link == _IDENTITY:
        out[:] = margins
    else:
        top = margins.max()
        total = 0.0
        for k in range(margins.size):
            out[k] = np.exp(margins[k] - top)
            total += out[k]
        for k in range(margins.size):
            out[k] /= total


@inlined
def _weight(z, root, rates):  # type: ignore[no-untyped-def]
    """Return the weight that (z, root of n) stand for under ``ftrl``."""
    alpha, beta, l1, l2 = rates
    damping = (beta / alpha + l2) + root * (1.0 / alpha)
    # a coordinate without evidence weighs nothing, also where beta and l2 are zero
    return _shrink(-z, l1) / (damping if damping > 0.0 else 1.0)


@inlined
def _follow(cells, at, w, n, g, rates):  # type: ignore[no-untyped-def]  # noqa: PLR0917 - a kernel
    """Add gradient `g`, taken at weight `w` and squared sum `n`, to the FTRL cell that begins at ``cells[at]``."""
    grown = cells[at + _2] + g * g
    root = np.sqrt(grown)
    step = root - cells[at + _3]
    if cells[at + _2] != n:  # an earlier entry of this row was here; its own step is taken from where the row began
        step = np.sqrt(n + g * g) - np.sqrt(n)
    z = cells[at + _1] + (g - step * (1.0 / rates[0]) * w)
    cells[at] = _weight(z, root, rates)
    cells[at + _1] = z
    cells[at + _2] = grown
    cells[at + _3] = root


@inlined
def _descend(rule, cells, at, held, j, g, rates):  # type: ignore[no-untyped-def]  # noqa: PLR0917 - a kernel
    """Add what gradient `g` changes under the other rules, from the cell `held[:, j]` that the row was scored with."""
    alpha, beta, l1, l2 = rates
    w = held[0, j]
    if rule == _ADAGRAD:
        root = beta + np.sqrt(held[1, j] + g * g)
        rate = alpha / root if root > 0.0 else 0.0
        cells[at] += _shrink(w - rate * (g + l2 * w), rate * l1) - w
        cells[at + _1] += g * g
    elif rule == _ADAM:
        m, v, t = 0.9 * held[1, j] + 0.1 * g, 0.999 * held[2, j] + 0.001 * g * g, held[3, j] + 1.0
        move = alpha * (m / (1.0 - 0.9**t)) / (np.sqrt(v / (1.0 - 0.999**t)) + 1e-8)
        cells[at] += _shrink(w - move - alpha * l2 * w, alpha * l1) - w
        cells[at + _1] += m - held[1, j]
        cells[at + _2] += v - held[2, j]
        cells[at + _3] += 1.0
    else:
        cells[at] += _shrink(w - alpha * (g + l2 * w), alpha * l1) - w


@inlined
def _longest(indptr):  # type: ignore[no-untyped-def]
    """Return the most entries a row has, the intercept among them, and up to 7 more to fill lines of the cache."""
    longest = 1
    for row in range(indptr.size - 1):
        longest = max(longest, indptr[row + 1] - indptr[row] + 1)
    return (longest + 7) // 8 * 8


@inlined
def _weigh_ftrl(cells, indices, values, first, size, ahead, held):  # type: ignore[no-untyped-def]  # noqa: PLR0917 - a kernel
    """Hold a row's single-output FTRL cells, the intercept last, and return the margin.

    The cells of the entries `ahead` of these are sent for: by the time they are asked for they are near.
    """
    margin = 0.0
    for j in range(size):
        prefetch(cells, np.uint64(indices[first + j + ahead]) << _2)
        _hold(cells, np.uint64(indices[first + j]) << _2, held, j)
        margin += held[0, j] * values[first + j]
    _hold(cells, np.uint64(cells.size) - _4, held, size)
    return margin + held[0, size]


@inlined
def _hold(cells, at, held, j):  # type: ignore[no-untyped-def]
    held[0, j], held[1, j], held[2, j], held[3, j] = cells[at], cells[at + _1], cells[at + _2], cells[at + _3]


@inlined
def _follow_row(cells, indices, values, first, size, held, grown, slope, rates):  # type: ignore[no-untyped-def]  # noqa: PLR0913, PLR0917 - a kernel
    """Learn a row that is `held`, where the loss changes by `slope` with the margin; `grown` is of the same shape."""
    for j in range(size):  # no branch and no cell in the way: vectors of them
        g = slope * values[first + j]
        n = held[2, j] + g * g
        root = np.sqrt(n)
        z = held[1, j] + (g - (root - held[3, j]) * (1.0 / rates[0]) * held[0, j])
        grown[0, j], grown[1, j], grown[2, j], grown[3, j] = _weight(z, root, rates), z, n, root
    for j in range(size):
        at = np.uint64(indices[first + j]) << _2
        if cells[at + _1] == held[1, j] and cells[at + _2] == held[2, j]:
            cells[at], cells[at + _1], cells[at + _2], cells[at + _3] = (
                grown[0, j],
                grown[1, j],
                grown[2, j],
                grown[3, j],
            )
        else:  # an earlier entry of this row was here
            _follow(cells, at, held[0, j], held[2, j], slope * values[first + j], rates)
    _follow(cells, np.uint64(cells.size) - _4, held[0, size], held[2, size], slope, rates)


@kernel
def learn_ftrl(indptr, indices, values, targets, row_weights, memory, rates, link, scores):  # type: ignore[no-untyped-def]  # noqa: PLR0913, PLR0917 - a kernel takes arrays
    """`learn_linear` for the rule ``ftrl`` and one output, with nothing in its way."""
    held, grown = np.empty((4, _longest(indptr))), np.empty((4, _longest(indptr)))
    cells, end = memory.reshape(-1), np.uint64(indices.size)
    for row in range(targets.size):
        first = np.uint64(indptr[row])
        size = np.uint64(indptr[row + 1]) - first
        ahead = size if first + size + size <= end else _0
        margin = _weigh_ftrl(cells, indices, values, first, size, ahead, held)
        scores[row, 0] = _sigmoid(margin) if link == _LOGISTIC else margin
        if row_weights[row] != 0.0:
            slope = (scores[row, 0] - targets[row]) * row_weights[row]
            _follow_row(cells, indices, values, first, size, held, grown, slope, rates)


@kernel
def learn_linear(indptr, indices, values, targets, row_weights, memory, rule, rates, link, scores):  # type: ignore[no-untyped-def]  # noqa: PLR0913, PLR0917 - a kernel takes arrays
    """Score each row into `scores`, (n_rows, n_outputs), then learn it; `memory` is `LinearState.memory`."""
    outputs, width = memory.shape[1], memory.shape[2]
    held, margins = np.empty((outputs, width, _longest(indptr))), np.empty(outputs)
    cells, stride = memory.reshape(-1), np.uint64(outputs * width)
    last = np.uint64(memory.shape[0] - 1) * stride
    for row in range(targets.size):
        slots, x = indices[indptr[row] : indptr[row + 1]], values[indptr[row] : indptr[row + 1]]
        for k in range(outputs):
            first = np.uint64(k * width)
            margin = 0.0
            for j in range(x.size):
                at = np.uint64(slots[j]) * stride + first
                margin += cells[at] * x[j]
                for part in range(width):
                    held[k, part, j] = cells[at + np.uint64(part)]
            for part in range(width):
                held[k, part, x.size] = cells[last + first + np.uint64(part)]
            margins[k] = margin + cells[last + first]
        _link(link, margins, scores[row])
        if row_weights[row] == 0.0:
            continue
        for k in range(outputs):
            target = (1.0 if targets[row] == k else 0.0) if link == _SOFTMAX else targets[row]
            slope = (scores[row, k] - target) * row_weights[row]
            for j in range(x.size + 1):
                intercept = j == x.size
                at = np.uint64(k * width) + (last if intercept else np.uint64(slots[j]) * stride)
                g = slope if intercept else slope * x[j]
                if rule == _FTRL:
                    _follow(cells, at, held[k, 0, j], held[k, 2, j], g, rates)
                else:
                    _descend(rule, cells, at, held[k], j, g, rates)


@kernel
def score_linear(indptr, indices, values, memory, link, scores):  # type: ignore[no-untyped-def]  # noqa: PLR0917 - a kernel
    """Fill `scores`, (n_rows, n_outputs), as `learn_linear` does, and learn nothing."""
    last, outputs = memory.shape[0] - 1, memory.shape[1]
    margins = np.empty(outputs)
    for row in range(indptr.size - 1):
        slots, x = indices[indptr[row] : indptr[row + 1]], values[indptr[row] : indptr[row + 1]]
        for k in range(outputs):
            margins[k] = 0.0
            for j in range(x.size):
                margins[k] += memory[np.uint64(slots[j]), k, 0] * x[j]
            margins[k] += memory[last, k, 0]
        _link(link, margins, scores[row])


@kernel
def derive_ftrl(memory, rates):  # type: ignore[no-untyped-def]
    """Fill in what an FTRL cell keeps beside (z, n): the weight and the root."""
    for slot in range(memory.shape[0]):
        for k in range(memory.shape[1]):
            root = np.sqrt(memory[slot, k, 2])
            memory[slot, k, 3] = root
            memory[slot, k, 0] = _weight(memory[slot, k, 1], root, rates)


@inlined
def _noise(seed, slot, f):  # type: ignore[no-untyped-def]
    """Return a number in (-1, 1), never 0, that depends on its arguments alone (splitmix64: Steele et al. 2014)."""
    x = np.uint64(seed) * np.uint64(0xD1342543DE82EF95) + np.uint64(slot) * np.uint64(0x2545F4914F6CDD1D)
    x += (np.uint64(f) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return (np.float64(x >> np.uint64(11)) + 0.5) / 4503599627370496.0 - 1.0


@inlined
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
    longest = _longest(indptr)
    held, grown, sums = np.empty((4, longest)), np.empty((4, longest)), np.empty(factors.shape[1])
    cells = memory.reshape(-1)
    for row in range(targets.size):
        slots, x = indices[indptr[row] : indptr[row + 1]], values[indptr[row] : indptr[row + 1]]
        margin = _weigh_ftrl(cells, slots, x, _0, np.uint64(x.size), _0, held)
        scores[row] = _sigmoid(margin + _sums(slots, x, factors, sums))
        if row_weights[row] == 0.0:
            continue
        slope = (scores[row] - targets[row]) * row_weights[row]
        _follow_row(cells, slots, x, _0, np.uint64(x.size), held, grown, slope, rates)
        _learn_factors(slots, x, slope, factors, factor_rates, seed, sums)


@inlined
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
def score_machine(indptr, indices, values, memory, factors, link):  # type: ignore[no-untyped-def]  # noqa: PLR0917 - a kernel
    """Return the probability (with `link`) or the margin of each row, (n_rows,)."""
    out, sums = np.empty(indptr.size - 1), np.empty(factors.shape[1])
    for row in range(out.size):
        slots, x = indices[indptr[row] : indptr[row + 1]], values[indptr[row] : indptr[row + 1]]
        margin = 0.0
        for j in range(x.size):
            margin += memory[np.uint64(slots[j]), 0, 0] * x[j]
        margin = margin + memory[-1, 0, 0] + _sums(slots, x, factors, sums)
        out[row] = _sigmoid(margin) if link else margin
    return out

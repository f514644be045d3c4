r"""Linear models learned one row at a time: the state, and the kernels that score and learn CSR rows.

For row *x* with margins :math:`m_k = b_k + \sum_i w_{ik} x_i` the model says :math:`\sigma(m)` (link ``logistic``),
:math:`\operatorname{softmax}(m)` (``softmax``) or :math:`m` (``identity``); under log loss and half the squared error
alike, the gradient of coordinate *(i, k)* is :math:`(\text{said}_k - y_k)\, x_i`.

The invariant: rows are never folded together. Each is scored with the weights its predecessors left, then learned, and
sums run over a row's entries in storage order, the intercept last; so any split of the rows gives the same bits, and
the scores returned by learning are those `score` would have given just before. Two entries of a row at one slot (a
collision of hashes) both start from the state before the row, and what they change adds up.
"""

from dataclasses import dataclass, field
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from ml_core.errors import InputError
from ml_core.learners.rules import RULES, STATE_WIDTH, Rates, change, weigh

LINKS = {"logistic": 0, "identity": 1, "softmax": 2}
_LOGISTIC, _IDENTITY, _SOFTMAX = LINKS.values()

Csr = tuple[NDArray[np.integer[Any]], NDArray[np.integer[Any]], NDArray[np.float64]]


@dataclass(slots=True)
class LinearState:
    """The whole state of a linear online learner.

    Parameters
    ----------
    n_slots : int
        Coordinates, not counting the intercept, which is added as the last one.
    n_outputs : int
        1, or the number of classes under the link ``softmax``.
    rule : {"ftrl", "adagrad", "adam", "sgd"}
    rates : tuple of float
        (alpha, beta, l1, l2).
    link : {"logistic", "identity", "softmax"}

    Attributes
    ----------
    memory : ndarray of float64, shape (n_slots + 1, n_outputs, STATE_WIDTH[rule])
        What the rule remembers of every coordinate.
    """

    n_slots: int
    n_outputs: int
    rule: str
    rates: Rates
    link: str
    memory: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        self.memory = np.zeros((self.n_slots + 1, self.n_outputs, STATE_WIDTH[self.rule]))

    def learn(
        self, rows: Csr, targets: NDArray[np.float64], row_weights: NDArray[np.float64] | None = None
    ) -> NDArray[np.float64]:
        """Score each row, then learn it, in order.

        Parameters
        ----------
        rows : (indptr, indices, values)
            CSR; indices below `n_slots`, finite float64 values.
        targets : ndarray of float64, shape (n_rows,)
            0 or 1, a number, or a class index, by link.
        row_weights : ndarray of float64, shape (n_rows,), optional
            Scales each row's gradient.

        Returns
        -------
        ndarray of float64, shape (n_rows,) or, under ``softmax``, (n_rows, n_outputs)
            The score of each row before it was learned. About 7 ns per entry.
        """
        weights = np.ones(targets.size) if row_weights is None else row_weights
        scores = np.empty((targets.size, self.n_outputs))
        before = self.memory.copy() if self.link == "identity" else self.memory
        _learn(*rows, targets, weights, self.memory, RULES[self.rule], self.rates, LINKS[self.link], scores)
        # Probabilities are bounded and so are their gradients; a squared error has no such bound.
        if self.link == "identity" and not (np.isfinite(scores).all() and np.isfinite(self.memory).all()):
            self.memory = before
            raise InputError(
                f"learning diverged, and the batch was undone; lower alpha (now {self.rates[0]}) or scale the inputs"
            )
        return scores if self.link == "softmax" else scores[:, 0]

    def score(self, rows: Csr) -> NDArray[np.float64]:
        """Return the score of each row, shaped as `learn` does; changes nothing."""
        scores: NDArray[np.float64] = _linked(LINKS[self.link], self.margins(rows))
        return scores if self.link == "softmax" else scores[:, 0]

    def margins(self, rows: Csr) -> NDArray[np.float64]:
        """Return the linear scores, shape (n_rows, n_outputs)."""
        margins: NDArray[np.float64] = _margins(*rows, self.weights())
        return margins

    def weights(self) -> NDArray[np.float64]:
        """Return the weights the state stands for, shape (n_slots + 1, n_outputs), intercept last."""
        weights: NDArray[np.float64] = _weights(self.memory, RULES[self.rule], self.rates)
        return weights

    def seed(self, weights: NDArray[np.float64], n: NDArray[np.float64]) -> None:
        """Start from `weights`, as if they had been learned under squared gradients `n`.

        Parameters
        ----------
        weights : ndarray of float64, shape (n_slots + 1, n_outputs)
            Intercept last.
        n : ndarray of float64, scalar, shape (n_slots + 1,) or (n_outputs, n_slots + 1)
            Non-negative; the rules ``adam`` and ``sgd`` have no use for it.

        Raises
        ------
        InputError
            A shape does not fit, a number is not finite, or neither beta, n nor l2 damps a coordinate, so that no
            state of the rule ``ftrl`` stands for the weight.
        """
        if weights.shape != self.memory.shape[:2] or not np.isfinite(weights).all():
            raise InputError(f"expected finite weights of shape {self.memory.shape[:2]}, found {weights.shape}")
        seen = np.broadcast_to(n.T if n.ndim > 1 else n[..., None], weights.shape)
        if not (np.isfinite(seen).all() and (seen >= 0).all()):
            raise InputError("expected squared gradients n >= 0, found a negative one, NaN or infinity")
        memory = np.zeros_like(self.memory)
        memory[..., 0] = weights
        if self.rule == "ftrl":
            alpha, beta, l1, l2 = self.rates
            damping = (beta + np.sqrt(seen)) / alpha + l2
            if (damping[weights != 0] == 0).any():
                raise InputError("expected beta, l2 or n above zero where a weight is to be held, found all zero")
            memory[..., 0] = -weights * damping - np.sign(weights) * l1
        if self.rule in {"ftrl", "adagrad"}:
            memory[..., 1] = seen
        self.memory = memory

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the state as arrays; coordinates never touched are left out."""
        touched = np.flatnonzero(self.memory.any(axis=(1, 2)))
        return {"slots": touched, "memory": self.memory[touched]}

    def restore(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Take back what `arrays` gave."""
        self.memory[:] = 0.0
        self.memory[arrays["slots"]] = arrays["memory"]


@numba.njit(cache=True, nogil=True)
def sigmoid(margin):  # type: ignore[no-untyped-def]
    """Return the logistic function without overflow at either end."""
    if margin >= 0.0:
        return 1.0 / (1.0 + np.exp(-margin))
    odds = np.exp(margin)
    return odds / (1.0 + odds)


@numba.njit(cache=True, nogil=True)
def _link(link, margins, out):  # type: ignore[no-untyped-def]
    """Fill `out` with what the model says where its margins are `margins`."""
    if link == _LOGISTIC:
        out[0] = sigmoid(margins[0])
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


@numba.njit(cache=True, nogil=True)
def gather(memory, k, slots, block):  # type: ignore[no-untyped-def]
    """Copy the memories of output `k` at `slots`, and the intercept's after them, into `block`, a lane per part."""
    for part in range(memory.shape[2]):
        lane = block[part]
        for j in range(slots.size):
            lane[j] = memory[slots[j], k, part]
        lane[slots.size] = memory[-1, k, part]


@numba.njit(cache=True, nogil=True)
def add(memory, k, slots, block):  # type: ignore[no-untyped-def]
    """Add `block` to the memories `gather` took it from."""
    for part in range(memory.shape[2]):
        lane = block[part]
        for j in range(slots.size):
            memory[slots[j], k, part] += lane[j]
        memory[-1, k, part] += lane[slots.size]


@numba.njit(cache=True, nogil=True)
def _learn(indptr, indices, values, targets, row_weights, memory, rule, rates, link, scores):  # type: ignore[no-untyped-def]  # noqa: PLR0913, PLR0917 - a kernel takes arrays
    outputs, width = memory.shape[1], memory.shape[2]
    longest = 1
    for row in range(targets.size):
        longest = max(longest, indptr[row + 1] - indptr[row] + 1)
    block = np.empty((outputs, width, longest))
    weights = np.empty((outputs, longest))
    margins, gradients = np.empty(outputs), np.empty(longest)
    for row in range(targets.size):
        slots, x = indices[indptr[row] : indptr[row + 1]], values[indptr[row] : indptr[row + 1]]
        for k in range(outputs):
            gather(memory, k, slots, block[k])
            w = weights[k]
            weigh(rule, block[k], x.size + 1, rates, w)
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
            change(rule, block[k], x.size + 1, rates, weights[k], gradients)
            add(memory, k, slots, block[k])


@numba.njit(cache=True, nogil=True)
def _margins(indptr, indices, values, weights):  # type: ignore[no-untyped-def]
    last, outputs = weights.shape[0] - 1, weights.shape[1]
    out = np.zeros((indptr.size - 1, outputs))
    for row in range(out.shape[0]):
        for entry in range(indptr[row], indptr[row + 1]):
            for k in range(outputs):
                out[row, k] += weights[indices[entry], k] * values[entry]
        for k in range(outputs):
            out[row, k] += weights[last, k]
    return out


@numba.njit(cache=True, nogil=True)
def _weights(memory, rule, rates):  # type: ignore[no-untyped-def]
    out, block = np.empty((memory.shape[0], memory.shape[1])), np.empty((memory.shape[2], memory.shape[1]))
    for slot in range(memory.shape[0]):
        block[:] = memory[slot].T
        weigh(rule, block, memory.shape[1], rates, out[slot])
    return out


@numba.njit(cache=True, nogil=True)
def _linked(link, margins):  # type: ignore[no-untyped-def]
    out = np.empty(margins.shape)
    for row in range(margins.shape[0]):
        _link(link, margins[row], out[row])
    return out

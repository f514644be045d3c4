r"""Linear models learned one row at a time: the state, and the kernels that score and learn CSR rows.

For row *x* with margins :math:`m_k = b_k + \sum_i w_{ik} x_i` the model says :math:`\sigma(m)` (link ``logistic``),
:math:`\operatorname{softmax}(m)` (``softmax``) or :math:`m` (``identity``); under log loss and half the squared error
alike, the gradient of coordinate *(i, k)* is :math:`(\text{said}_k - y_k)\, x_i`.

The invariant: rows are never folded together. Each is scored with the weights its predecessors left, then learned, and
sums run over a row's entries in storage order, the intercept last; so any split of the rows gives the same bits, and
the scores returned by learning are those `score` would have given just before. Two entries of a row at one slot (a
collision of hashes) both start from the state before the row, and what they change adds up.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ml_core.errors import InputError
from ml_core.learners.kernels import derive_ftrl, learn_ftrl, learn_linear, score_linear
from ml_core.learners.merging import merged_memory
from ml_core.learners.rules import LINKS, RULES, STATE_SAVED, STATE_WIDTH, Rates

Csr = tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float64]]


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
        What the rule remembers of every coordinate, its weight first: 32 bytes each under ``ftrl``.
    """

    n_slots: int
    n_outputs: int
    rule: str
    rates: Rates
    link: str
    memory: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        # filled rather than asked for as zeros: NumPy puts large arrays it will write to on large pages
        self.memory = np.full((self.n_slots + 1, self.n_outputs, STATE_WIDTH[self.rule]), 0.0)

    def learn(
        self, rows: Csr, targets: NDArray[np.float64], row_weights: NDArray[np.float64] | None = None
    ) -> NDArray[np.float64]:
        """Score each row, then learn it, in order.

        Parameters
        ----------
        rows : (indptr, indices, values)
            CSR; int32 indices below `n_slots`, finite float64 values.
        targets : ndarray of float64, shape (n_rows,)
            0 or 1, a number, or a class index, by link.
        row_weights : ndarray of float64, shape (n_rows,), optional
            Scales each row's gradient.

        Returns
        -------
        ndarray of float64, shape (n_rows,) or, under ``softmax``, (n_rows, n_outputs)
            The score of each row before it was learned. About 8 ns per entry.
        """
        weights = np.ones(targets.size) if row_weights is None else row_weights
        scores = np.empty((targets.size, self.n_outputs))
        before = self.memory.copy() if self.link == "identity" else self.memory
        if self.rule == "ftrl" and self.n_outputs == 1:
            learn_ftrl(*rows, targets, weights, self.memory, self.rates, LINKS[self.link], scores)
        else:
            learn_linear(*rows, targets, weights, self.memory, RULES[self.rule], self.rates, LINKS[self.link], scores)
        # Probabilities are bounded and so are their gradients; a squared error has no such bound.
        if self.link == "identity" and not (np.isfinite(scores).all() and np.isfinite(self.memory).all()):
            self.memory = before
            raise InputError(
                f"learning diverged, and the batch was undone; lower alpha (now {self.rates[0]}) or scale the inputs"
            )
        return scores if self.link == "softmax" else scores[:, 0]

    def score(self, rows: Csr) -> NDArray[np.float64]:
        """Return the score of each row, shaped as `learn` does; changes nothing."""
        scores = self._scored(rows, self.link)
        return scores if self.link == "softmax" else scores[:, 0]

    def margins(self, rows: Csr) -> NDArray[np.float64]:
        """Return what the link is applied to, shape (n_rows, n_outputs)."""
        return self._scored(rows, "identity")

    def weights(self) -> NDArray[np.float64]:
        """Return the weights the state stands for, shape (n_slots + 1, n_outputs), intercept last."""
        return self.memory[..., 0].copy()

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
            # without a negative zero, which adding nothing would make a positive one
            memory[..., 1], memory[..., 2] = -weights * damping - np.sign(weights) * l1 + 0.0, seen
        elif self.rule == "adagrad":
            memory[..., 1] = seen
        self.memory = memory
        self._derive()

    def merge(self, shards: Sequence[Self]) -> None:
        """Become what `shards`, which all went on from this state, make together; see `ml_core.learners.merging`."""
        self.memory = merged_memory(self.rule, self.rates, self.memory, [shard.memory for shard in shards])
        self._derive()

    def move(self, slots: NDArray[np.int64], to: NDArray[np.int64]) -> None:
        """Give what is remembered at `slots` to the slots `to`; where that is -1, forget it.

        None of `to` may hold anything, unless it is among `slots`.
        """
        cells = self.memory[slots]
        self.memory[slots] = 0.0
        self.memory[to[to >= 0]] = cells[to >= 0]

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the state as arrays; coordinates never touched are left out."""
        saved = self.memory[..., STATE_SAVED[self.rule]]
        touched = np.flatnonzero(saved.any(axis=(1, 2)))
        return {"slots": touched, "memory": saved[touched]}

    def restore(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Take back what `arrays` gave."""
        self.memory[:] = 0.0
        self.memory[arrays["slots"], :, STATE_SAVED[self.rule]] = arrays["memory"]
        self._derive()

    def _scored(self, rows: Csr, link: str) -> NDArray[np.float64]:
        scores = np.empty((rows[0].size - 1, self.n_outputs))
        score_linear(*rows, self.memory, LINKS[link], scores)
        return scores

    def _derive(self) -> None:
        if self.rule == "ftrl":
            derive_ftrl(self.memory, self.rates)

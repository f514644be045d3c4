"""A head that is one of our own learners: row by row, exact, and able to continue a linear model fitted in batch.

With ``start_from`` the full training fits a linear model of scikit-learn's on its rows as a whole, and the learner
takes over: its state is reconstructed so that the first score is unchanged, under the squared gradients that the batch
model's own rows have at its weights, so that what was settled stays settled.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from ml_core.errors import InputError
from ml_core.learners.estimators import OnlineEstimator
from ml_core.learners.linear import Csr, LinearState
from ml_core.learners.merging import MERGED_RULES
from ml_core.pipeline.export import write_learner
from ml_core.pipeline.graph import GraphWriter
from ml_core.pipeline.heads.base import Head, Scores
from ml_core.pipeline.heads.foreign import ForeignHead
from ml_core.pipeline.parts import Parts
from ml_core.pipeline.stages.base import Moves


class OnlineHead(Head):
    """An online learner.

    Parameters
    ----------
    estimator : OnlineEstimator
        With its hyper-parameters.
    n_classes : int
    start_from : ForeignHead, optional
        The linear model whose batch fit the learner continues.
    """

    def __init__(self, estimator: OnlineEstimator, n_classes: int, start_from: ForeignHead | None = None) -> None:
        self.name = type(estimator).__name__
        self.n_classes = n_classes
        self._estimator = estimator
        self._start_from = start_from
        self._state = estimator.start(1, n_classes)

    @property
    def exact(self) -> bool:
        return True

    @property
    def fits(self) -> bool:
        return self._start_from is not None

    @property
    def obstacle(self) -> str | None:
        if not isinstance(self._state, LinearState):
            return "the average of two factor vectors stands for neither"
        if self._state.rule not in MERGED_RULES:
            return f"optimizer {self._state.rule!r} does not keep how much a weight was shown; use {MERGED_RULES[0]!r}"
        return None

    def settings(self) -> dict[str, Any]:
        started = {} if self._start_from is None else {"start_from": self._start_from.settings()}
        parameters: dict[str, Any] = self._estimator.get_params()
        return {"name": self.name, "n_classes": self.n_classes} | parameters | started

    def start(self, n_slots: int) -> None:
        self._state = self._estimator.start(n_slots, self.n_classes)

    def fit(self, rows: Csr, targets: NDArray[np.float64]) -> None:
        self.start(self._state.n_slots)
        if self._start_from is None or not isinstance(self._state, LinearState):
            self._state.learn(rows, targets)
            return
        self._start_from.start(self._state.n_slots)
        self._start_from.fit(rows, targets)
        weights = self._start_from.weights()
        self._state.seed(weights, _squared_gradients(rows, self._start_from.score(rows), targets))

    def learn(self, rows: Csr, targets: NDArray[np.float64]) -> Scores:
        return self._state.learn(rows, targets)

    def score(self, rows: Csr) -> Scores:
        return self._state.score(rows)

    def merge(self, shards: Sequence[Self], moves: Sequence[Moves]) -> None:
        states = [shard._state for shard in shards if isinstance(shard._state, LinearState)]  # noqa: SLF001 - its kind
        if self.obstacle is not None or not isinstance(self._state, LinearState):
            super().merge(shards, moves)
            return
        for state, (slots, to) in zip(states, moves, strict=True):
            state.move(slots, to)
        self._state.merge(states)

    def write(self, graph: GraphWriter, parts: Parts) -> bytes:
        return write_learner(graph, parts, self._state)

    def arrays(self) -> dict[str, NDArray[Any]]:
        return self._state.arrays()

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        self._state.restore(dict(arrays))


def _squared_gradients(rows: Csr, scores: Scores, targets: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return each coordinate's sum over the rows of its squared gradient, shape (n_outputs, n_slots + 1)."""
    indptr, slots, values = rows
    if scores.ndim > 1:
        errors = scores - (targets[:, None] == np.arange(scores.shape[1]))
    else:
        errors = (scores - targets)[:, None]
    width = int(slots.max(initial=-1)) + 1
    squares = sparse.csr_array((values**2, slots, indptr), shape=(len(targets), width))
    summed = (squares.T @ errors**2).T
    intercept = (errors**2).sum(axis=0)[:, None]
    if not np.isfinite(summed).all():
        raise InputError("expected numbers whose squares are finite; scale or clip the inputs")
    return np.column_stack([summed, intercept])

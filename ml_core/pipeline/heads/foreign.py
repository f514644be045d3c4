"""A head that is an estimator of another library, scikit-learn's above all: fitted in batch on the assembled rows.

It continues where its library lets it, by `partial_fit` or under ``warm_start``, and where its state can be kept; else
a flow that ends in it is refitted, and such a version keeps only its graph. Tree ensembles compare in float32, as their
libraries do; everything else is computed in double, in Python and in the graph alike.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.base import clone, is_classifier

from ml_core.errors import ExportError, InputError, ProjectError
from ml_core.learners.linear import Csr
from ml_core.pipeline.convert import write_estimator
from ml_core.pipeline.export import write_linear
from ml_core.pipeline.graph import GraphWriter
from ml_core.pipeline.heads.base import Head, Scores
from ml_core.pipeline.library import KEPT, ask, float32_below, keep, make, release, restore
from ml_core.pipeline.parts import Parts, assembled

_TWO = 2
_WIDEST = 4_096
_DENSE_UP_TO = 64
# These compare in float32 whatever they are given.
_ROUNDED = ("sklearn.tree", "sklearn.ensemble", "xgboost")
_FORGETS = ("sklearn.tree", *(f"sklearn.ensemble.{kind}" for kind in ("RandomForest", "ExtraTrees", "Bagging")))
# Linear models and the link their margin goes through: written by our own formula, in double, at any width.
_LINKS: Mapping[str, str] = {
    "sklearn.linear_model.LogisticRegression": "softmax",
    "sklearn.linear_model.LinearRegression": "identity",
    "sklearn.linear_model.Ridge": "identity",
    "sklearn.linear_model.Lasso": "identity",
    "sklearn.linear_model.ElasticNet": "identity",
    "sklearn.linear_model.SGDRegressor": "identity",
}


class ForeignHead(Head):
    """An estimator of another library.

    Parameters
    ----------
    name : str
        Its dotted path.
    parameters : mapping
        Its own.
    n_classes : int
        For a classifier.
    """

    def __init__(self, name: str, parameters: Mapping[str, Any], n_classes: int = 2) -> None:
        self.name = name
        self._parameters = dict(sorted(parameters.items()))
        self._unfitted = make(name, parameters, "pipeline.estimator")
        self.n_classes = n_classes if is_classifier(self._unfitted) else 0
        self._fitted: Any = None
        self._n_slots = 0
        self._check()

    @property
    def linear(self) -> bool:
        """Whether it is a linear model that our own learners can continue."""
        return self.name in _LINKS

    @property
    def regressor(self) -> bool:
        """Whether it predicts a number."""
        return not self.n_classes

    @property
    def kept(self) -> bool:
        return self.name in KEPT

    @property
    def hindrance(self) -> str | None:
        if not self.kept:
            return "its fitted state cannot be kept without pickle"
        if hasattr(self._unfitted, "partial_fit") or getattr(self._unfitted, "warm_start", False):
            return None
        if self.linear:
            return "it has no partial_fit; let an online learner continue it by `start_from`, or say warm_start = true"
        return "it has no partial_fit"

    @property
    def takes_missing(self) -> bool:
        # where scikit-learn's plain trees send a missing number is lost in their graph
        return not self.name.startswith(_FORGETS) and bool(self._unfitted.__sklearn_tags__().input_tags.allow_nan)

    def settings(self) -> dict[str, Any]:
        named = {"name": self.name, "n_classes": self.n_classes, "library": release(self.name)}
        return named | {"parameters": self._parameters}

    def start(self, n_slots: int) -> None:
        self._fitted, self._n_slots = None, n_slots
        if n_slots > _WIDEST and not self.linear:
            raise ProjectError(
                f"pipeline.estimator: {self.name} takes at most {_WIDEST} slots, found {n_slots}; lower `bits` of"
                " hashed stages and `cap` of one-hot ones"
            )

    def fit(self, rows: Csr, targets: NDArray[np.float64]) -> None:
        self._check_classes(targets)
        self._fitted = self._ask(clone(self._unfitted).fit, self._matrix(rows), targets)
        _round_thresholds(self._fitted)

    def learn(self, rows: Csr, targets: NDArray[np.float64]) -> Scores:
        if self.hindrance is not None:
            raise InputError(f"pipeline.estimator: {self.name} cannot continue: {self.hindrance}")
        scores = self.score(rows)
        if targets.size:
            self._continue(self._matrix(rows), targets)
        return scores

    def score(self, rows: Csr) -> Scores:
        if self._fitted is None:
            raise InputError(f"pipeline.estimator: {self.name} was not fitted yet; run the full training")
        if rows[0].size == 1:
            return np.empty((0, self.n_classes) if self.n_classes > _TWO else 0)
        return self._scores(self._matrix(rows))

    def weights(self) -> NDArray[np.float64]:
        """Return a linear model's weights, shape (n_slots + 1, n_outputs), intercept last."""
        coef = np.atleast_2d(np.asarray(self._fitted.coef_, np.float64))
        intercept = np.broadcast_to(np.asarray(self._fitted.intercept_, np.float64), coef.shape[:1])
        return np.column_stack([coef, intercept]).T

    def write(self, graph: GraphWriter, parts: Parts) -> bytes:
        if self._fitted is None:
            raise ExportError(f"pipeline.estimator: {self.name} was not fitted yet")
        try:
            return self._write(graph, parts)
        except ExportError as error:
            raise ExportError(f"pipeline.estimator {self.name!r}: {error}") from error

    def arrays(self) -> dict[str, NDArray[Any]]:
        return keep(self._fitted) if self.kept and self._fitted is not None else {}

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        self._fitted = restore(self._unfitted, arrays) if arrays else None

    def _check(self) -> None:
        if self.n_classes and not hasattr(self._unfitted, "predict_proba"):
            raise ProjectError(
                f"pipeline.estimator: expected a classifier with predict_proba, found {self.name} without; choose one,"
                " or a loss that has probabilities"
            )
        if not hasattr(self._unfitted, "predict"):
            raise ProjectError(f"pipeline.estimator: expected an estimator, found {self.name}, which predicts nothing")
        if self.name.startswith("sklearn.neighbors."):
            raise ProjectError(
                f"pipeline.estimator: {self.name} cannot be exported: of points equally near, it and a graph may choose"
                " different ones; choose another estimator"
            )

    def _check_classes(self, targets: NDArray[np.float64]) -> None:
        found = np.unique(targets)
        if self.n_classes and found.size < self.n_classes:
            raise InputError(
                f"pipeline.estimator: {self.name} has to be fitted on rows of all {self.n_classes} classes, found"
                f" {found.tolist()}"
            )

    def _continue(self, values: Any, targets: NDArray[np.float64]) -> None:
        # a copy learns, so that a refused batch leaves the model as it was
        copy = restore(self._unfitted, keep(self._fitted))
        if hasattr(copy, "partial_fit"):
            self._fitted = self._ask(copy.partial_fit, values, targets)
        else:
            self._check_classes(targets)
            self._fitted = self._ask(copy.fit, values, targets)

    def _ask(self, call: Callable[..., Any], *arguments: Any) -> Any:
        return ask(f"pipeline.estimator: {self.name}", call, *arguments)

    def _scores(self, values: Any) -> Scores:
        if self.regressor:
            return np.asarray(self._fitted.predict(values), np.float64).reshape(-1)
        shares = np.asarray(self._fitted.predict_proba(values), np.float64)
        return shares[:, 1] if self.n_classes == _TWO else shares

    def _matrix(self, rows: Csr) -> Any:
        """Return the assembled rows, dense where they are narrow or have to be, (n_rows, n_slots)."""
        indptr, slots, values = rows
        # one width of integers whatever the batch, as the libraries' own compiled code takes them
        shape = (indptr.size - 1, self._n_slots)
        matrix = sparse.csr_array((values, slots.astype(np.int32), indptr.astype(np.int32)), shape=shape)
        matrix.sum_duplicates()
        if self._n_slots > _DENSE_UP_TO and self._sparse():
            return matrix
        dense = matrix.toarray()
        return dense.astype(np.float32).astype(np.float64) if self._rounds() else dense

    def _sparse(self) -> bool:
        return not self._rounds() and bool(self._unfitted.__sklearn_tags__().input_tags.sparse)

    def _rounds(self) -> bool:
        return self.name.startswith(_ROUNDED)

    def _write(self, graph: GraphWriter, parts: Parts) -> bytes:
        if self.linear:
            link = _LINKS[self.name]
            return write_linear(graph, parts, self.weights(), "logistic" if self.n_classes == _TWO else link)
        rows, single = assembled(graph, parts), self._rounds()
        return self._finish(graph, write_estimator(graph, self._fitted, rows, width=self._n_slots, single=single))

    def _finish(self, graph: GraphWriter, made: str) -> bytes:
        """Finish with what the estimator makes: probabilities [n, n_classes], or numbers [n, 1], in double."""
        if self.n_classes > _TWO:
            return graph.finish(made, width=self.n_classes)
        if self.n_classes:
            made = graph.add("Gather", made, graph.constant(np.array([1], np.int64)), axis=1)
        return graph.finish(graph.add("Reshape", made, graph.constant(np.array([-1], np.int64))))


def _round_thresholds(fitted: Any) -> None:
    """Let the histogram trees of scikit-learn compare with the float32 at or below each threshold, as the graph does.

    No float32 lies between the two, and these estimators are given nothing else.
    """
    for tree in (tree for trees in getattr(fitted, "_predictors", ()) for tree in trees):
        thresholds = tree.nodes["num_threshold"]
        tree.nodes["num_threshold"] = float32_below(thresholds)

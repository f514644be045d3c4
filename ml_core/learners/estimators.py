"""What every online estimator shares: scikit-learn's interface around a state that learns one row at a time.

The invariant: everything about a batch is checked before the state is touched, so a refused batch leaves the model as
it was. Rows are learned in the order given, once; nothing is shuffled and nothing is drawn at random.
"""

from abc import abstractmethod
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from ml_core.errors import InputError
from ml_core.learners.linear import Csr
from ml_core.learners.rules import Rates


class State(Protocol):
    """A learner's whole state, and the two things that can be done with it."""

    n_slots: int

    def learn(
        self, rows: Csr, targets: NDArray[np.float64], row_weights: NDArray[np.float64] | None = None
    ) -> NDArray[np.float64]:
        """Score each row, then learn it, in order; return the scores."""

    def score(self, rows: Csr) -> NDArray[np.float64]:
        """Score each row; change nothing."""

    def margins(self, rows: Csr) -> NDArray[np.float64]:
        """Return what the link is applied to, shape (n_rows, n_outputs)."""

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the state as arrays."""

    def restore(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Take back what `arrays` gave."""


class OnlineEstimator(BaseEstimator):  # type: ignore[misc]  # scikit-learn ships no types
    """An estimator whose training is one pass over rows, in order.

    Attributes
    ----------
    state_ : State
        The optimiser's whole state.
    n_trained_ : int
        Rows learned.
    """

    alpha: float
    beta: float
    l1: float
    l2: float

    @abstractmethod
    def start(self, n_slots: int, n_classes: int = 2) -> State:
        """Return a new state under these hyper-parameters, for rows of `n_slots` features.

        Raises
        ------
        InputError
            A hyper-parameter is out of its range.
        """

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Forget everything, then learn the rows in order, once."""
        return self._learn(X, y, sample_weight, None, first=True)

    def rates(self) -> Rates:
        """Return (alpha, beta, l1, l2), checked."""
        rates = (float(self.alpha), float(self.beta), float(self.l1), float(self.l2))
        if not np.isfinite(rates).all() or rates[0] <= 0 or min(rates[1:]) < 0:
            raise InputError(f"expected alpha > 0 and beta, l1, l2 >= 0, found alpha, beta, l1, l2 = {rates}")
        return rates

    @abstractmethod
    def _understand(self, y: NDArray[Any], classes: ArrayLike | None, *, first: bool) -> NDArray[np.float64]:
        """Check the labels of a batch and return them as the kernels' targets."""

    def _learn(
        self, X: Any, y: Any, sample_weight: ArrayLike | None, classes: ArrayLike | None, *, first: bool
    ) -> Self:
        before = dict(self.__dict__)
        try:
            X, y = validate_data(self, X, y, reset=first, accept_sparse="csr", dtype=np.float64)
            row_weights = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
            targets = self._understand(y, classes, first=first)
            if first:
                self.state_ = self.start(X.shape[1], len(getattr(self, "classes_", (0, 1))))
                self.n_trained_ = 0
            self.state_.learn(_csr(X), targets, row_weights)
        except ValueError as error:
            self.__dict__.clear()
            self.__dict__.update(before)
            raise error if isinstance(error, InputError) else InputError(str(error)) from error
        self.n_trained_ += targets.size
        return self

    def _margins(self, X: Any) -> NDArray[np.float64]:
        check_is_fitted(self, "state_")
        X = validate_data(self, X, reset=False, accept_sparse="csr", dtype=np.float64)
        return self.state_.margins(_csr(X))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


class OnlineClassifier(ClassifierMixin, OnlineEstimator):  # type: ignore[misc]  # scikit-learn ships no types
    """A classifier whose training is one pass over rows, in order.

    Attributes
    ----------
    classes_ : ndarray, shape (n_classes,)
        The labels, sorted; of two, the second counts as positive.
    """

    classes_: NDArray[Any]

    def partial_fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        classes: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> Self:
        """Learn the rows in order, once; a refused batch leaves the model untouched.

        Parameters
        ----------
        X : array-like or CSR matrix, shape (n_rows, n_features)
        y : array-like, shape (n_rows,)
        classes : array-like, shape (n_classes,), optional
            All labels there will be, where the first batch may not hold each of them.
        sample_weight : array-like, shape (n_rows,), optional
            Non-negative; scales each row's gradient. A row of weight 0 is not learned at all.

        Raises
        ------
        InputError
            A row holds NaN or infinity, a label is not one of the classes, or the width changed.
        """
        return self._learn(X, y, sample_weight, classes, first=not hasattr(self, "state_"))

    def decision_function(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return the log-odds of the second class, shape (n_rows,), or each class's margin, (n_rows, n_classes)."""
        margins = self._margins(X)
        return margins[:, 0] if margins.shape[1] == 1 else margins

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return the probability of each class, shape (n_rows, n_classes)."""
        check_is_fitted(self, "state_")
        X = validate_data(self, X, reset=False, accept_sparse="csr", dtype=np.float64)
        scores = self.state_.score(_csr(X))
        return np.column_stack([1.0 - scores, scores]) if scores.ndim == 1 else scores

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return the most probable class of each row, shape (n_rows,)."""
        margins = self.decision_function(X)
        chosen = (margins > 0).astype(np.int64) if margins.ndim == 1 else margins.argmax(axis=1)
        return np.asarray(self.classes_[chosen])

    def _understand(self, y: NDArray[Any], classes: ArrayLike | None, *, first: bool) -> NDArray[np.float64]:
        if first:
            check_classification_targets(y)
            known = np.unique(y if classes is None else np.asarray(classes))
            if known.size < 2:  # noqa: PLR2004 - a single class
                raise InputError(f"expected two classes, found only one class, {known[0]!r}; name all by `classes=`")
        else:
            known = self.classes_
            if classes is not None and not np.array_equal(np.unique(np.asarray(classes)), known):
                raise InputError(f"expected the classes of the first batch, {list(known)}, found {classes}")
        targets = np.searchsorted(known, y).clip(max=known.size - 1)
        unknown = np.flatnonzero(known[targets] != y)
        if unknown.size:
            raise InputError(f"expected labels among {list(known)}, found {y[unknown[0]]!r} in row {unknown[0]}")
        self.classes_ = known
        return targets.astype(np.float64)


class OnlineRegressor(RegressorMixin, OnlineEstimator):  # type: ignore[misc]  # scikit-learn ships no types
    """A regressor whose training is one pass over rows, in order."""

    def partial_fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Learn the rows in order, once; a refused batch leaves the model untouched.

        Raises
        ------
        InputError
            A row or target holds NaN or infinity, the width changed, or learning diverged.
        """
        return self._learn(X, y, sample_weight, None, first=not hasattr(self, "state_"))

    def predict(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return the prediction for each row, shape (n_rows,)."""
        return self._margins(X)[:, 0]

    def _understand(self, y: NDArray[Any], classes: ArrayLike | None, *, first: bool) -> NDArray[np.float64]:  # noqa: ARG002 - numbers need no names
        return np.asarray(y, np.float64)


def _csr(X: Any) -> Csr:
    rows = X if sparse.issparse(X) else sparse.csr_array(X)
    # kernels are compiled for one kind of array; asking for it costs nothing where it is given
    return (
        np.require(rows.indptr, np.int64, ("C", "W")),
        np.require(rows.indices, np.int32, ("C", "W")),
        np.require(rows.data, np.float64, ("C", "W")),
    )

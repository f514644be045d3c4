r"""FTRL-proximal logistic regression, one row at a time, in the order the rows come.

Follow-the-regularised-leader with per-coordinate learning rates, Algorithm 1 of McMahan et al. (2013), "Ad Click
Prediction: a View from the Trenches", KDD. For every coordinate *i* that is non-zero in row *x*:

.. math::

    w_i &= \begin{cases} 0 & |z_i| \le \lambda_1 \\
           -\left(\frac{\beta + \sqrt{n_i}}{\alpha} + \lambda_2\right)^{-1} (z_i - \operatorname{sgn}(z_i) \lambda_1)
           & \text{otherwise} \end{cases} \\
    p &= \sigma(x \cdot w), \qquad g_i = (p - y)\, x_i \\
    \sigma_i &= \left(\sqrt{n_i + g_i^2} - \sqrt{n_i}\right) / \alpha \\
    z_i &\leftarrow z_i + g_i - \sigma_i w_i, \qquad n_i \leftarrow n_i + g_i^2

The state is `z` and `n` alone; weights are derived from them. Rows are never folded together and sums run over a
row's entries in the order they are stored, so any split of the rows into batches gives the same bits. The
kernel scores each row before it learns it, which makes prequential evaluation free.
"""

from typing import Any, Self

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from scipy.special import expit
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from ml_core.errors import InputError


@numba.njit(cache=True, nogil=True)
def _weight(z: float, n: float, alpha: float, beta: float, l1: float, l2: float) -> float:
    """Return the weight that the state of one coordinate stands for."""
    if abs(z) <= l1:
        return 0.0
    return -(z - np.sign(z) * l1) / ((beta + np.sqrt(n)) / alpha + l2)


@numba.njit(cache=True, nogil=True)
def sigmoid(margin: float) -> float:
    """Return the logistic function without overflow at either end."""
    if margin >= 0.0:
        return 1.0 / (1.0 + np.exp(-margin))
    odds = np.exp(margin)
    return odds / (1.0 + odds)


@numba.njit(cache=True, nogil=True)
def learn_rows(indptr, indices, values, labels, row_weights, z, n, rates, scores):  # type: ignore[no-untyped-def]  # noqa: PLR0913, PLR0917
    """Score, then learn, every row of a CSR matrix in order; `z` and `n` change in place, `scores` is filled.

    `rates` is (alpha, beta, l1, l2). Cost: about 10 ns per stored entry.
    """
    alpha, beta, l1, l2 = rates
    for row in range(labels.size):
        start, stop = indptr[row], indptr[row + 1]
        margin = 0.0
        for entry in range(start, stop):
            i = indices[entry]
            margin += _weight(z[i], n[i], alpha, beta, l1, l2) * values[entry]
        p = sigmoid(margin)
        scores[row] = p
        slope = (p - labels[row]) * row_weights[row]
        for entry in range(start, stop):
            i = indices[entry]
            g = slope * values[entry]
            w = _weight(z[i], n[i], alpha, beta, l1, l2)
            grown = n[i] + g * g
            z[i] += g - (np.sqrt(grown) - np.sqrt(n[i])) / alpha * w
            n[i] = grown


@numba.njit(cache=True, nogil=True)
def margins(indptr, indices, values, weights):  # type: ignore[no-untyped-def]
    """Return the linear score of every row of a CSR matrix, shape (n_rows,), summed in storage order."""
    out = np.zeros(indptr.size - 1)
    for row in range(out.size):
        for entry in range(indptr[row], indptr[row + 1]):
            out[row] += weights[indices[entry]] * values[entry]
    return out


def weights_of(
    z: NDArray[np.float64], n: NDArray[np.float64], rates: tuple[float, float, float, float]
) -> NDArray[np.float64]:
    """Return the weights that a state stands for, shape of `z`; the kernel's `_weight`, vectorised."""
    alpha, beta, l1, l2 = rates
    weights = -(z - np.sign(z) * l1) / ((beta + np.sqrt(n)) / alpha + l2)
    return np.where(np.abs(z) <= l1, 0.0, weights)


class FTRLClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn ships no types
    """Binary logistic regression learned online by FTRL-proximal.

    Parameters
    ----------
    alpha : float, > 0
        Scale of the per-coordinate learning rate.
    beta : float, >= 0
        Damps the first steps of a coordinate.
    l1, l2 : float, >= 0
        Regularisation; `l1` keeps weights at exactly zero until the evidence for them exceeds it.

    Attributes
    ----------
    classes_ : ndarray, shape (2,)
    z_, n_ : ndarray of float64, shape (n_features + 1,)
        The optimiser's state; the last coordinate is the intercept, an input that is always 1.
    n_trained_ : int
        Rows learned.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.array([[0.0], [1.0], [2.0], [3.0]])
    >>> model = FTRLClassifier(alpha=1.0).fit(X, [0, 0, 1, 1])
    >>> model.predict_proba(X).shape
    (4, 2)
    """

    def __init__(self, alpha: float = 0.1, beta: float = 1.0, l1: float = 0.0, l2: float = 0.0) -> None:
        self.alpha = alpha
        self.beta = beta
        self.l1 = l1
        self.l2 = l2

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:  # noqa: N803 - scikit-learn's name
        """Forget everything, then learn the rows in order, once."""
        for name in ("z_", "n_", "classes_"):
            self.__dict__.pop(name, None)
        return self.partial_fit(X, y, sample_weight=sample_weight)

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
        classes : array-like, shape (2,), optional
            The two labels, where the first batch may hold only one of them; the second counts as positive.
        sample_weight : array-like, shape (n_rows,), optional
            Non-negative; scales each row's gradient.

        Raises
        ------
        InputError
            A row holds NaN or infinity, a label is not one of the two classes, or the width changed.
        """
        rates = self._rates()
        first = not hasattr(self, "z_")
        X, y = validate_data(self, X, y, reset=first, accept_sparse="csr", dtype=np.float64)  # noqa: N806
        check_classification_targets(y)
        known = np.unique(y if classes is None else classes) if first else self.classes_
        if known.size > 2 or not np.isin(y, known).all():  # noqa: PLR2004 - binary
            raise InputError(
                f"Only binary classification is supported: expected two classes, {list(known)} so far; "
                f"found labels {list(np.unique(y))}"
            )
        if first and known.size < 2:  # noqa: PLR2004
            raise InputError(f"expected two classes, found only one class, {known[0]!r}; name both by `classes=`")
        row_weights = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
        rows = _with_intercept(X)
        if first:
            self.classes_ = known
            self.z_, self.n_ = np.zeros(rows.shape[1]), np.zeros(rows.shape[1])
            self.n_trained_ = 0
        labels = (y == self.classes_[1]).astype(np.float64)
        scores = np.empty(labels.size)
        learn_rows(rows.indptr, rows.indices, rows.data, labels, row_weights, self.z_, self.n_, rates, scores)
        self.n_trained_ += labels.size
        return self

    @property
    def weights_(self) -> NDArray[np.float64]:
        """The weights the state stands for, shape (n_features + 1,), intercept last."""
        return weights_of(self.z_, self.n_, self._rates())

    def decision_function(self, X: ArrayLike) -> NDArray[np.float64]:  # noqa: N803
        """Return the log-odds of the second class, shape (n_rows,)."""
        check_is_fitted(self, "z_")
        X = validate_data(self, X, reset=False, accept_sparse="csr", dtype=np.float64)  # noqa: N806
        weights = self.weights_
        return np.asarray(X @ weights[:-1] + weights[-1])

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:  # noqa: N803
        """Return the probability of each class, shape (n_rows, 2)."""
        positive = expit(self.decision_function(X))
        return np.column_stack([1.0 - positive, positive])

    def predict(self, X: ArrayLike) -> NDArray[Any]:  # noqa: N803
        """Return the more probable class of each row, shape (n_rows,)."""
        positive = self.decision_function(X) > 0
        return np.asarray(self.classes_[positive.astype(np.int64)])

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        tags.input_tags.sparse = True
        return tags

    def _rates(self) -> tuple[float, float, float, float]:
        rates = (float(self.alpha), float(self.beta), float(self.l1), float(self.l2))
        if not np.isfinite(rates).all() or rates[0] <= 0 or min(rates[1:]) < 0:
            raise InputError(f"expected alpha > 0 and beta, l1, l2 >= 0, found alpha, beta, l1, l2 = {rates}")
        return rates


def _with_intercept(rows: Any) -> sparse.csr_array:
    """Append a last column of ones; a dense row keeps its zeros out."""
    ones = np.ones((rows.shape[0], 1))
    return sparse.csr_array(sparse.hstack([sparse.csr_array(rows), sparse.csr_array(ones)], format="csr"))

r"""FTRL-proximal and its sister rules as scikit-learn estimators: logistic, softmax and squared-error regression.

Follow-the-regularised-leader with per-coordinate learning rates: Algorithm 1 of McMahan et al. (2013), "Ad Click
Prediction: a View from the Trenches", KDD. A row :math:`x` with label :math:`y` is scored, then learned, and each
coordinate :math:`i` with :math:`x_i \neq 0` remembers :math:`z_i` and :math:`n_i`, both 0 to begin with:

.. math::

    w_i &= \begin{cases} 0 & |z_i| \le \lambda_1 \\
        -\left(\frac{\beta + \sqrt{n_i}}{\alpha} + \lambda_2\right)^{-1} (z_i - \operatorname{sgn}(z_i)\, \lambda_1)
        & \text{otherwise} \end{cases} \\
    p &= \sigma\left(\textstyle\sum_i w_i x_i\right) \qquad g_i = (p - y)\, x_i \\
    \sigma_i &= \left(\sqrt{n_i + g_i^2} - \sqrt{n_i}\right) / \alpha \\
    z_i &\leftarrow z_i + g_i - \sigma_i w_i \qquad n_i \leftarrow n_i + g_i^2

In `ml_core.learners.kernels`, where this is compiled, the first line is `_weight`, the second `_weigh_ftrl`, and the
rest `_follow`; `tests/learners/test_ftrl.py` holds every step to a reference written from the paper. The other rules
stand in `ml_core.learners.rules`. The defaults lose at most 4 % more than the best of 72 candidates on five of six data
sets of classes (benchmarks/README.md, `make bench-defaults`); for a regression ask `modelflow tune`.

A linear model that was trained elsewhere can be continued: `from_linear` reconstructs the optimiser's state so that
the first score is unchanged. For a weight :math:`w_0` and accumulated squared gradients :math:`n_0`,

.. math:: z_0 = -w_0 \left(\frac{\beta + \sqrt{n_0}}{\alpha} + \lambda_2\right) - \operatorname{sgn}(w_0)\, \lambda_1
"""

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ml_core.errors import InputError
from ml_core.learners.estimators import OnlineClassifier, OnlineRegressor
from ml_core.learners.linear import LinearState
from ml_core.learners.rules import RULES


class FTRLClassifier(OnlineClassifier):
    """Logistic regression learned online; with more than two classes, softmax regression.

    Parameters
    ----------
    alpha : float, > 0
        Scale of the per-coordinate learning rate.
    beta : float, >= 0
        Damps the first steps of a coordinate.
    l1, l2 : float, >= 0
        Regularisation; `l1` keeps weights at exactly zero until the evidence for them exceeds it.
    optimizer : {"ftrl", "adagrad", "adam", "sgd"}
        The update rule.

    Attributes
    ----------
    classes_ : ndarray, shape (n_classes,)
    state_ : LinearState
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

    def __init__(
        self, alpha: float = 0.5, beta: float = 1.0, l1: float = 0.1, l2: float = 0.1, *, optimizer: str = "ftrl"
    ) -> None:
        self.alpha = alpha
        self.beta = beta
        self.l1 = l1
        self.l2 = l2
        self.optimizer = optimizer

    def start(self, n_slots: int, n_classes: int = 2) -> LinearState:
        """Return a new state under these hyper-parameters, for rows of `n_slots` features."""
        binary = n_classes == 2  # noqa: PLR2004 - two classes share one margin
        outputs, link = (1, "logistic") if binary else (n_classes, "softmax")
        return LinearState(n_slots, outputs, _rule(self.optimizer), self.rates(), link)

    @classmethod
    def from_linear(
        cls,
        coef: ArrayLike,
        intercept: ArrayLike,
        *,
        classes: ArrayLike = (0, 1),
        n: ArrayLike = 0.0,
        n_trained: int = 0,
        **parameters: Any,
    ) -> Self:
        """Continue a linear classifier that was trained elsewhere, for example in batch by scikit-learn.

        Its predictions are unchanged (differences below 1e-9) until the first new row is learned.

        Parameters
        ----------
        coef : array-like, shape (1, n_features) or (n_classes, n_features)
            scikit-learn's `coef_`.
        intercept : array-like, shape (1,) or (n_classes,)
            scikit-learn's `intercept_`.
        classes : array-like, shape (n_classes,)
            scikit-learn's `classes_`.
        n : float or array-like, shape (n_features + 1,) or (n_outputs, n_features + 1), optional
            Squared gradients each coordinate has already seen, intercept last; the larger, the smaller its next step.
        parameters
            Hyper-parameters of this class.

        Raises
        ------
        InputError
            The shapes disagree, a weight is not finite, or the hyper-parameters cannot hold a weight.
        """
        model = cls(**parameters)
        known = np.unique(np.asarray(classes))
        state = model.start(np.atleast_2d(coef).shape[1], known.size)
        state.seed(_stacked(coef, intercept), np.asarray(n, np.float64))
        model.classes_, model.state_, model.n_trained_ = known, state, n_trained
        model.n_features_in_ = state.n_slots
        return model


class FTRLRegressor(OnlineRegressor):
    """Linear regression learned online under half the squared error.

    Parameters
    ----------
    alpha, beta, l1, l2, optimizer
        As for `FTRLClassifier`.

    Attributes
    ----------
    state_ : LinearState
    n_trained_ : int
        Rows learned.
    """

    def __init__(
        self, alpha: float = 0.5, beta: float = 1.0, l1: float = 0.0, l2: float = 0.0, *, optimizer: str = "ftrl"
    ) -> None:
        self.alpha = alpha
        self.beta = beta
        self.l1 = l1
        self.l2 = l2
        self.optimizer = optimizer

    def start(self, n_slots: int, n_classes: int = 2) -> LinearState:  # noqa: ARG002 - a number has no classes
        """Return a new state under these hyper-parameters, for rows of `n_slots` features."""
        return LinearState(n_slots, 1, _rule(self.optimizer), self.rates(), "identity")

    @classmethod
    def from_linear(
        cls, coef: ArrayLike, intercept: ArrayLike, *, n: ArrayLike = 0.0, n_trained: int = 0, **parameters: Any
    ) -> Self:
        """Continue a linear regression that was trained elsewhere; see `FTRLClassifier.from_linear`."""
        model = cls(**parameters)
        state = model.start(np.atleast_2d(coef).shape[1])
        state.seed(_stacked(coef, intercept), np.asarray(n, np.float64))
        model.state_, model.n_trained_ = state, n_trained
        model.n_features_in_ = state.n_slots
        return model


def _rule(optimizer: str) -> str:
    if optimizer not in RULES:
        raise InputError(f"expected an optimizer among {', '.join(RULES)}, found {optimizer!r}")
    return optimizer


def _stacked(coef: ArrayLike, intercept: ArrayLike) -> NDArray[np.float64]:
    """Return weights of shape (n_features + 1, n_outputs), intercept last."""
    weights, last = np.atleast_2d(np.asarray(coef, np.float64)), np.atleast_1d(np.asarray(intercept, np.float64))
    if last.shape != (weights.shape[0],):
        raise InputError(f"expected an intercept for each of {weights.shape[0]} outputs, found shape {last.shape}")
    return np.column_stack([weights, last]).T

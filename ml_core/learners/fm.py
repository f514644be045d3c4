r"""Second-order factorization machine for two classes, learned one row at a time.

Rendle (2010), "Factorization Machines", ICDM. With a factor vector :math:`v_i \in \mathbb R^k` per coordinate,

.. math::

    m = b + \sum_i w_i x_i + \sum_{i<j} \langle v_i, v_j \rangle x_i x_j
      = b + \sum_i w_i x_i + \frac12 \sum_f \Big[\Big(\sum_i v_{if} x_i\Big)^2 - \sum_i v_{if}^2 x_i^2\Big], \quad
    p = \sigma(m)

The linear part and the intercept follow FTRL-proximal (`ml_core.learners.rules`), the factors AdaGrad, with
:math:`g_{if} = (p - y)\, x_i \big(\sum_j v_{jf} x_j - v_{if} x_i\big) + \lambda v_{if}` and
:math:`v_{if} \leftarrow v_{if} - \eta\, g_{if} / \sqrt{1 + \sum g_{if}^2}`.

Factors cannot start at zero, where their gradient vanishes. A coordinate's factors *count* as zero until the first
row that shows it has been scored; then they take seeded noise, a function of (seed, coordinate) alone. So nothing
depends on the order in which coordinates were first seen, an unseen one adds no noise to a score, and the state holds
only what was touched.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml_core.errors import InputError
from ml_core.learners.estimators import OnlineClassifier
from ml_core.learners.kernels import learn_machine, score_machine
from ml_core.learners.linear import Csr, LinearState
from ml_core.learners.rules import Rates


@dataclass(slots=True)
class FMState:
    """The whole state of a factorization machine.

    Parameters
    ----------
    n_slots : int
        Coordinates, not counting the intercept.
    rates : tuple of float
        (alpha, beta, l1, l2) of the linear part.
    n_factors : int
    factor_rates : tuple of float
        (learning rate, l2, size of the first noise) of the factors.
    seed : int

    Attributes
    ----------
    linear : LinearState
    factors : ndarray of float64, shape (n_slots, n_factors, 2)
        Each factor and its sum of squared gradients; all zero where the coordinate has not begun.
    """

    n_slots: int
    rates: Rates
    n_factors: int
    factor_rates: tuple[float, float, float]
    seed: int
    linear: LinearState = field(init=False)
    factors: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        self.linear = LinearState(self.n_slots, 1, "ftrl", self.rates, "logistic")
        self.factors = np.zeros((self.n_slots, self.n_factors, 2))

    def learn(
        self, rows: Csr, targets: NDArray[np.float64], row_weights: NDArray[np.float64] | None = None
    ) -> NDArray[np.float64]:
        """Score each row, then learn it, in order; see `LinearState.learn`."""
        weights = np.ones(targets.size) if row_weights is None else row_weights
        scores = np.empty(targets.size)
        learn_machine(
            *rows, targets, weights, self.linear.memory, self.factors, self.rates, self.factor_rates, self.seed, scores
        )
        return scores

    def score(self, rows: Csr) -> NDArray[np.float64]:
        """Return the probability of the second class, shape (n_rows,); changes nothing."""
        scores: NDArray[np.float64] = score_machine(*rows, self.linear.memory, self.factors, True)
        return scores

    def margins(self, rows: Csr) -> NDArray[np.float64]:
        """Return the log-odds, shape (n_rows, 1)."""
        margins: NDArray[np.float64] = score_machine(*rows, self.linear.memory, self.factors, False)
        return margins[:, None]

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the state as arrays; coordinates never touched are left out."""
        begun = np.flatnonzero(self.factors.any(axis=(1, 2)))
        return self.linear.arrays() | {"factor_slots": begun, "factors": self.factors[begun]}

    def restore(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Take back what `arrays` gave."""
        self.linear.restore(arrays)
        self.factors[:] = 0.0
        self.factors[arrays["factor_slots"]] = arrays["factors"]


class FMClassifier(OnlineClassifier):
    """Second-order factorization machine for two classes, learned online.

    Parameters
    ----------
    alpha, beta, l1, l2 : float
        FTRL-proximal over the linear part, as for `FTRLClassifier`.
    n_factors : int, >= 1
        Length of each coordinate's factor vector.
    factor_alpha : float, > 0
        Learning rate of the factors.
    factor_l2 : float, >= 0
        Penalty on the factors.
    factor_init : float, > 0
        Factors begin uniformly in ±`factor_init`.
    seed : int, >= 0
        Of the factors' beginnings.

    Attributes
    ----------
    classes_ : ndarray, shape (2,)
    state_ : FMState
    n_trained_ : int
        Rows learned.
    """

    def __init__(  # noqa: PLR0913 - a factorization machine has these
        self,
        alpha: float = 0.5,
        beta: float = 1.0,
        l1: float = 0.1,
        l2: float = 0.1,
        *,
        n_factors: int = 8,
        factor_alpha: float = 0.05,
        factor_l2: float = 1e-4,
        factor_init: float = 0.05,
        seed: int = 0,
    ) -> None:
        self.alpha = alpha
        self.beta = beta
        self.l1 = l1
        self.l2 = l2
        self.n_factors = n_factors
        self.factor_alpha = factor_alpha
        self.factor_l2 = factor_l2
        self.factor_init = factor_init
        self.seed = seed

    def start(self, n_slots: int, n_classes: int = 2) -> FMState:
        """Return a new state under these hyper-parameters, for rows of `n_slots` features."""
        if n_classes != 2:  # noqa: PLR2004 - binary
            raise InputError(f"Only binary classification is supported. Expected two classes, found {n_classes}")
        if self.n_factors < 1 or self.seed < 0:
            raise InputError(f"expected n_factors >= 1 and seed >= 0, found {self.n_factors} and {self.seed}")
        rates = (float(self.factor_alpha), float(self.factor_l2), float(self.factor_init))
        if not np.isfinite(rates).all() or rates[0] <= 0 or rates[1] < 0 or rates[2] <= 0:
            raise InputError(f"expected factor_alpha, factor_init > 0 and factor_l2 >= 0, found {rates}")
        return FMState(n_slots, self.rates(), int(self.n_factors), rates, int(self.seed))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        return tags

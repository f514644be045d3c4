"""The factorization machine against the double sum it abbreviates, and against its own loss."""

import math
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from ml_core.errors import InputError
from ml_core.learners import FMClassifier, FTRLClassifier

_ROWS = 300


def _rows(seed=0):
    """Return rows whose label is decided by a product of two features, which no linear model can learn."""
    draw = np.random.default_rng(seed)
    X = sparse.random_array((_ROWS, 12), density=0.4, rng=draw, format="csr", data_sampler=draw.standard_normal)
    return X, (X.toarray()[:, 0] * X.toarray()[:, 1] + 0.1 * draw.normal(size=_ROWS) > 0).astype(int)


def test_the_fast_form_equals_the_double_sum():
    """The abbreviation is exact algebra; a slip in it would still look like a model."""
    X, y = _rows()
    model = FMClassifier(factor_init=0.5).fit(X, y)
    weights, factors = model.state_.linear.weights()[:, 0], model.state_.factors[:, :, 0]
    for x, margin in zip(X.toarray(), model.decision_function(X), strict=True):
        pairs = sum(factors[i] @ factors[j] * x[i] * x[j] for i, j in combinations(range(x.size), 2))
        assert margin == pytest.approx(weights[-1] + weights[:-1] @ x + pairs, abs=1e-12)


def test_the_gradient_of_the_factors_equals_finite_differences():
    """Read back from one AdaGrad step, whose size is known."""
    X, y = _rows()
    state = FMClassifier(factor_init=0.5, factor_l2=0.0).fit(X[:-1], y[:-1]).state_
    row = X[[_ROWS - 1]]
    rows, target = (row.indptr, row.indices, row.data), float(y[-1])
    before = state.factors.copy()

    def loss(nudge):
        state.factors[:, :, 0] = before[:, :, 0] + nudge
        p = state.score(rows)[0]
        return -math.log(p if target else 1 - p)

    slopes = np.zeros(before.shape[:2])
    for place in np.ndindex(slopes.shape):
        nudge = np.zeros(slopes.shape)
        nudge[place] = 1e-6
        slopes[place] = (loss(nudge) - loss(-nudge)) / 2e-6
    state.factors[:] = before
    state.learn(rows, np.array([target]))
    step = before[:, :, 0] - state.factors[:, :, 0]
    np.testing.assert_allclose(step * np.sqrt(1 + state.factors[:, :, 1]) / 0.05, slopes, atol=1e-6)


@settings(max_examples=15, deadline=None)
@given(cuts=st.lists(st.integers(0, _ROWS), max_size=6))
def test_any_split_of_the_rows_gives_the_same_bits(cuts):
    """Also where factors begin at random: the noise belongs to the coordinate, not to the moment."""
    X, y = _rows()
    whole, parts = FMClassifier().fit(X, y), FMClassifier()
    for start, stop in pairwise([0, *sorted(cuts), _ROWS]):
        if start < stop:
            parts.partial_fit(X[start:stop], y[start:stop], classes=[0, 1])
    assert parts.state_.factors.tobytes() == whole.state_.factors.tobytes()
    assert parts.state_.linear.memory.tobytes() == whole.state_.linear.memory.tobytes()


def test_it_learns_a_product_that_a_linear_model_cannot():
    """The reason to have it."""
    X, y = _rows()
    machine, linear = FMClassifier(factor_alpha=0.5, factor_init=0.3), FTRLClassifier()
    for _ in range(20):
        machine.partial_fit(X, y)
        linear.partial_fit(X, y)
    assert machine.score(X, y) > linear.score(X, y) + 0.15


def test_a_coordinate_never_seen_adds_nothing_to_a_score():
    """A new category must not come with a random opinion."""
    X, y = _rows()
    X = X.toarray()
    X[:, 11] = 0
    model = FMClassifier(factor_init=0.5).fit(X, y)
    seen = model.decision_function(X[:1])
    X[0, 11] = 3.0
    assert model.decision_function(X[:1]) == seen


def test_another_seed_begins_elsewhere():
    """A seed that is ignored would make an ensemble of copies."""
    X, y = _rows()
    assert not np.array_equal(
        FMClassifier(seed=1).fit(X, y).state_.factors, FMClassifier(seed=2).fit(X, y).state_.factors
    )


@pytest.mark.parametrize("parameters", [{"n_factors": 0}, {"factor_alpha": 0.0}, {"factor_l2": -1.0}, {"seed": -1}])
def test_a_hyper_parameter_out_of_range_is_refused_by_name(parameters):
    """As for the linear learners."""
    with pytest.raises(InputError, match=next(iter(parameters))):
        FMClassifier(**parameters).fit([[0.0], [1.0]], [0, 1])

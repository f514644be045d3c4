"""FTRL and its sister rules against references written from the papers, and against themselves in other batchings."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river import optim
from scipy import sparse
from sklearn.linear_model import LinearRegression, LogisticRegression, SGDClassifier

from ml_core.errors import InputError
from ml_core.learners import FTRLClassifier, FTRLRegressor
from ml_core.learners.kernels import learn_linear
from ml_core.learners.rules import LINKS, RULES

_ROWS = 300


def _sparse_rows(seed=0, rows=_ROWS, width=40, classes=2):
    """Return CSR rows, and labels that depend on them."""
    draw = np.random.default_rng(seed)
    X = sparse.random_array((rows, width), density=0.2, rng=draw, format="csr", data_sampler=draw.standard_normal)
    truth = draw.normal(size=(width, classes)) * 2
    return X, (X @ truth + draw.gumbel(size=(rows, classes))).argmax(axis=1)


class _Paper:
    """Algorithm 1 of McMahan et al. (2013), a dict per quantity, written from the paper."""

    def __init__(self, alpha, beta, l1, l2):
        self.alpha, self.beta, self.l1, self.l2 = alpha, beta, l1, l2
        self.z, self.n = {}, {}

    def weight(self, i):
        z, n = self.z.get(i, 0.0), self.n.get(i, 0.0)
        if abs(z) <= self.l1:
            return 0.0
        return -(z - math.copysign(self.l1, z)) / ((self.beta + math.sqrt(n)) / self.alpha + self.l2)

    def learn(self, x, y):
        w = {i: self.weight(i) for i in x}
        p = 1 / (1 + math.exp(-sum(w[i] * value for i, value in x.items())))
        for i, value in x.items():
            g = (p - y) * value
            n = self.n.get(i, 0.0)
            sigma = (math.sqrt(n + g * g) - math.sqrt(n)) / self.alpha
            self.z[i] = self.z.get(i, 0.0) + g - sigma * w[i]
            self.n[i] = n + g * g
        return p


def _dicts(X):
    """Return each row as index → value, the intercept under its own name."""
    for start, stop in pairwise(X.indptr):
        yield dict(zip(X.indices[start:stop].tolist(), X.data[start:stop].tolist(), strict=True)) | {X.shape[1]: 1.0}


@pytest.mark.parametrize("rates", [(0.1, 1.0, 0.0, 0.0), (0.5, 1.0, 0.1, 0.1), (2.0, 0.0, 0.5, 0.0)])
def test_every_step_equals_the_algorithm_of_the_paper(rates):
    """A learner that only resembles FTRL converges too, to something else."""
    X, y = _sparse_rows()
    paper, state = _Paper(*rates), FTRLClassifier(*rates).start(X.shape[1])
    scores = state.learn((X.indptr, X.indices, X.data), y.astype(float))
    expected = [paper.learn(x, label) for x, label in zip(_dicts(X), y, strict=True)]
    np.testing.assert_allclose(scores, expected, rtol=1e-12)
    np.testing.assert_allclose(state.weights()[:, 0], [paper.weight(i) for i in range(X.shape[1] + 1)], rtol=1e-9)


def test_river_takes_the_same_steps_once_its_weights_are_refreshed():
    """People who come from river find their optimiser again; theirs scores a row with weights one step behind."""
    X, y = _sparse_rows()
    theirs, weights = optim.FTRLProximal(alpha=0.3, beta=1.0, l1=0.0, l2=0.1), {}
    ours = FTRLClassifier(0.3, 1.0, 0.0, 0.1).fit(X, y)
    for x, label in zip(_dicts(X), y, strict=True):
        theirs.step(weights, dict.fromkeys(x, 0.0))
        margin = sum(weights.get(i, 0.0) * value for i, value in x.items())
        slope = 1 / (1 + math.exp(-margin)) - label
        theirs.step(weights, {i: slope * value for i, value in x.items()})
    theirs.step(weights, dict.fromkeys(range(X.shape[1] + 1), 0.0))
    expected = [weights.get(i, 0.0) for i in range(X.shape[1] + 1)]
    np.testing.assert_allclose(ours.state_.weights()[:, 0], expected, rtol=1e-9, atol=1e-12)


def test_without_penalties_it_is_per_coordinate_gradient_descent():
    """McMahan et al. derive FTRL from online gradient descent; without l1 and l2 the two must coincide."""
    X, y = _sparse_rows()
    alpha, beta = 0.4, 1.0
    scores = (
        FTRLClassifier(alpha, beta, 0.0, 0.0).start(X.shape[1]).learn((X.indptr, X.indices, X.data), y.astype(float))
    )
    w, n = np.zeros(X.shape[1] + 1), np.zeros(X.shape[1] + 1)
    for row, (x, label) in enumerate(zip(_dicts(X), y, strict=True)):
        index, value = np.array(list(x)), np.array(list(x.values()))
        p = 1 / (1 + math.exp(-(w[index] @ value)))
        assert scores[row] == pytest.approx(p, abs=1e-9)
        g = (p - label) * value
        n[index] += g * g
        w[index] -= alpha * g / (beta + np.sqrt(n[index]))


def test_sgd_without_penalties_equals_scikit_learns():
    """The plain rule has a plain reference."""
    X, y = _sparse_rows()
    ours = FTRLClassifier(0.05, 0.0, 0.0, 0.0, optimizer="sgd").fit(X, y)
    theirs = SGDClassifier(
        loss="log_loss", penalty=None, learning_rate="constant", eta0=0.05, shuffle=False, max_iter=1, tol=None
    )
    # scikit-learn scales the intercept's rate down for sparse rows
    theirs.fit(X.toarray(), y)
    np.testing.assert_allclose(ours.state_.weights()[:-1, 0], theirs.coef_[0], rtol=1e-5, atol=1e-8)


def test_adam_and_adagrad_equal_their_papers_on_dense_rows():
    """On rows that touch every coordinate, lazy Adam is Adam."""
    draw = np.random.default_rng(3)
    X, y = draw.normal(size=(60, 3)), draw.integers(0, 2, 60).astype(float)
    rows = np.column_stack([X, np.ones(60)])
    w, m, v = np.zeros(4), np.zeros(4), np.zeros(4)
    u, n = np.zeros(4), np.zeros(4)
    for t, (x, label) in enumerate(zip(rows, y, strict=True), start=1):
        g = (1 / (1 + math.exp(-(x @ w))) - label) * x
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        w = w - 0.01 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        g = (1 / (1 + math.exp(-(x @ u))) - label) * x
        n += g * g
        u = u - 0.3 * g / (1.0 + np.sqrt(n))
    adam = FTRLClassifier(0.01, l1=0.0, l2=0.0, optimizer="adam").fit(X, y)
    adagrad = FTRLClassifier(0.3, 1.0, l1=0.0, l2=0.0, optimizer="adagrad").fit(X, y)
    np.testing.assert_allclose(adam.state_.weights()[:, 0], w, rtol=1e-9)
    np.testing.assert_allclose(adagrad.state_.weights()[:, 0], u, rtol=1e-9)


@pytest.mark.parametrize("link", ["logistic", "softmax", "identity"])
def test_the_gradient_equals_finite_differences_of_the_loss(link):
    """A wrong gradient still learns, only worse; this is how one finds out."""
    outputs = 3 if link == "softmax" else 1
    draw = np.random.default_rng(5)
    x, target = draw.normal(size=4), {"logistic": 1.0, "softmax": 2.0, "identity": -0.7}[link]
    model = (
        FTRLRegressor(1.0, optimizer="sgd")
        if link == "identity"
        else FTRLClassifier(1.0, l1=0.0, l2=0.0, optimizer="sgd")
    )
    weights = draw.normal(size=(5, outputs))
    rows = (np.array([0, 4]), np.arange(4, dtype=np.int32), x)

    def loss(w):
        state = model.start(4, 3 if link == "softmax" else 2)
        state.seed(w, np.zeros(()))
        score = state.score(rows)[0]
        if link == "identity":
            return (score - target) ** 2 / 2
        return -math.log(score[int(target)] if link == "softmax" else score)

    state = model.start(4, 3 if link == "softmax" else 2)
    state.seed(weights, np.zeros(()))
    state.learn(rows, np.array([target]))
    gradient = weights - state.weights()
    for place in np.ndindex(weights.shape):
        nudge = np.zeros_like(weights)
        nudge[place] = 1e-6
        slope = (loss(weights + nudge) - loss(weights - nudge)) / 2e-6
        assert gradient[place] == pytest.approx(slope, rel=1e-5, abs=1e-8)


def test_two_classes_under_softmax_say_what_logistic_regression_says_about_a_first_row():
    """Softmax generalises the logistic link; its score before any row is uniform."""
    X, y = _sparse_rows(classes=3)
    state = FTRLClassifier().start(X.shape[1], 3)
    scores = state.learn((X.indptr, X.indices, X.data), y.astype(float))
    np.testing.assert_allclose(scores[0], 1 / 3)
    np.testing.assert_allclose(scores.sum(axis=1), 1.0, rtol=1e-12)


@pytest.mark.parametrize("optimizer", RULES)
@pytest.mark.parametrize("classes", [2, 3])
@settings(max_examples=15, deadline=None)
@given(cuts=st.lists(st.integers(0, _ROWS), max_size=6))
def test_any_split_of_the_rows_gives_the_same_bits(optimizer, classes, cuts):
    """Batch boundaries are an accident of transport; a model that depends on them cannot be reproduced."""
    X, y = _sparse_rows(classes=classes)
    whole = FTRLClassifier(optimizer=optimizer).fit(X, y)
    parts = FTRLClassifier(optimizer=optimizer)
    for start, stop in pairwise([0, *sorted(cuts), _ROWS]):
        if start < stop:
            parts.partial_fit(X[start:stop], y[start:stop], classes=np.arange(classes))
    assert parts.state_.memory.tobytes() == whole.state_.memory.tobytes()


@pytest.mark.parametrize("optimizer", RULES)
def test_scores_while_learning_are_those_predicted_just_before(optimizer):
    """Prequential figures are only honest if they are what a server would have answered."""
    X, y = _sparse_rows()
    model = FTRLClassifier(optimizer=optimizer).fit(X[:100], y[:100])
    before = model.predict_proba(X[100:101])[0, 1]
    scores = model.state_.learn((X[100:].indptr, X[100:].indices, X[100:].data), y[100:].astype(float))
    assert scores[0] == before


def test_dense_and_sparse_rows_give_the_same_bits():
    """How a caller stores zeros is not information."""
    X, y = _sparse_rows()
    dense, sparse_rows = FTRLClassifier().fit(X.toarray(), y), FTRLClassifier().fit(X, y)
    assert dense.state_.memory.tobytes() == sparse_rows.state_.memory.tobytes()


def test_a_row_of_weight_zero_is_not_learned_and_weights_scale_gradients():
    """Sample weights are how a flow corrects for sampling."""
    X, y = _sparse_rows()
    kept = np.arange(_ROWS) % 3 > 0
    weighted = FTRLClassifier().fit(X, y, sample_weight=kept.astype(float))
    assert weighted.state_.memory.tobytes() == FTRLClassifier().fit(X[kept], y[kept]).state_.memory.tobytes()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda X, y: (X + np.nan, y), "NaN"),
        (lambda X, y: (X + np.inf, y), "infinity"),
        (lambda X, y: (X[:, :-1], y), "features"),
        (lambda X, y: (X, y + 1), "expected labels among"),
        (lambda X, y: (X, y[:-1]), "inconsistent"),
        (lambda X, y: (X[:0], y[:0]), "0 sample"),
    ],
)
def test_a_refused_batch_leaves_the_model_untouched(spoil, said):
    """One bad batch in a stream must cost that batch, not the model."""
    X, y = _sparse_rows()
    X = X.toarray()
    model = FTRLClassifier().fit(X, y)
    before, attributes = model.state_.memory.tobytes(), dict(vars(model))
    bad = spoil(X, y)
    with pytest.raises(InputError, match=said):
        model.partial_fit(*bad)
    with pytest.raises(ValueError, match=said):
        model.partial_fit(*bad, classes=[0, 1])
    assert model.state_.memory.tobytes() == before
    assert vars(model) == attributes


@pytest.mark.parametrize("parameters", [{"alpha": 0}, {"beta": -1}, {"l1": np.nan}, {"optimizer": "ftlr"}])
def test_a_hyper_parameter_out_of_range_is_refused_by_name(parameters):
    """A negative learning rate would unlearn, silently."""
    with pytest.raises(InputError, match=next(iter(parameters))):
        FTRLClassifier(**parameters).fit([[0.0], [1.0]], [0, 1])


def test_a_regression_that_diverges_is_undone_and_says_so():
    """Plain gradient descent with too large a rate runs to infinity; the model it started from is worth keeping."""
    draw = np.random.default_rng(0)
    X = draw.normal(size=(500, 3)) * 100
    model = FTRLRegressor(1.0, optimizer="sgd").fit(X[:1] * 0, [0.0])
    before = model.state_.memory.tobytes()
    with pytest.raises(InputError, match="diverged"):
        model.partial_fit(X, X.sum(axis=1))
    assert model.state_.memory.tobytes() == before


def test_regression_finds_the_least_squares_solution():
    """The third link learns what its batch counterpart solves for."""
    draw = np.random.default_rng(0)
    X = draw.normal(size=(20_000, 4))
    y = X @ [1.0, -2.0, 0.5, 0.0] + 3 + draw.normal(size=20_000) * 0.1
    solved = LinearRegression().fit(X, y)
    np.testing.assert_allclose(FTRLRegressor().fit(X, y).state_.weights()[:-1, 0], solved.coef_, atol=0.02)


@pytest.mark.parametrize("optimizer", RULES)
@pytest.mark.parametrize("classes", [2, 3])
def test_a_batch_model_is_continued_without_moving_a_prediction(optimizer, classes):
    """Starting from z = n = 0 forgets the batch model at the first row: a weight of 2.0 becomes 0.16."""
    X, y = _sparse_rows(classes=classes)
    batch = LogisticRegression().fit(X, y)
    online = FTRLClassifier.from_linear(
        batch.coef_, batch.intercept_, classes=batch.classes_, n=3.0, optimizer=optimizer
    )
    np.testing.assert_allclose(online.predict_proba(X), batch.predict_proba(X), rtol=0, atol=1e-9)
    assert not np.array_equal(online.partial_fit(X[:1], y[:1]).predict_proba(X), batch.predict_proba(X))


def test_the_experiment_in_which_peers_lose_a_weight_of_two():
    """One row after the hand-over: from z = n = 0 beside the old weight it is gone, reconstructed it takes a step."""
    rates = {"alpha": 0.1, "beta": 1.0, "l1": 0.1, "l2": 0.1}
    ours = FTRLClassifier.from_linear([[2.0]], [0.0], n=10.0, **rates).partial_fit([[1.0]], [1])
    assert ours.state_.weights()[0, 0] == pytest.approx(2.0, abs=0.05)
    peers = FTRLClassifier(**rates).start(1)
    slope = 1 / (1 + math.exp(-2.0)) - 1
    z, n = slope - abs(slope) / rates["alpha"] * 2.0, slope**2
    peers.restore({"slots": np.array([0]), "memory": np.array([[[z, n]]])})
    assert peers.weights()[0, 0] < 0.25


def test_a_regression_is_continued_without_moving_a_prediction():
    """Squared error hands over like the others."""
    draw = np.random.default_rng(0)
    X = draw.normal(size=(50, 4))
    batch = LinearRegression().fit(X, X.sum(axis=1) + 2)
    online = FTRLRegressor.from_linear(batch.coef_, batch.intercept_, l1=0.3, l2=0.2)
    np.testing.assert_allclose(online.predict(X), batch.predict(X), rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"coef": [[np.nan]], "intercept": [0.0]}, "finite"),
        ({"coef": [[1.0]], "intercept": [0.0, 1.0]}, "intercept for each"),
        ({"coef": [[1.0]], "intercept": [0.0], "n": -1.0}, "n >= 0"),
        ({"coef": [[1.0]], "intercept": [0.0], "beta": 0.0, "l2": 0.0}, "beta, l2 or n"),
    ],
)
def test_a_hand_over_that_cannot_be_held_is_refused(parts, said):
    """Better no hand-over than one that starts from other weights than promised."""
    with pytest.raises(InputError, match=said):
        FTRLClassifier.from_linear(**parts)


@pytest.mark.parametrize("classes", [2, 3])
def test_two_entries_at_one_slot_both_start_from_before_the_row_and_add_up(classes):
    """Hashed fields collide now and then; the row must still be learned, and the order of its entries not matter."""
    X, y = _sparse_rows(classes=classes)
    state = FTRLClassifier(0.5, 1.0, 0.05, 0.1).fit(X, y).state_
    x, place = np.array([1.0, -0.5, 2.0]), np.array([7, 3, 7], np.int32)
    before = state.arrays()["memory"][[3, 7]]
    rows, target = (np.array([0, 3]), place, x), 1
    slope = np.atleast_1d(state.score(rows)[0] - (1.0 if classes == 2 else np.eye(3)[target]))
    w = state.weights()[7]
    state.learn(rows, np.array([float(target)]))
    z, n = before[1].T
    g = slope[None, :] * x[[0, 2], None]
    step = (np.sqrt(n + g**2) - np.sqrt(n)) / 0.5
    np.testing.assert_allclose(
        state.arrays()["memory"][7].T, [z + (g - step * w).sum(axis=0), n + (g**2).sum(axis=0)], rtol=1e-12
    )


def test_two_entries_at_one_slot_add_up_where_a_square_is_lost_in_the_sum():
    """Beside a million of squares the square of a small gradient is rounded away; the gradient itself is not."""
    places, target = np.array([3, 3], np.int32), np.array([1.0])
    found = []
    for x in ([1e-6, 2.0], [2.0, 1e-6]):
        state = FTRLClassifier(0.5, 1.0, 0.0, 0.1).start(8)
        state.memory[3, 0] = 0.0, 5.0, 1e6, 1e3
        slope = state.score((np.array([0, 2]), places, np.array(x)))[0] - target[0]
        state.learn((np.array([0, 2]), places, np.array(x)), target)
        found.append(state.memory[3, 0].copy())
        assert found[-1][1] - 5.0 == pytest.approx(slope * (2.0 + 1e-6), rel=1e-9)
    np.testing.assert_allclose(*found, rtol=1e-12)


def test_the_kernel_for_one_output_gives_the_bits_of_the_general_one():
    """It exists for speed alone."""
    X, y = _sparse_rows()
    rows = (X.indptr.astype(np.int64), X.indices % 7, X.data)  # many collisions
    states = [FTRLClassifier().start(X.shape[1]) for _ in range(2)]
    fast = states[0].learn(rows, y.astype(float))
    general = np.empty((_ROWS, 1))
    rates, memory = states[1].rates, states[1].memory
    learn_linear(*rows, y.astype(float), np.ones(_ROWS), memory, RULES["ftrl"], rates, LINKS["logistic"], general)
    assert general[:, 0].tobytes() == fast.tobytes()
    assert memory.tobytes() == states[0].memory.tobytes()

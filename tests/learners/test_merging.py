"""Linear states that learned side by side, made one: what a few shards make of a coordinate."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from ml_core.learners import FTRLClassifier, FTRLRegressor
from ml_core.learners.merging import MERGED_RULES

_WIDTH = 30


def _rows(seed, rows, columns=range(_WIDTH)):
    """Return CSR rows that show only some columns, and labels that depend on them."""
    draw = np.random.default_rng(seed)
    dense = np.zeros((rows, _WIDTH))
    dense[:, list(columns)] = draw.normal(size=(rows, len(list(columns))))
    matrix = sparse.csr_array(dense)
    truth = np.random.default_rng(99).normal(size=_WIDTH)
    targets = (dense @ truth + draw.logistic(size=rows) > 0).astype(np.float64)
    return (matrix.indptr.astype(np.int64), matrix.indices.astype(np.int32), matrix.data), targets


def _begun(estimator, seed=0):
    state = estimator.start(_WIDTH, 2)
    state.learn(*_rows(seed, 40))
    return state


def _copy(state, estimator):
    made = estimator.start(_WIDTH, 2)
    made.memory = state.memory.copy()
    return made


def _shards(state, estimator, parts):
    made = []
    for rows in parts:
        shard = _copy(state, estimator)
        shard.learn(*rows)
        made.append(shard)
    return made


_ESTIMATORS = [FTRLClassifier(alpha=0.3, l1=0.05, optimizer=rule) for rule in MERGED_RULES] + [
    FTRLRegressor(alpha=0.05)
]


@pytest.mark.parametrize("estimator", _ESTIMATORS, ids=repr)
def test_a_coordinate_that_one_shard_saw_is_as_that_shard_left_it(estimator):
    """Rare features would otherwise be diluted by every shard that never met them."""
    state = _begun(estimator)
    (left, right) = _shards(state, estimator, [_rows(1, 50, range(10)), _rows(2, 50, range(10, 20))])
    before = state.memory.copy()
    state.merge([left, right])
    np.testing.assert_array_equal(state.memory[:10], left.memory[:10])
    np.testing.assert_array_equal(state.memory[10:20], right.memory[10:20])
    np.testing.assert_array_equal(state.memory[20:30], before[20:30])


@pytest.mark.parametrize("estimator", _ESTIMATORS, ids=repr)
def test_one_shard_alone_stays_what_it_is(estimator):
    state = _begun(estimator)
    (only,) = _shards(state, estimator, [_rows(1, 80)])
    state.merge([only])
    np.testing.assert_array_equal(state.memory, only.memory)


@pytest.mark.parametrize("rule", MERGED_RULES)
@settings(max_examples=30, deadline=None)
@given(seeds=st.lists(st.integers(0, 1_000), min_size=2, max_size=5), rows=st.integers(1, 60))
def test_merged_weights_follow_the_product_of_posteriors(rule, seeds, rows):
    """The formula of the module's docstring, written a second time, a coordinate at a time."""
    estimator = FTRLClassifier(alpha=0.3, beta=1.0, l1=0.0, l2=0.2, optimizer=rule)
    state = _begun(estimator)
    before, squares = state.memory[:, 0].copy(), {"ftrl": 2, "adagrad": 1}[rule]
    shards = _shards(state, estimator, [_rows(seed, rows) for seed in seeds])
    state.merge(shards)
    growth = sum(shard.memory[:, 0, squares] - before[:, squares] for shard in shards)
    c = np.sqrt(growth.sum() / growth[-1])
    for slot in range(_WIDTH + 1):
        d = (1.0 + np.sqrt(before[slot, squares])) / 0.3 + 0.2
        grown = [shard.memory[slot, 0, squares] - before[slot, squares] for shard in shards]
        moved = sum(
            (d + c * own) * (s.memory[slot, 0, 0] - before[slot, 0]) for own, s in zip(grown, shards, strict=True)
        )
        assert state.memory[slot, 0, 0] == pytest.approx(before[slot, 0] + moved / (d + c * sum(grown)), abs=1e-12)
        assert state.memory[slot, 0, squares] == pytest.approx(before[slot, squares] + sum(grown), abs=1e-12)


def test_weights_that_l1_keeps_at_zero_everywhere_add_their_gradients():
    """A feature that is too rare in each shard is not too rare in all of them."""
    estimator = FTRLClassifier(alpha=0.3, l1=1.0, l2=0.0)
    state = estimator.start(1, 2)
    row = (np.arange(3, dtype=np.int64), np.zeros(2, np.int32), np.ones(2))
    shards = []
    for _ in range(2):
        shard = estimator.start(1, 2)
        shard.learn(row, np.ones(2))
        shards.append(shard)
    assert all(shard.weights()[0, 0] == 0 for shard in shards)
    alone = shards[0].memory[0, 0, 1]
    state.merge(shards)
    assert state.memory[0, 0, 1] == 2 * alone
    assert state.weights()[0, 0] > 0


def test_merging_is_deterministic_and_finite_where_nothing_damps():
    """Without beta and l2, a coordinate that never moved has no precision at all."""
    estimator = FTRLClassifier(alpha=0.3, beta=0.0, l1=0.0, l2=0.0)
    made = []
    for _ in range(2):
        state = estimator.start(_WIDTH, 2)
        state.merge(_shards(state, estimator, [_rows(1, 30, range(5)), _rows(2, 30, range(5))]))
        made.append(state.memory.copy())
    assert np.isfinite(made[0]).all()
    np.testing.assert_array_equal(*made)


def test_what_is_remembered_can_be_moved_to_other_slots():
    """A vocabulary that grew elsewhere, too, has other places for its values."""
    state = _begun(FTRLClassifier())
    before = state.memory.copy()
    state.move(np.array([1, 2, 3]), np.array([2, 1, -1]))
    np.testing.assert_array_equal(state.memory[[1, 2]], before[[2, 1]])
    assert not state.memory[3].any()
    np.testing.assert_array_equal(state.memory[4:], before[4:])

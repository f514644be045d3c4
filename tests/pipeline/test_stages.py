"""Each stage on its own: what it makes of a row, and what it remembers of the rows before."""

import numpy as np
import pyarrow as pa
import pytest
from sklearn.preprocessing import KBinsDiscretizer, StandardScaler

from ml_core.pipeline.columns import read_columns
from ml_core.pipeline.stages import STAGES, Stage, build_stage

SCHEMA = {"word": "string", "x": "float", "y": "float"}


def _run(stage, table, *, learn=False):
    columns = read_columns(table, {name: SCHEMA[name] for name in table.schema.names})
    slots = np.zeros((table.num_rows, stage.n_entries), np.int64)
    values = np.ones(slots.shape)
    stage.transform(columns, slots, values, learn=learn)
    return slots, values, columns


def _stage(**spec):
    return build_stage(spec, SCHEMA)


def _numbers(*values):
    return pa.table({"x": np.array(values, np.float32)})


@pytest.mark.parametrize("kind", STAGES)
def test_a_stage_that_waits_reads_what_no_stage_replaces(kind):
    """Others run ahead of it, and would have replaced its numbers before it reads them."""
    assert STAGES[kind].light is Stage.light or STAGES[kind].takes == "string"


def test_standardise_ends_with_scikit_learns_statistics():
    """The running form must arrive where the batch form does."""
    numbers = np.random.default_rng(0).normal(5, 3, 1000).astype(np.float32)
    stage = _stage(stage="standardise", columns=["x"])
    _run(stage, _numbers(*numbers), learn=True)
    expected = StandardScaler().fit(numbers[:, None].astype(np.float64)).transform([[7.0]])[0, 0]
    assert _run(stage, _numbers(7.0))[1][0, 0] == pytest.approx(expected, rel=1e-12)


def test_standardise_sees_only_the_rows_before():
    """A row's own value must not help to place it: at serving it cannot."""
    stage = _stage(stage="standardise", columns=["x"])
    slots, values, _ = _run(stage, _numbers(1.0, 3.0, 5.0, np.nan, 1e6), learn=True)
    assert values[:, 0].tolist() == pytest.approx([0.0, 0.0, 3.0, 1.0, 8.0])
    assert slots[:, 0].tolist() == [0, 0, 0, 1, 0]  # a missing number has only its indicator


def test_frozen_statistics_never_move_again():
    """The point of the policy: a drifting input keeps its scale."""
    stage = _stage(stage="standardise", columns=["x"], policy="frozen", rows=3)
    _run(stage, _numbers(1.0, 2.0), learn=True)
    _run(stage, _numbers(3.0, 1000.0, -1000.0), learn=True)
    assert _run(stage, _numbers(2.0, 3.0))[1][:, 0].tolist() == pytest.approx([0.0, 1.5**0.5])


def test_impute_fills_with_the_mean_of_the_rows_before_and_says_so():
    """Later stages see a number; the model still learns what its absence is worth."""
    stage = _stage(stage="impute", columns=["x"])
    _, values, columns = _run(stage, _numbers(2.0, np.nan, 4.0, np.nan), learn=True)
    assert columns["x"].tolist() == [2.0, 2.0, 4.0, 3.0]
    assert values[:, 0].tolist() == [0.0, 1.0, 0.0, 1.0]
    constant = _stage(stage="impute", columns=["x"], constant=-1.0, indicator=False)
    assert _run(constant, _numbers(np.nan, 4.0), learn=True)[2]["x"].tolist() == [-1.0, 4.0]


def test_clip_and_log1p_change_numbers_for_the_stages_after_them():
    """Missing stays missing, and the logarithm is odd, so that delays below zero survive it."""
    _, _, clipped = _run(_stage(stage="clip", columns=["x"], high={"x": 3}), _numbers(-5.0, 5.0, np.nan))
    np.testing.assert_array_equal(clipped["x"], [-5.0, 3.0, np.nan])
    _, _, logs = _run(_stage(stage="log1p", columns=["x"]), _numbers(-3.0, 0.0, 3.0, np.nan))
    np.testing.assert_allclose(logs["x"], [-np.log(4), 0.0, np.log(4), np.nan])


def test_bucketize_cuts_where_scikit_learn_cuts():
    """Boundaries belong to the bucket below; a missing number has its own."""
    stage = _stage(stage="bucketize", boundaries={"x": [0.0, 10.0], "y": [5]})
    table = pa.table({"x": np.array([-1, 0, 0.5, 11, np.nan], np.float32), "y": np.array([1, 9, np.nan, 5, 6], "f4")})
    assert _run(stage, table)[0].tolist() == [[0, 4], [0, 5], [1, 6], [2, 4], [3, 5]]
    theirs = KBinsDiscretizer(3, encode="ordinal", strategy="uniform").fit([[-10.0], [20.0]])
    inside = np.array([-7.0, 0.5, 3.0, 12.0, 19.0])
    assert _run(_stage(stage="bucketize", boundaries={"x": [0.0, 10.0]}), _numbers(*inside))[0][:, 0].tolist() == (
        theirs.transform(inside[:, None])[:, 0].tolist()
    )


def _words(*words):
    return pa.table({"word": pa.array(words, pa.string())})


def test_a_new_value_gets_a_place_after_its_admission_and_keeps_it():
    """A shifted index would hand one category's weight to another."""
    stage = _stage(stage="onehot", columns=["word"], min_count=2)
    slots, _, _ = _run(stage, _words("a", "b", "a", "a", "b", "b", "c"), learn=True)
    assert slots[:, 0].tolist() == [0, 0, 0, 1, 0, 2, 0]
    _run(stage, _words("c", "d", "d"), learn=True)
    assert _run(stage, _words("a", "b", "c", "d", "e", None))[0][:, 0].tolist() == [1, 2, 3, 4, 0, 0]


def test_a_full_vocabulary_counts_whom_it_turns_away():
    """The cap is a documented behaviour with a figure, not a silent one."""
    stage = _stage(stage="onehot", columns=["word"], cap=2)
    slots, _, _ = _run(stage, _words("a", "b", "c", "c", "a"), learn=True)
    assert slots[:, 0].tolist() == [0, 0, 0, 0, 1]
    assert stage.turned_away.tolist() == [2]


def test_the_waiting_room_is_bounded_too():
    """A stream of one-off values must not grow the state for ever."""
    stage = _stage(stage="onehot", columns=["word"], cap=3, min_count=2)
    _run(stage, _words(*"abcdefgh"), learn=True)
    assert sorted(stage.waiting[0]) == ["a", "b", "c"]
    assert stage.turned_away.tolist() == [5]
    _run(stage, _words("a"), learn=True)
    assert list(stage.vocabularies[0]) == ["a"]
    assert sorted(stage.waiting[0]) == ["b", "c"]


def test_scoring_admits_no_one():
    """Otherwise two replicas of a predictor would drift apart."""
    stage = _stage(stage="onehot", columns=["word"])
    _run(stage, _words("a", "b"))
    assert stage.vocabularies == [{}]
    assert stage.state()["waiting0_counts"].size == 0


@pytest.mark.parametrize("words", [[], ["a", "", "日本", "a\x00"]])
def test_a_vocabulary_survives_saving(words):
    """Including the strings that fixed-width arrays would cut short."""
    stage, copy = (_stage(stage="onehot", columns=["word"], min_count=2) for _ in range(2))
    _run(stage, _words(*words, *words[:2]), learn=True)
    copy.restore(stage.state())
    assert copy.vocabularies == stage.vocabularies
    assert copy.waiting == stage.waiting

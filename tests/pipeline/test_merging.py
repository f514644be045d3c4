"""Pipelines that learned side by side, made one: stages count what one pass counts, and what has no rule is named."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_core.errors import ProjectError
from ml_core.pipeline import PipelineModel
from ml_core.pipeline.merging import merge, obstacle, settled_after
from ml_core.pipeline.stages import build_stage
from ml_core.pipeline.stages.vocabularies import joined
from tests.pipeline.examples import SCHEMA, STAGES, labels, pipeline, rows

_CUTS = st.lists(st.integers(1, 119), min_size=1, max_size=4, unique=True).map(sorted)


def _pass(stage, table):
    """Let a stage learn rows, read as a pipeline reads them."""
    stage.block(_columns(stage, table), table.num_rows, learn=True)
    return stage


def _columns(stage, table):
    from ml_core.pipeline.columns import read_columns

    return dict(read_columns(table, {name: SCHEMA[name] for name in stage.inputs}))


def _apart(spec, table, cuts):
    """Return a stage merged of shards that all went on from the rows before the first cut, and one of a single pass."""
    before = _pass(build_stage(spec, SCHEMA), table.slice(0, cuts[0]))
    shards = []
    for start, stop in zip(cuts, [*cuts[1:], table.num_rows], strict=True):
        shard = build_stage(spec, SCHEMA)
        shard.restore(before.state())
        shards.append(_pass(shard, table.slice(start, stop - start)))
    moves = before.merge(shards)
    return before, _pass(build_stage(spec, SCHEMA), table), shards, moves


@settings(max_examples=60, deadline=None)
@given(cuts=_CUTS, seed=st.integers(0, 100), kind=st.sampled_from(["standardise", "impute"]))
def test_merged_moments_are_those_of_one_pass(cuts, seed, kind):
    """Missing values count for nothing, in however many shards."""
    merged, whole, _, _ = _apart({"stage": kind, "columns": ["delay", "seats"]}, rows(120, seed), cuts)
    np.testing.assert_allclose(merged.moments, whole.moments, rtol=1e-9, atol=1e-9)
    assert merged.seen == whole.seen == 120


def test_moments_far_from_zero_keep_their_spread():
    """Times in seconds since 1970 differ in their last digits only."""
    draw = np.random.default_rng(0)
    delay = (1.7e9 + draw.normal(0, 4_096, 120)).astype(np.float32)
    merged, whole, _, _ = _apart({"stage": "standardise", "columns": ["delay"]}, pa.table({"delay": delay}), [40, 80])
    np.testing.assert_allclose(merged.moments, whole.moments, rtol=1e-6)


@settings(max_examples=60, deadline=None)
@given(cuts=_CUTS, seed=st.integers(0, 100), cap=st.integers(2, 20))
def test_a_merged_vocabulary_is_that_of_one_pass_in_its_order(cuts, seed, cap):
    """Also where there is no room for all: the first to appear are admitted."""
    spec = {"stage": "onehot", "columns": ["tail", "carrier"], "cap": cap}
    merged, whole, shards, moves = _apart(spec, rows(120, seed), cuts)
    assert merged.vocabularies == whole.vocabularies
    for shard, (slots, to) in zip(shards, moves, strict=True):
        went = dict(zip(slots.tolist(), to.tolist(), strict=True))
        for position, own in enumerate(shard.vocabularies):
            first = position * (cap + 1)
            for word, place in own.items():
                new = merged.vocabularies[position].get(word)
                assert went.get(first + place, first + place) == (-1 if new is None else first + new)


@settings(max_examples=60, deadline=None)
@given(cuts=_CUTS, seed=st.integers(0, 100), min_count=st.integers(2, 12))
def test_values_are_admitted_when_all_shards_together_have_shown_them_often_enough(cuts, seed, min_count):
    spec = {"stage": "onehot", "columns": ["tail"], "min_count": min_count}
    merged, whole, _, _ = _apart(spec, rows(120, seed), cuts)
    assert set(merged.vocabularies[0]) == set(whole.vocabularies[0])
    assert merged.waiting == whole.waiting
    assert sorted(merged.vocabularies[0].values()) == list(range(1, len(whole.vocabularies[0]) + 1))


def test_a_value_without_room_waits_no_longer_than_its_count():
    made, waiting = joined({"a": 1}, {"b": 1}, [({"a": 1, "c": 2}, {"b": 1}), ({"a": 1}, {"b": 2})], min_count=2, cap=2)
    assert made == {"a": 1, "c": 2}
    assert waiting == {"b": 2}


def _model(estimator=None, stages=STAGES):
    return PipelineModel.build(pipeline(*([] if estimator is None else [estimator]), stages=stages), SCHEMA)


def _again(model, tmp_path):
    model.save(tmp_path / "state")
    return PipelineModel.load(tmp_path / "state", model.settings)


def _learned(model, seed):
    model.learn(rows(200, seed), labels(200, seed))
    return model


def test_a_merged_model_scores_values_by_what_the_shard_that_met_them_learned(tmp_path):
    """Two shards gave two new values one place; each keeps its own weight."""
    model = _model(stages=({"stage": "onehot", "columns": ["tail"], "cap": 8},))

    def shown(word, label):
        shard = _again(model, tmp_path)
        shard.learn(pa.table({"tail": [word] * 30}), np.full(30, label))
        return shard

    model.learn(pa.table({"tail": ["N0"] * 10}), np.arange(10) % 2)
    merge(model, [shown("N1", 1), shown("N2", 0)])
    low, high = model.predict(pa.table({"tail": ["N2", "N1"]}))
    assert low < 0.4
    assert high > 0.6
    assert model.n_trained == 70


def test_merging_every_stage_is_deterministic_and_continues_as_if_saved(tmp_path):
    """The merged state is whole: what is learned next has the same bits after saving."""
    digests = []
    for _ in range(2):
        model = _learned(_model(), 0)
        merge(model, [_learned(_again(model, tmp_path), seed) for seed in (1, 2, 3)])
        assert model.n_trained == 800
        kept = _again(model, tmp_path)
        assert kept.state_digest() == model.state_digest()
        digests.append(_learned(model, 4).state_digest())
        assert _learned(kept, 4).state_digest() == digests[-1]
    assert digests[0] == digests[1]


@pytest.mark.parametrize(
    ("estimator", "stages", "named"),
    [
        ({"name": "FMClassifier"}, STAGES, "estimator 'FMClassifier'.*factor"),
        ({"name": "FTRLClassifier", "optimizer": "adam"}, STAGES, "estimator 'FTRLClassifier'.*optimizer 'adam'"),
        ({"name": "sklearn.linear_model.SGDClassifier", "loss": "log_loss"}, STAGES, "SGDClassifier'.*no rule"),
        (
            {"name": "FTRLClassifier"},
            (*STAGES, {"stage": "sklearn.preprocessing.StandardScaler", "columns": ["seats"]}),
            r"stages\[9\] 'sklearn.preprocessing.StandardScaler'.*no rule",
        ),
        (
            {"name": "FTRLClassifier"},
            ({"stage": "hash", "columns": ["tail"], "bits": 6, "count_collisions": True},),
            r"stages\[0\] 'hash'.*collisions",
        ),
    ],
    ids=["factors", "adam", "sklearn", "scaler", "collisions"],
)
def test_a_part_without_a_rule_is_named(estimator, stages, named):
    model = _model(estimator, stages)
    with pytest.raises(ProjectError, match=named):
        merge(model, [_model(estimator, stages)])


def test_what_has_a_rule_has_no_obstacle_and_says_when_it_is_settled():
    """Before a frozen stage is settled, rows have to come in order."""
    assert obstacle(_model()) is None
    assert settled_after(_model()) == 60
    assert settled_after(_model(stages=STAGES[:3])) == 0

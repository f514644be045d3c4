"""The row scorer says what the graph says, for every stage, of every value, in bounded memory."""

import math
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from ml_core.pipeline import PipelineModel
from ml_core.pipeline.hashing import hash_bytes
from serving.packing import open_session, packed_graph
from serving.rows import RowReader
from serving.scorer import NotCoveredError, Scorers, prove_scorers
from serving.scorer.murmur3 import murmur3
from serving.scorer.piecewise import piecewise
from serving.scorer.reading import read_expression
from serving.scorer.row import RowScorer
from serving.scorer.terms import evaluator, take_apart
from tests.pipeline.examples import ESTIMATORS, SCHEMA, STAGES, labels, pipeline, rows

LINEAR = [estimator for estimator in ESTIMATORS if estimator["name"] != "FMClassifier" and "n_classes" not in estimator]


def trained(estimator: Any = ESTIMATORS[0], stages: Any = STAGES) -> PipelineModel:
    model = PipelineModel.build(pipeline(estimator, stages), SCHEMA)
    model.learn(rows(), labels(classes=estimator.get("n_classes", 2)))
    return model


class Both:
    """A model's graph as it is served, and its row scorer."""

    def __init__(self, model: PipelineModel, **settings: Any) -> None:
        self.packed = packed_graph(model.to_onnx(), model.signature)
        self.rows = RowReader(model.signature)
        self.total = take_apart(read_expression(self.packed, model.signature), model.signature)
        self.session = open_session(self.packed)
        self.scorer = RowScorer(self.total, model.signature, **settings)

    def graph(self, feed: Any) -> Any:
        return self.session.run(None, feed)[0]

    def apart(self, given_rows: list[dict[str, Any]]) -> float:
        scores = [self.scorer.score(row) for row in given_rows]
        assert None not in scores
        return float(np.abs(np.array(scores) - self.graph(self.rows.records(given_rows))).max())


@pytest.fixture(scope="module")
def every_stage() -> Both:
    return Both(trained())


@pytest.mark.parametrize("estimator", LINEAR, ids=lambda spec: spec["name"])
def test_every_stage_under_every_linear_learner_scores_as_the_graph(estimator: Any) -> None:
    """A caller must not be able to tell which of the two answered."""
    both = Both(trained(estimator))
    assert both.apart(rows(2000, seed=5).to_pylist()) < 1e-6


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage["stage"] not in {"clip", "log1p"}], ids=str)
def test_each_stage_alone_scores_as_the_graph(stage: Any) -> None:
    """A single column, or columns of one kind, take other ways through the graph."""
    assert Both(trained(stages=(stage,))).apart(rows(300, seed=6).to_pylist()) < 1e-6


_NUMBER = some.none() | some.integers(-(2**53), 2**53) | some.floats(width=32, allow_infinity=False)
_EDGES = some.sampled_from([-5.0, 0.0, 15.0, 100, -20.0, 120.0])
_EDGE = _EDGES | _EDGES.map(lambda x: float(np.nextafter(np.float32(x), np.float32(1e9)))) | some.just(0.1)


@given(
    row=some.fixed_dictionaries(
        {
            "carrier": some.none() | some.text() | some.sampled_from(["UA", "AA"]),
            "tail": some.none() | some.text(),
            "delay": _NUMBER | _EDGE,
            "seats": _NUMBER | _EDGE,
        }
    )
)
@settings(max_examples=300, deadline=None)
def test_any_row_scores_as_the_graph(every_stage: Both, row: dict[str, Any]) -> None:
    """Values at the bounds of buckets and clips, and of no kind anybody thought of."""
    assert every_stage.apart([row]) < 1e-6


@given(some.text(max_size=40))
def test_strings_hash_as_in_training(text: str) -> None:
    """Another hash would look up another value's weight."""
    assert murmur3(text) == hash_bytes(text.encode())


def test_straight_pieces_are_the_expression_up_to_the_last_bit_of_a_break(every_stage: Both) -> None:
    """A bucket that began one float32 too early would jump there."""
    terms = every_stage.total.terms
    straight, exact = piecewise(terms["seats",]), evaluator(terms["seats",])
    near = [float(np.nextafter(np.float32(place), np.float32(to))) for place in straight.breaks for to in (-9e9, 9e9)]
    assert len(straight.breaks) >= 5
    for value in (*straight.breaks, *near, 0.0, -1e9, 1e9):
        number = float(np.float32(value))
        assert straight.at(number) == pytest.approx(exact({"seats": number}), abs=1e-12)


def test_a_logarithm_is_no_straight_piece_and_scores_as_the_graph_all_the_same(every_stage: Both) -> None:
    """What cannot be found by bisection is worked out."""
    terms = every_stage.total.terms
    with pytest.raises(NotCoveredError):
        piecewise(terms["delay",])


def test_memory_stays_bounded_under_a_stream_of_ever_new_values() -> None:
    """A caller that sends a new identifier with each row must not fill the process it is embedded in."""
    both = Both(trained(), most_remembered=60)
    stream = [{"carrier": f"c{n}", "tail": f"t{n}", "delay": n / 7, "seats": float(n)} for n in range(500)]
    assert both.apart(stream) < 1e-6
    remembered = [len(memory) for memory in (*both.scorer.memories, *both.scorer.pairs)]
    assert max(remembered) <= 60 // len(remembered)
    both.scorer.score({"carrier": "x" * 1000, "tail": None, "delay": None, "seats": None})
    assert all(len(key) <= 128 for key in both.scorer.memories[0] if isinstance(key, str))


def test_scoring_in_any_order_from_any_thread_gives_the_same_bits() -> None:
    """What is remembered must not show, not even while another thread forgets it."""
    both = Both(trained(), most_remembered=40)
    given_rows = rows(300, seed=8).to_pylist()
    expected = [both.scorer.score(row) for row in given_rows]
    differing: list[int] = []

    def score(order: Any) -> None:
        differing.extend(i for i in order for _ in range(3) if both.scorer.score(given_rows[i]) != expected[i])

    orders = [np.random.default_rng(seed).permutation(len(given_rows)).tolist() for seed in range(4)]
    threads = [threading.Thread(target=score, args=(order,)) for order in orders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert differing == []


@pytest.mark.parametrize(
    "change",
    [
        {"delay": True},
        {"delay": math.inf},
        {"delay": 2**53 + 1},
        {"delay": 1e39},
        {"delay": "12"},
        {"delay": [1]},
        {"tail": 7},
        {"tail": ["a"]},
        {"tail": True},
        {"tail": "\ud800"},
    ],
    ids=str,
)
def test_what_no_column_takes_is_left_to_the_reading_of_rows(every_stage: Both, change: dict[str, Any]) -> None:
    """One policy, one wording: the scorer only says that it is not its matter, also once 1 and 0 are remembered."""
    row = {"carrier": "UA", "tail": "N1", "delay": 1, "seats": 0.0}
    assert every_stage.scorer.score(row) is not None
    assert every_stage.scorer.score({**row, "seats": 2.0**60}) is not None
    assert every_stage.scorer.score({**row, **change}) is None
    del row["tail"]
    assert every_stage.scorer.score(row) is None


def test_an_integer_too_large_is_refused_though_its_float_was_seen(every_stage: Both) -> None:
    """2**60 and 2.0**60 are one key of a dictionary, and only one of them is exact."""
    row = {"carrier": "UA", "tail": "N1", "delay": 2.0**60, "seats": 0.0}
    assert every_stage.scorer.score(row) is not None
    assert every_stage.scorer.score({**row, "delay": 2**60}) is None


@pytest.mark.parametrize(
    "estimator", [spec for spec in ESTIMATORS if spec not in LINEAR], ids=lambda spec: spec["name"]
)
def test_what_is_no_sum_over_columns_is_left_to_the_graph(estimator: Any) -> None:
    """Several classes and pairs of all columns have no single share a column."""
    with pytest.raises(NotCoveredError):
        Both(trained(estimator))


def prove(both: Both) -> Scorers | None:
    golden = {name: rows(8).column(name).to_pylist() for name in both.rows.signature}
    return prove_scorers(both.packed, both.rows, both.graph, golden)


def test_a_scorer_that_agrees_is_used_and_one_that_does_not_is_not(
    every_stage: Both, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A mistake of ours in the fast way must never become a wrong answer."""
    assert prove(every_stage) is not None
    honest = RowScorer.score
    monkeypatch.setattr(RowScorer, "score", lambda self, row: (honest(self, row) or 0.0) + 2e-6)
    assert prove(every_stage) is None
    assert "the faster way lies" in caplog.text
    monkeypatch.setattr(RowScorer, "score", lambda *_: None)
    assert prove(every_stage) is None
    monkeypatch.setattr(RowScorer, "__init__", lambda *_, **__: 1 // 0)
    assert prove(every_stage) is None

"""Late labels: a row is scored by what was known when it was asked about, and nothing that came after."""

from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss

from ml_core.errors import DataError
from ml_core.pipeline import PipelineModel
from ml_core.project import PipelineSettings
from ml_core.training.freshness import freshness
from ml_core.training.prequential import NEVER, prequential
from tests.data.conftest import at
from tests.training.test_lineage import Story

SETTINGS = PipelineSettings(
    stages=({"stage": "hash", "columns": ["shop"], "bits": 6}, {"stage": "standardise", "columns": ["size"]}),
    estimator={"name": "FTRLClassifier"},
)


def model() -> PipelineModel:
    return PipelineModel.build(SETTINGS, {"shop": "string", "size": "float"})


def made(rows: int, seed: int = 0) -> tuple[pa.Table, np.ndarray]:
    random = np.random.default_rng(seed)
    shops = random.choice(["north", "south", "west"], rows)
    labels = (random.random(rows) < np.where(shops == "north", 0.8, 0.2)).astype(np.float64)
    return pa.table({"shop": shops, "size": random.normal(size=rows).astype(np.float32)}), labels


def event_by_event(rows: pa.Table, labels: np.ndarray, asked: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Walk through requests and labels as single events, a request before a label of the same instant."""
    events = [(when, 0, row) for row, when in enumerate(asked)] + [(when, 1, row) for row, when in enumerate(known)]
    walked, scores = model(), np.empty(labels.size)
    for when, is_label, row in sorted(events):
        if not is_label:
            scores[row] = walked.predict(rows.slice(row, 1))[0]
        elif np.isfinite(when):
            walked.learn(rows.slice(row, 1), labels[row : row + 1])
    return scores


@settings(max_examples=40, deadline=None)
@given(
    asked=st.lists(st.integers(0, 20), min_size=1, max_size=40),
    delays=st.lists(st.integers(0, 12) | st.just(NEVER), min_size=40, max_size=40),
    every=st.sampled_from([0, 1, 5, NEVER]),
)
def test_scores_are_those_of_walking_through_the_events(asked: list[int], delays: list[float], every: float) -> None:
    rows, labels = made(len(asked))
    when, delay = np.array(asked, np.float64), np.array(delays[: len(asked)])
    known = when + delay
    if every:
        known = np.full(known.size, NEVER) if every == NEVER else np.ceil(known / every) * every
    scores = prequential(model(), rows, labels, asked=when, delay=delay, every=every)
    assert np.array_equal(scores, event_by_event(rows, labels, when, known))


def test_without_delay_it_is_learning_in_order() -> None:
    rows, labels = made(300)
    assert np.array_equal(prequential(model(), rows, labels), model().learn(rows, labels))


def test_a_delay_of_some_rows_hides_their_labels() -> None:
    rows, labels = made(300)
    turned = labels.copy()
    turned[200] = 1 - turned[200]
    scores, others = (prequential(model(), rows, each, delay=30) for each in (labels, turned))
    assert np.flatnonzero(scores != others)[0] == 231


@pytest.fixture
def story(tmp_path: Path) -> Story:
    lived = Story(tmp_path)
    lived.live(3)
    lived.live(3, late={"north": 0.1, "south": 0.7})
    return lived


def test_fresher_models_answer_better_when_the_world_turns(story: Story) -> None:
    """And `never` is the model of the history, to the bit."""
    intervals = [None, timedelta(days=1), timedelta(hours=1), timedelta(0)]
    found = freshness(story.flow, story.store, intervals, since=at(3 * 1_440))
    assert [each.every for each in found] == intervals
    losses = [each.figures["loss"] for each in found]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.8 * losses[0]
    trained = PipelineModel.build(story.flow.pipeline, story.store.schema())
    stop, cut = story.store.progress().next_example, story.store.offset_at(at(3 * 1_440))
    for batch in story.store.example_batches(0, cut):
        trained.learn(batch, batch.column("label").to_numpy(zero_copy_only=False))
    rest = story.store.examples(cut, stop)
    served = rest.filter(pa.compute.greater_equal(rest.column("request_time"), pa.scalar(at(3 * 1_440))))
    assert losses[0] == pytest.approx(log_loss(served.column("label"), trained.predict(served)), rel=1e-12)


def test_a_start_without_rows_on_both_sides_is_refused(story: Story) -> None:
    with pytest.raises(DataError, match="found 0 before"):
        freshness(story.flow, story.store, [None], since=at(-1))

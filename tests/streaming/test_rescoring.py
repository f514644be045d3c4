"""Rows scored as by predictors that look at the stream more or less often: nobody knows anything early."""

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from ml_core.data import FeatureStore
from ml_core.errors import StreamError
from ml_core.flow.topic import StreamedModel
from ml_core.pipeline import PipelineModel
from ml_core.project import Flow
from ml_core.streaming.broker import Broker
from ml_core.streaming.feed import Feed, feature_topic
from ml_core.streaming.learner import Learner
from ml_core.streaming.publisher import model_topic
from serving.rescoring import _with_end, rescored
from serving.topic import TopicAddress
from tests.streaming.reading import everything
from tests.streaming.test_learner import drained, feed, learning, live, registry

__all__ = ["feed", "learning", "registry"]  # fixtures

EVERY = {"never": None, "hourly": timedelta(hours=1), "at once": timedelta(0)}


def address_of(broker: Broker, flow: Flow) -> TopicAddress:
    return TopicAddress(broker.bootstrap_servers, model_topic(flow.name))


def test_each_row_is_scored_by_what_its_follower_had(  # noqa: PLR0917 - fixtures
    broker: Broker, flow: Flow, store: FeatureStore, feed: Feed, learning: Callable[..., Learner], tmp_path: Path
) -> None:
    """Against an oracle that picks, row by row, among all publications by the rule as it is written."""
    learner = learning()
    known: list[datetime] = []
    for stop in (None, *range(315, 700, 15)):
        if stop is not None:
            live(store, store.progress().next_example, stop)
            feed.step()
        drained(learner).publish()
        known.append(datetime.fromisoformat(learner._state.through))
        learner.model.save(tmp_path / str(len(known)))
    table = rescored(broker, address_of(broker, flow), feature_topic(flow.name), EVERY)
    asked = table.column("request_time").to_pylist()
    assert asked == sorted(asked)
    rows = store.feature_rows(asked[0], asked[-1] + timedelta(microseconds=1))
    assert table.column("key").to_pylist() == rows.column("key").to_pylist()
    assert len(asked) > 300
    every = [PipelineModel.load(tmp_path / str(number + 1)).predict(rows) for number in range(len(known))]
    for name, interval in EVERY.items():
        looked = [known[0] if interval is None else instant for instant in asked]
        if interval:
            looked = [known[0] + (instant - known[0]) // interval * interval for instant in asked]
        chosen = [max(n for n, through in enumerate(known) if through <= look) for look in looked]
        expected = [every[number][row] for row, number in enumerate(chosen)]
        np.testing.assert_allclose(table.column(name).to_numpy(), expected, atol=1e-6)
    assert len({*chosen}) > 20, "the follower that looks at once had nearly all of them"
    assert np.abs(table.column("never").to_numpy() - table.column("at once").to_numpy()).max() > 1e-3


def test_a_publication_that_is_gone_is_named(
    broker: Broker, flow: Flow, store: FeatureStore, feed: Feed, learning: Callable[..., Learner]
) -> None:
    """Of a past with a hole nothing can be said; a follower of the present would only wait for the next snapshot."""
    learner = learning(snapshot_every=1)
    learner.publish()
    for stop in (400, 500):
        live(store, store.progress().next_example, stop)
        feed.step()
        drained(learner)
        learner._publisher._writer.sequence += stop == 500
        learner.publish()
    with pytest.raises(StreamError, match="expected publication 3, found 4"):
        rescored(broker, address_of(broker, flow), feature_topic(flow.name), EVERY)


def test_empty_topics_are_named(broker: Broker, flow: Flow, feed: Feed, learning: Callable[..., Learner]) -> None:
    del feed
    broker.ensure(model_topic(flow.name))
    with pytest.raises(StreamError, match="expected publications of a learner, found none"):
        rescored(broker, address_of(broker, flow), feature_topic(flow.name), EVERY)
    learning().publish()
    with pytest.raises(StreamError, match="expected feature rows, found none"):
        rescored(broker, address_of(broker, flow), feature_topic(flow.name), EVERY)


def test_what_was_learned_is_told_at_publish_rows(
    broker: Broker, flow: Flow, store: FeatureStore, feed: Feed, learning: Callable[..., Learner]
) -> None:
    """Many examples come in one record; what was learned is told at every so many all the same."""
    live(store, 300, 500)
    feed.step()
    learner = learning(publish_rows=20, publish_every=timedelta(days=1), snapshot_every=1)
    drained(learner)
    told = [record for record in everything(broker, model_topic(flow.name)) if dict(record.headers)["chunk"] == b"0"]
    assert len(told) == learner.learned // 20 == 10


def test_an_open_breaker_does_not_make_it_learn_row_by_row(
    store: FeatureStore, feed: Feed, learning: Callable[..., Learner], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is overdue to be told is not, while wrong labels pour in; they have to be learned at full speed."""
    live(store, 300, 500)
    feed.step()
    learner, sizes = learning(publish_rows=20, publish_every=timedelta(days=1)), []
    learner.breaker.reason = "a test said so"
    learn = learner._learn
    monkeypatch.setattr(learner, "_learn", lambda batch: (sizes.append(batch.num_rows), learn(batch))[1])
    drained(learner)
    assert sum(sizes) == 200
    assert len(sizes) <= 12


def test_a_learner_that_began_again_earlier_is_told() -> None:
    """Its publications overlap: rows would be scored twice, and the scores of others moved to wrong keys."""
    through = ["2024-05-01T12:00:00+00:00", "2024-05-01T13:00:00+00:00", "2024-05-01T12:30:00+00:00"]
    published = [StreamedModel(n, b"", {}, {"trained_through": at}, [], "") for n, at in enumerate(through)]
    with pytest.raises(StreamError, match="publication 2: expected it to have learned as far"):
        list(_with_end(published))


def test_what_is_no_feature_row_is_named(
    broker: Broker, flow: Flow, feed: Feed, learning: Callable[..., Learner]
) -> None:
    del feed
    learning().publish()
    producer = broker.producer()
    producer.send(feature_topic(flow.name), value=b'{"key": "o1"}', partition=0).get(timeout=30)
    producer.close()
    with pytest.raises(StreamError, match="partition 0, offset 0: expected a JSON object with key"):
        rescored(broker, address_of(broker, flow), feature_topic(flow.name), EVERY)


def test_rows_of_before_the_first_publication_are_told(
    broker: Broker, flow: Flow, feed: Feed, learning: Callable[..., Learner]
) -> None:
    """Nothing that was published may answer them."""
    learner = learning()
    learner.publish()
    row = {"key": "o1", "request_time": "2024-05-01T11:00:00Z"} | dict.fromkeys(learner.model.signature)
    del feed
    producer = broker.producer()
    producer.send(feature_topic(flow.name), value=json.dumps(row).encode(), partition=0).get(timeout=30)
    producer.close()
    with pytest.raises(StreamError, match="asked about since the first publication, found 1 asked about before it"):
        rescored(broker, address_of(broker, flow), feature_topic(flow.name), EVERY)

"""Predictors that follow the model topic: the learner's very weights, bound to one session, verified one by one."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from kafka import TopicPartition

from ml_core.data import FeatureStore
from ml_core.errors import NotReadyError, ProjectError
from ml_core.project import Flow
from ml_core.streaming.broker import Broker
from ml_core.streaming.feed import Feed
from ml_core.streaming.learner import Learner
from ml_core.streaming.publisher import model_topic
from serving import LocalPredictor
from serving.following import FollowerSettings
from serving.http import Sidecar
from serving.log import LogSettings, PredictionLog
from serving.topic import TopicAddress, TopicFollower
from tests.serving.asking import ask_application
from tests.streaming.reading import everything
from tests.streaming.test_learner import drained, feed, learning, live, registry

__all__ = ["feed", "learning", "registry"]  # fixtures

Learning = Callable[..., Learner]


def address_of(broker: Broker, flow: Flow) -> str:
    return f"kafka://{broker.bootstrap_servers}/{model_topic(flow.name)}"


def followed(follower: TopicFollower, sequence: int) -> None:
    """Step until a publication is served."""
    stepped(follower, lambda: follower.current is not None and follower.current.version == sequence)


def stepped(follower: TopicFollower, until: Callable[[], object]) -> None:
    """Step until something holds."""
    for _ in range(600):
        follower.step()
        if until():
            return
    pytest.fail(f"it never came to be: {follower.last_error}")


@pytest.fixture
def follower(broker: Broker, flow: Flow) -> TopicFollower:
    settings = FollowerSettings(poll_interval_s=0.1)  # a step takes as long where nothing comes
    return TopicFollower(TopicAddress.parse(address_of(broker, flow)), broker=broker, settings=settings)


def taught(learner: Learner, store: FeatureStore, feed: Feed, stop: int) -> Learner:
    """Let the learner learn up to `stop` and publish."""
    live(store, store.progress().next_example, stop)
    feed.step()
    drained(learner).publish()
    return learner


def test_it_serves_the_learners_very_weights_through_one_session(
    follower: TopicFollower, store: FeatureStore, feed: Feed, learning: Learning
) -> None:
    learner = taught(learning(), store, feed, 700)
    first = learner._publisher._writer.sequence
    follower.load_first()
    followed(follower, first)
    before = follower.current
    assert before is not None
    taught(learner, store, feed, 1_200)
    followed(follower, learner._publisher._writer.sequence)
    model = follower.current
    assert model is not None
    assert model.session is before.session
    rows = store.examples(0, 300)
    columns = {name: rows[name].to_pylist() for name in model.signature}
    np.testing.assert_allclose(model.score_columns(columns), learner.model.predict(rows), atol=1e-6)
    assert np.abs(before.score_columns(columns) - model.score_columns(columns)).max() > 1e-4, "the old one is unchanged"
    told = model.described()
    assert (told["kind"], told["stage"], told["parent"]) == ("stream", "Stream", learner.position.base)
    assert follower.ready
    assert follower.staleness_s is not None
    follower.stop()


def test_what_is_missing_or_altered_costs_freshness_never_a_wrong_weight(  # noqa: PLR0917 - fixtures
    follower: TopicFollower, broker: Broker, flow: Flow, store: FeatureStore, feed: Feed, learning: Learning
) -> None:
    learner = taught(learning(snapshot_every=1_000), store, feed, 600)
    followed(follower, learner._publisher._writer.sequence)
    good = follower.current
    *_, last = everything(broker, model_topic(flow.name))
    told = dict(last.headers) | {"sequence": str(learner._publisher._writer.sequence + 1).encode()}
    producer = broker.producer()
    altered = producer.send(
        model_topic(flow.name), key=b"delta/9/0", value=b"x" + last.value[1:], headers=list(told.items())
    )
    altered.get(timeout=30)
    producer.close()
    stepped(follower, until=lambda: follower.last_error)
    for _ in range(5):
        follower.step()
    assert follower.current is good
    assert "was altered; waiting for the next snapshot" in str(follower.last_error)
    assert follower.ready
    live(store, 600, 700)
    feed.step()
    drained(learner).publish(whole=True)
    followed(follower, learner._publisher._writer.sequence)
    assert follower.last_error is None
    follower.stop()


def test_a_publication_that_does_not_score_as_its_learner_did_is_not_served(
    follower: TopicFollower, store: FeatureStore, feed: Feed, learning: Learning, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = taught(learning(), store, feed, 600)
    followed(follower, learner._publisher._writer.sequence)
    good = follower.current
    publish = learner._publisher.publish
    monkeypatch.setattr(
        learner._publisher,
        "publish",
        lambda graph, told, scores, *, whole: publish(graph, told, [score / 2 for score in scores], whole=whole),
    )
    taught(learner, store, feed, 800)
    stepped(follower, until=lambda: follower.quarantine)
    for _ in range(5):
        follower.step()
    assert follower.current is good
    (entry,) = follower.quarantine
    assert "the learner's scores of its golden rows" in entry.reason
    monkeypatch.undo()
    taught(learner, store, feed, 900)
    followed(follower, learner._publisher._writer.sequence)
    assert follower.quarantine == ()
    follower.stop()


def test_the_predictor_and_the_sidecar_follow_a_topic_as_they_follow_a_registry(  # noqa: PLR0917 - fixtures
    broker: Broker, flow: Flow, store: FeatureStore, feed: Feed, learning: Learning, tmp_path: Path
) -> None:
    learner = taught(learning(), store, feed, 600)
    row = {**store.examples(0, 1).to_pylist()[0], "key": "0"}
    row = {name: value for name, value in row.items() if name in {*learner.model.signature, "key"}}
    with LocalPredictor(address_of(broker, flow), poll_interval_s=0.05) as predictor:
        score, version = predictor.predict(row)
        assert version == learner._publisher._writer.sequence
        assert score == pytest.approx(learner.model.predict(store.examples(0, 1))[0], abs=1e-6)
        log = PredictionLog(LogSettings(tmp_path / "log"))
        application = Sidecar(predictor.follower, log=log)
        status, headers, answer = ask_application(application, "/invocations", {"dataframe_records": [row]})
        assert (status, headers["x-model-version"]) == (200, str(version))
        assert answer["predictions"] == [pytest.approx(score, abs=1e-6)]
        assert ask_application(application, "/status")[2]["serving"]["kind"] == "stream"
        assert f"modelflow_version {version}.0" in ask_application(application, "/metrics")[2].decode()
        application.close()
    (file,) = (tmp_path / "log").glob("*.parquet")
    (logged,) = pq.read_table(file).to_pylist()
    assert (logged["role"], logged["version"], logged["key"]) == ("streamed", learner.position.base, "0")


def test_it_may_start_before_the_learner_and_before_there_is_a_topic(
    follower: TopicFollower, store: FeatureStore, feed: Feed, learning: Learning
) -> None:
    """Some brokers make a topic of several partitions for whoever asks first; the order is that of one of them."""
    for _ in range(3):
        follower.step()
    assert follower.current is None
    learner = learning()
    for stop in (500, 600, 700, 800):
        taught(learner, store, feed, stop)
        followed(follower, learner._publisher._writer.sequence)
    follower.stop()


def test_a_late_joiner_reads_from_the_beginning_and_serves_only_the_newest(
    follower: TopicFollower, flow: Flow, store: FeatureStore, feed: Feed, learning: Learning
) -> None:
    learner = learning(snapshot_every=3)
    for stop in range(400, 1_200, 100):
        taught(learner, store, feed, stop)
    follower.load_first()
    assert follower.current is not None
    assert follower.current.version == learner._publisher._writer.sequence
    assert follower.swaps == 1
    consumer = follower._consumer
    assert consumer is not None
    assert consumer.position(TopicPartition(model_topic(flow.name), 0)) >= 8
    follower.stop()


def test_without_a_broker_or_a_publication_it_says_so(
    broker: Broker, flow: Flow, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ProjectError, match=r"expected kafka://<host>:<port>/<flow>\.model"):
        TopicAddress.parse("kafka://nowhere")
    gone = TopicFollower(TopicAddress.parse("kafka://127.0.0.1:1/f.model"), broker=Broker("127.0.0.1:1"))
    with monkeypatch.context() as impatient:
        impatient.setattr("ml_core.streaming.broker._BOOTSTRAP_MS", 500)
        with pytest.raises(NotReadyError, match="expected the broker to answer"):
            gone.load_first()
    assert not gone.registry_answers
    gone.stop()
    broker.ensure(model_topic(flow.name), compacted=True)
    empty = TopicFollower(TopicAddress.parse(address_of(broker, flow)), broker=broker)
    empty.step()
    assert (empty.ready, empty.current) == (False, None)
    empty.stop()

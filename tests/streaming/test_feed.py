"""What the owner of the store tells the stream: every row that is asked for, and every example, whatever dies."""

from collections.abc import Callable

import orjson

from ml_core.data import FeatureStore
from ml_core.project import Flow
from ml_core.streaming.broker import Broker
from ml_core.streaming.feed import Feed, example_topic, feature_topic
from ml_core.streaming.ingest import Ingester
from tests.streaming.orders import labels, orders
from tests.streaming.reading import everything

Send = Callable[..., None]


def asked(broker: Broker, flow: Flow) -> list[str]:
    """Return the keys of the rows that were sent to be scored, in order."""
    return [orjson.loads(record.value)["key"] for record in everything(broker, feature_topic(flow.name))]


def examples(broker: Broker, flow: Flow) -> list[tuple[int, int]]:
    """Return the offsets [first, next) that each record of the examples holds."""
    records = everything(broker, example_topic(flow.name))
    headers = [dict(record.headers) for record in records]
    return [(int(each["first"]), int(each["next"])) for each in headers]


def came(flow: Flow, store: FeatureStore, broker: Broker) -> None:
    """Take into the log what the topics hold."""
    ingester = Ingester(flow, store.log, broker)
    while ingester.step().segments or ingester.lag() != 0:
        pass
    ingester.close()


def names(first: int, stop: int) -> list[str]:
    return [f"o{number:06d}" for number in range(first, stop)]


def test_the_rows_of_a_flows_first_facts_are_sent_to_be_scored(
    broker: Broker, flow: Flow, store: FeatureStore, send: Send
) -> None:
    """They were asked for like any others."""
    feed = Feed(flow, store, broker)
    send("ordered", orders(0, 100))
    send("arrived", labels(0, 100))
    came(flow, store, broker)
    assert feed.step() == store.progress().next_example > 60
    assert asked(broker, flow) == names(0, 98), "all but those that what is known by then does not reach"
    send("ordered", orders(100, 120))
    send("arrived", labels(100, 120))
    came(flow, store, broker)
    feed.step()
    assert feed.step() == 0
    assert asked(broker, flow) == names(0, 118), "each once"
    feed.close()


def test_a_process_killed_before_its_first_note_leaves_nothing_out(
    broker: Broker, flow: Flow, store: FeatureStore, send: Send
) -> None:
    """What it absorbed and did not emit is the next one's to emit."""
    killed = Feed(flow, store, broker)
    send("ordered", orders(0, 100))
    send("arrived", labels(0, 100))
    came(flow, store, broker)
    store.absorb()
    killed.close()
    feed = Feed(flow, store, broker)
    assert feed.step() == store.progress().next_example > 60
    assert examples(broker, flow) == [(0, store.progress().next_example)]
    assert asked(broker, flow) == names(0, 98)
    feed.close()


def test_new_topics_of_a_flow_that_has_come_far_begin_with_what_comes_next(
    broker: Broker, flow: Flow, store: FeatureStore, send: Send
) -> None:
    """Nobody waits for the scores of its past, and examples of the past are read from the store."""
    send("ordered", orders(0, 100))
    send("arrived", labels(0, 100))
    came(flow, store, broker)
    store.absorb()
    absorbed = store.progress()
    feed = Feed(flow, store, broker)
    assert feed.step() == 0
    assert asked(broker, flow) == []
    send("ordered", orders(100, 120))
    send("arrived", labels(100, 120))
    came(flow, store, broker)
    store.absorb()
    feed.close()
    again = Feed(flow, store, broker)
    assert again.step() == store.progress().next_example - absorbed.next_example > 0
    assert examples(broker, flow) == [(absorbed.next_example, store.progress().next_example)]
    assert asked(broker, flow) == names(98, 118)
    again.close()

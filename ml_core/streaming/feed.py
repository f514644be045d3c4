"""What the owner of the event log tells the stream: examples for the learner, feature rows for whoever scores them.

Invariant: the feature store decides what an example is, which offset it has and what its features are; the topics only
carry that. An example's own offset travels with it, so a reader skips what it has and notices what it lacks. How far
was emitted is noted after the broker has acknowledged it: a process killed between the two emits a batch again. Where
new topics begin is noted before anything is absorbed: a process killed before its first note leaves nothing out.
"""

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ml_core.data.progress import Progress
from ml_core.data.store import FeatureStore
from ml_core.project import Flow
from ml_core.streaming.broker import Broker, reported
from ml_core.streaming.records import write_arrow, write_json

if TYPE_CHECKING:
    from kafka import KafkaProducer

_EXAMPLE_ROWS = 1_000
_BEGINNING = datetime.min.replace(tzinfo=UTC)
_MICRO = timedelta(microseconds=1)


def example_topic(flow: str) -> str:
    """Return the topic of a flow's labelled examples."""
    return f"{flow}.examples"


def feature_topic(flow: str) -> str:
    """Return the topic of a flow's feature rows, as asked for."""
    return f"{flow}.features"


class Feed:
    """Absorbs what the log holds and emits what that made.

    ``<flow>.examples`` has one partition; a record is an Arrow stream of up to 1,000 examples in order, with the
    headers `first` and `next`. ``<flow>.features`` holds a JSON object per row, keyed by its entity.

    Parameters
    ----------
    partitions : int
        How many Kafka partitions the topic of feature rows gets where it does not exist yet.
    """

    def __init__(self, flow: Flow, store: FeatureStore, broker: Broker, *, partitions: int = 1) -> None:
        self._flow, self._store, self._broker = flow, store, broker
        self._topics = {
            example_topic(flow.name): broker.ensure(example_topic(flow.name), bytes_=16 * 1024 * 1024),
            feature_topic(flow.name): broker.ensure(feature_topic(flow.name), partitions=partitions),
        }
        self._file = store.directory / "emitted.json"
        self._next, self._asked = self._resume(store.progress())
        self._note()
        self._producer: KafkaProducer = broker.producer()

    def step(self) -> int:
        """Absorb, emit what is new, and return how many examples that was; every one is acknowledged.

        Raises
        ------
        DataError
            See `FeatureStore.absorb`; nothing was taken in.
        BrokerDownError
            What was not acknowledged is emitted again by the next step.
        """
        self._store.absorb()
        progress = self._store.progress()
        if progress.clock is None or (progress.next_example == self._next and progress.clock == self._asked):
            return 0
        first = self._next
        with reported(self._broker):
            futures = [
                self._send(start, progress.next_example) for start in range(first, progress.next_example, _EXAMPLE_ROWS)
            ]
            if self._asked is None or progress.clock > self._asked:
                futures += self._send_features(progress.clock)
            for future in futures:
                future.get(timeout=30)
        self._next, self._asked = progress.next_example, progress.clock
        self._note()
        return self._next - first

    def close(self) -> None:
        """Let go of the broker."""
        self._producer.close()

    def _send(self, first: int, end: int) -> Any:
        stop = min(first + _EXAMPLE_ROWS, end)
        headers = [("first", str(first).encode()), ("next", str(stop).encode())]
        value = write_arrow(self._store.examples(first, stop).combine_chunks())
        return self._producer.send(example_topic(self._flow.name), value=value, headers=headers, partition=0)

    def _send_features(self, clock: datetime) -> list[Any]:
        start = _BEGINNING if self._asked is None else self._asked + _MICRO
        rows = self._store.feature_rows(start, clock + _MICRO)
        keys = rows.column("key").to_pylist()
        return [
            self._producer.send(feature_topic(self._flow.name), key=str(key).encode(), value=value)
            for key, value in zip(keys, write_json(rows), strict=True)
        ]

    def _resume(self, progress: Progress) -> tuple[int, datetime | None]:
        """Return how far was emitted to these very topics; new ones begin with what comes next.

        None instead of an instant is the beginning of time: the store held nothing yet when the topics began.
        """
        if self._file.exists():
            noted = json.loads(self._file.read_text(encoding="utf-8"))
            if noted["topics"] == self._topics:
                return noted["next"], noted["asked"] and datetime.fromisoformat(noted["asked"])
        return progress.next_example, progress.clock

    def _note(self) -> None:
        asked = None if self._asked is None else self._asked.isoformat()
        self._file.parent.mkdir(parents=True, exist_ok=True)
        part = self._file.with_suffix(".part")
        part.write_text(json.dumps({"topics": self._topics, "next": self._next, "asked": asked}), encoding="utf-8")
        part.replace(self._file)


def read_examples(value: bytes) -> pa.Table:
    """Return the examples a record of the topic holds."""
    with pa.ipc.open_stream(value) as stream:
        return stream.read_all()

"""A flow's examples as the resident learner reads them: in their one order, each once, wherever they come from.

Invariant: `read` yields examples from the offset asked for, without a gap or a repeat. The topic is only the fast way.
What it repeats is skipped; what it lacks, because it was deleted, forgot, or never had it, is read from the store.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa

from ml_core.data.store import FeatureStore
from ml_core.streaming.broker import Broker, reported
from ml_core.streaming.feed import example_topic, read_examples

_SILENCE_S = 2.0
_PROBE_POLLS = 20


class Examples:
    """Reads a flow's examples from their topic, and from the store what the topic does not give.

    Parameters
    ----------
    flow : str
    store : FeatureStore
    broker : Broker
    silence_s : float
        How long the topic may be silent, while the store has more, before the store is asked.
    monotonic : callable
        Stands in for `time.monotonic`.

    Attributes
    ----------
    from_store : int
        How many examples the topic did not give.
    """

    def __init__(
        self,
        flow: str,
        store: FeatureStore,
        broker: Broker,
        *,
        silence_s: float = _SILENCE_S,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        from kafka import TopicPartition

        self.from_store = 0
        self._store, self._broker = store, broker
        self._silence_s, self._monotonic = silence_s, monotonic
        topic = example_topic(flow)
        broker.ensure(topic, bytes_=16 * 1024 * 1024)
        self._part = TopicPartition(topic, 0)
        self._consumer = broker.consumer(f"{flow}.learn")
        self._consumer.assign([self._part])
        self._heard = monotonic()

    def seek(self, offset: int) -> None:
        """Go to the record that holds example `offset`, found by bisecting what the records' headers say."""
        with reported(self._broker):
            self._consumer.seek_to_beginning(self._part)
            first = self._probe(None)
            if first is None:
                return
            # the broker's own answer for the end of a topic is not to be relied on; a fetch tells it
            low, high = first.offset, self._consumer.highwater(self._part) or 0
            while low < high:
                middle = (low + high) // 2
                record = self._probe(middle)
                if record is None or _numbers(record)[1] > offset:
                    high = middle
                else:
                    low = record.offset + 1
            self._consumer.seek(self._part, low)
        self._heard = self._monotonic()

    def read(self, offset: int, timeout_s: float) -> Iterator[pa.Table | pa.RecordBatch]:
        """Yield the examples from `offset` on that are there now; wait at most `timeout_s` for the first of them."""
        with reported(self._broker):
            polled = self._consumer.poll(timeout_ms=round(timeout_s * 1000)).get(self._part, [])
        for record in polled:
            first, after = _numbers(record)
            if after <= offset:
                continue
            if first > offset:
                yield from self._stored(offset, first)
                offset = first
            yield read_examples(record.value).slice(offset - first)
            offset = after
        if polled:
            self._heard = self._monotonic()
        elif self._monotonic() - self._heard >= self._silence_s and self.waiting(offset):
            yield from self._stored(offset, self._store.progress().next_example)

    def waiting(self, offset: int) -> int:
        """Return how many examples the store has from `offset` on."""
        return max(0, self._store.progress().next_example - offset)

    def close(self) -> None:
        """Let go of the broker."""
        self._consumer.close()

    def _stored(self, first: int, stop: int) -> Iterator[pa.RecordBatch]:
        for batch in self._store.example_batches(first, stop):
            self.from_store += batch.num_rows
            yield batch

    def _probe(self, position: int | None) -> Any:
        """Return the first record at or after a place; None where there is none."""
        if position is not None:
            self._consumer.seek(self._part, position)
        for _ in range(_PROBE_POLLS):
            found = self._consumer.poll(timeout_ms=100, max_records=1).get(self._part, [])
            if found:
                return found[0]
            end = self._consumer.highwater(self._part)
            if end is not None and self._consumer.position(self._part) >= end:
                return None
        return None


def _numbers(record: Any) -> tuple[int, int]:
    """Return the offset of a record's first example, and the one after its last."""
    headers = dict(record.headers)
    return int(headers["first"]), int(headers["next"])

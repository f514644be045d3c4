"""The model topic's one writer: a learner's model as records of `ml_core.flow.topic`, acknowledged before they count.

A process that starts goes on from the number it finds at the end of the topic and begins with a snapshot.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ml_core.flow.topic import CHUNK_BYTES, ModelWriter
from ml_core.streaming.broker import Broker, reported

if TYPE_CHECKING:
    from kafka import KafkaProducer

_TAIL_POLLS = 50


def model_topic(flow: str) -> str:
    """Return the topic of a flow's streamed model."""
    return f"{flow}.model"


class ModelPublisher:
    """Publishes one model after another.

    Parameters
    ----------
    snapshot_every : int
        Every so many publications is whole.

    Attributes
    ----------
    publications, sent_bytes : int
    """

    def __init__(self, flow: str, broker: Broker, *, snapshot_every: int) -> None:
        self.publications = self.sent_bytes = 0
        self._topic, self._broker = model_topic(flow), broker
        broker.ensure(self._topic, compacted=True, bytes_=2 * CHUNK_BYTES)
        self._writer = ModelWriter(snapshot_every, *self._tail())
        self._whole = True
        self._producer: KafkaProducer = broker.producer(linger_ms=0)

    def publish(self, graph: bytes, described: Mapping[str, Any], scores: Sequence[float], *, whole: bool) -> int:
        """Send a model and return its number; every record of it is acknowledged.

        Raises
        ------
        BrokerDownError
            The next publication will be whole, because nobody knows what of this one is there.
        """
        whole, self._whole = whole or self._whole, True
        chunks = self._writer.write(graph, described=described, golden_scores=scores, whole=whole)
        with reported(self._broker):
            futures = [
                # one order, whoever made the topic: some brokers make one of several partitions for its first reader
                self._producer.send(
                    self._topic, key=chunk.key, value=chunk.value, headers=list(chunk.headers), partition=0
                )
                for chunk in chunks
            ]
            for future in futures:
                future.get(timeout=30)
        self._whole = False
        self.publications += 1
        self.sent_bytes += sum(len(chunk.value) for chunk in chunks)
        return self._writer.sequence

    def close(self) -> None:
        """Let go of the broker."""
        self._producer.close()

    def _tail(self) -> tuple[int, int]:
        """Return the numbers of the last publication on the topic and of its last whole snapshot."""
        from kafka import TopicPartition

        part = TopicPartition(self._topic, 0)
        last: Any = None
        with reported(self._broker):
            consumer = self._broker.consumer()
            try:
                consumer.assign([part])
                consumer.seek_to_beginning(part)
                for _ in range(_TAIL_POLLS):
                    found = consumer.poll(timeout_ms=100).get(part, [])
                    last = found[-1] if found else last
                    end = consumer.highwater(part)
                    if end is not None and consumer.position(part) >= end:
                        break
                    if found and end is not None:
                        consumer.seek(part, end - 1)
            finally:
                consumer.close()
        if last is None:
            return 0, 0
        told = {name: int(value) for name, value in last.headers if name != "sha256"}
        broke_off = last.key.startswith(b"snapshot") and told["chunk"] + 1 < told["chunks"]
        # one that broke off is written over; the whole one before it has the other keys
        return told["sequence"], told["generation"] - broke_off

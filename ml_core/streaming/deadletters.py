"""Dead letters: what could not be read, kept with its reason and where it came from.

A letter is acknowledged by the broker before the offsets of its batch are committed, so none is lost; a process killed
between the two sends it again, under the same key.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ml_core.streaming.broker import Broker, reported

if TYPE_CHECKING:
    from kafka import KafkaProducer

_MOST_BYTES = 64 * 1024


def dead_letter_topic(flow: str) -> str:
    """Return the name of a flow's topic of dead letters."""
    return f"{flow}.dead-letters"


class DeadLetters:
    """Sends what could not be read to the flow's topic of dead letters.

    A letter's key is ``topic/partition/offset``; its value is the first 64 KiB of what was found; its headers are
    `reason`, `topic`, `partition`, `offset` and `size`. It lies in the partition its record lay in, where the topic
    has as many, so that one sent twice lies beside itself.
    """

    def __init__(self, flow: str, broker: Broker, producer: "KafkaProducer") -> None:
        self._topic = dead_letter_topic(flow)
        self._broker = broker
        self._producer = producer
        self.sent = 0

    def send(self, letters: Iterable[tuple[Any, str]]) -> int:
        """Send (record, reason) pairs and return how many; every one is acknowledged when this returns."""
        letters = list(letters)
        if not letters:  # nothing to ask the broker for
            return 0
        with reported(self._broker):
            partitions = len(self._producer.partitions_for(self._topic))
            futures = [self._send(record, reason, record.partition % partitions) for record, reason in letters]
            for future in futures:
                future.get(timeout=30)
        self.sent += len(futures)
        return len(futures)

    def _send(self, record: Any, reason: str, partition: int) -> Any:
        place = (record.topic, str(record.partition), str(record.offset))
        size = len(record.value) if record.value is not None else 0
        headers = zip(("topic", "partition", "offset", "reason", "size"), (*place, reason, str(size)), strict=True)
        return self._producer.send(
            self._topic,
            key="/".join(place).encode(),
            value=None if record.value is None else record.value[:_MOST_BYTES],
            headers=[(name, text.encode("utf-8", "replace")) for name, text in headers],
            partition=partition,
        )

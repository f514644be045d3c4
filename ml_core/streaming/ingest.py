"""Kafka into the event log: each record's fact exactly once, whatever dies.

Invariant: the facts of a batch and the offsets after it become visible in one rename, because the segment that holds
the facts holds the offsets, too. A process that starts reads them from the newest segment and seeks there; the broker's
committed offsets are never asked. Offsets belong to one topic by its id: one made anew begins at its first record, and
no batch is committed before the broker has said that its topic is still the one its offsets are of.

One process ingests a kind of fact at a time, held by a lock, so no two go on from the same offsets. How facts are
ordered and what late means is `ml_core.streaming.order`'s to say.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from ml_core.data.log import EventLog, source_of
from ml_core.errors import StreamError
from ml_core.project import Flow
from ml_core.streaming.broker import Broker, reported
from ml_core.streaming.deadletters import DeadLetters, dead_letter_topic
from ml_core.streaming.held import Held
from ml_core.streaming.order import Order
from ml_core.streaming.records import INSTANT, Columns, Refused, apart, read_facts

_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
_MICRO = timedelta(microseconds=1)
_MOST_RECORDS = 20_000


def fact_topic(flow: str, kind: str) -> str:
    """Return the topic of a kind of fact."""
    return f"{flow}.{kind}"


@dataclass(slots=True)
class Ingested:
    """What ingestion took in."""

    facts: int = 0
    late: int = 0
    refused: int = 0
    segments: int = 0


@dataclass(slots=True)
class _Place:
    """Where one kind of fact stands: its topic, the next offsets, and the order."""

    kind: str
    topic: str
    topic_id: str
    columns: Columns
    offsets: dict[int, int]
    order: Order

    def source(self) -> dict[str, Any]:
        return {
            "topic": self.topic,
            "topic_id": self.topic_id,
            "offsets": {str(number): offset for number, offset in self.offsets.items()},
            "marks": {str(number): mark for number, mark in self.order.marks.items()},
        }


class Ingester:
    """Takes a flow's fact topics into its event log.

    Parameters
    ----------
    flow : Flow
        `stream.facts` names the kinds of facts that come over Kafka.
    log : EventLog
    broker : Broker
    partitions : int
        How many Kafka partitions a topic gets that does not exist yet.
    skip_lost : bool
        Where the broker deleted records before they were read, go on with the first it still has.

    Raises
    ------
    StreamError
        No kind of fact is declared, or another process ingests one of them.
    BrokerDownError
    """

    def __init__(
        self, flow: Flow, log: EventLog, broker: Broker, *, partitions: int = 1, skip_lost: bool = False
    ) -> None:
        if not flow.stream.facts:
            raise StreamError(f"{flow.name}: expected [flows.{flow.name}.stream.facts] to name facts, found none")
        self.total = Ingested()
        self._flow, self._log, self._broker = flow, log, broker
        self._lateness = round(flow.stream.allowed_lateness.total_seconds() * 1e6)
        self._open = ExitStack()
        try:
            for kind in flow.stream.facts:
                self._open.enter_context(Held(log.directory / kind / ".ingester", "ingests these facts"))
            broker.ensure(dead_letter_topic(flow.name))
            ids = {
                kind: broker.ensure(fact_topic(flow.name, kind), partitions=partitions, keep=True)
                for kind in flow.stream.facts
            }
            reset = "earliest" if skip_lost else "none"
            self._consumer = broker.consumer(
                f"{flow.name}.ingest", max_poll_records=_MOST_RECORDS, auto_offset_reset=reset
            )
            self._open.callback(self._consumer.close)
            self._places = {fact_topic(flow.name, kind): self._resume(kind, ids[kind]) for kind in ids}
            self._ids = self._open.enter_context(broker.ids(list(self._places)))
            producer = broker.producer()
            self._open.callback(producer.close)
        except BaseException:
            self._open.close()
            raise
        self.letters = DeadLetters(flow.name, broker, producer)
        self._assign()

    def step(self, timeout_s: float = 0.2) -> Ingested:
        """Read what is there, at most `timeout_s` long when nothing is, and commit it.

        Raises
        ------
        BrokerDownError
            Nothing of the batch was committed.
        StreamError
            A topic was made anew; nothing of what it holds was committed. Or the broker has deleted records that were
            not read.
        """
        from kafka.errors import LogTruncationError, OffsetOutOfRangeError

        with reported(self._broker):
            try:
                polled = self._consumer.poll(timeout_ms=round(timeout_s * 1000), max_records=_MOST_RECORDS)
            except OffsetOutOfRangeError:
                self._check_ids()
                self._check_ends()
                raise StreamError(self._lost()) from None
            except LogTruncationError:
                self._check_ids()
                raise
        taken = Ingested()
        if polled:  # one answer of about a millisecond for a batch of up to 20,000 records
            self._check_ids()
        for topic, place in self._places.items():
            batches = {part.partition: records for part, records in polled.items() if part.topic == topic}
            if batches:
                self._commit(place, batches, taken)
        self._check_ends()
        for name in ("facts", "late", "refused", "segments"):
            setattr(self.total, name, getattr(self.total, name) + getattr(taken, name))
        return taken

    def lag(self) -> int | None:
        """Return how many records wait behind the ends the broker last told; None before it told them all."""
        waiting = 0
        for part in self._consumer.assignment():
            end = self._consumer.highwater(part)
            if end is None:
                return None
            waiting += end - self._places[part.topic].offsets[part.partition]
        return waiting

    def close(self) -> None:
        """Let go of the topics and the log."""
        self._open.close()

    def _resume(self, kind: str, topic_id: str) -> _Place:
        topic = fact_topic(self._flow.name, kind)
        partitions = self._broker.partitions(topic)
        last = self._log.last(kind)
        source = source_of(last) if last else None
        columns = Columns.of(self._flow, kind)
        complete = _micros(last.through if last else _BEGINNING)
        if source is None or source.get("topic_id") != topic_id:
            # facts before it came from elsewhere, or from a topic of that name that is gone
            order = Order.begin(partitions, complete=complete)
            return _Place(kind, topic, topic_id, columns, self._beginnings(topic, range(partitions)), order)
        offsets = {int(number): offset for number, offset in source["offsets"].items()}
        offsets |= self._beginnings(topic, [number for number in range(partitions) if number not in offsets])
        order = Order({int(number): mark for number, mark in source["marks"].items()}).widened(partitions)
        return _Place(kind, topic, topic_id, columns, offsets, order)

    def _beginnings(self, topic: str, partitions: Iterable[int]) -> dict[int, int]:
        """Return the first offsets the broker has, for partitions nothing was read from."""
        from kafka import TopicPartition

        with reported(self._broker):
            begin = self._consumer.beginning_offsets([TopicPartition(topic, number) for number in partitions])
        return {part.partition: offset for part, offset in begin.items()}

    def _assign(self) -> None:
        from kafka import TopicPartition

        with reported(self._broker):
            parts = {
                TopicPartition(place.topic, number): offset
                for place in self._places.values()
                for number, offset in place.offsets.items()
            }
            self._consumer.assign(list(parts))
            for part, offset in parts.items():
                self._consumer.seek(part, offset)

    def _commit(self, place: _Place, batches: Mapping[int, Sequence[Any]], taken: Ingested) -> None:
        """Commit a batch: dead letters first, then facts and offsets in one rename. The order is the guarantee."""
        facts, offsets, order, refused = [], dict(place.offsets), place.order, []
        late = 0
        for number, records in sorted(batches.items()):
            read, moved, order, unread = self._read(place, number, records, order)
            facts.append(read)
            late += moved
            refused += unread
            offsets[number] = records[-1].offset + 1
        self.letters.send((letter.record, letter.reason) for letter in refused)
        table = pa.concat_tables([place.columns.empty(), *facts])
        after = _Place(place.kind, place.topic, place.topic_id, place.columns, offsets, order)
        through = _BEGINNING + order.complete * _MICRO
        self._log.append(place.kind, table, through=through, source=after.source())
        place.offsets, place.order = offsets, order
        self._hint(place)
        taken.facts += table.num_rows
        taken.late += late
        taken.refused += len(refused)
        taken.segments += 1

    def _read(
        self, place: _Place, number: int, records: Sequence[Any], order: Order
    ) -> tuple[pa.Table, int, Order, list[Refused]]:
        """Read one Kafka partition's records; ticks move its mark on between the facts around them."""
        others, ticks, ahead = apart(records, place.columns)
        facts, places, refused = read_facts(others, place.columns)
        known = facts.column("known_at").cast(pa.int64()).to_numpy()
        stamped, late, start = [], 0, 0
        for before, tick in ticks:
            stop = int(np.searchsorted(places, before))
            part, moved, order = order.stamp(number, known[start:stop], lateness=self._lateness)
            _, _, order = order.stamp(number, np.array([tick + 1 + self._lateness]), lateness=self._lateness)
            stamped.append(part)
            late, start = late + moved, stop
        part, moved, order = order.stamp(number, known[start:], lateness=self._lateness)
        times = pa.array(np.concatenate([*stamped, part]), pa.int64()).cast(INSTANT)
        position = facts.schema.get_field_index("known_at")
        return facts.set_column(position, "known_at", times), late + moved, order, refused + ahead

    def _hint(self, place: _Place) -> None:
        """Tell the broker how far the log has come, for those who watch lag there; nothing depends on it."""
        from kafka import TopicPartition
        from kafka.structs import OffsetAndMetadata

        self._consumer.commit_async(
            {
                TopicPartition(place.topic, number): OffsetAndMetadata(offset, "", -1)
                for number, offset in place.offsets.items()
            }
        )

    def _lost(self) -> str:
        """Say what the broker deleted before it was read."""
        begin = self._consumer.beginning_offsets(list(self._consumer.assignment()))
        gone = [
            f"{part.topic!r} partition {part.partition}: records {offset} to {begin[part] - 1}"
            for part in begin
            if (offset := self._places[part.topic].offsets[part.partition]) < begin[part]
        ]
        return (
            f"topic {'; '.join(gone)} were deleted by the broker before they were read (its retention.ms goes by the"
            " records' timestamps). Send them again, or go on without them: modelflow ingest --skip-lost"
        )

    def _check_ids(self) -> None:
        """Raise StreamError where a topic is not the one its offsets are of, however many records it holds."""
        for topic, found in self._ids().items():
            if found != (expected := self._places[topic].topic_id):
                raise StreamError(
                    f"topic {topic!r}: expected the one of id {expected}, which was read, found {found}: it was deleted"
                    " and made anew; start the ingester again"
                )

    def _check_ends(self) -> None:
        """Raise StreamError where a topic holds fewer records than were read: then no batch comes that is checked."""
        for part in self._consumer.assignment():
            end, offset = self._consumer.highwater(part), self._places[part.topic].offsets[part.partition]
            if end is not None and end < offset:
                raise StreamError(
                    f"topic {part.topic!r} partition {part.partition}: {offset} records were read and it holds {end}:"
                    " it was deleted and made anew; start the ingester again"
                )


def _micros(instant: datetime) -> int:
    return (instant - _BEGINNING) // _MICRO

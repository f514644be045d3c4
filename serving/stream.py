"""Scoring a stream: feature rows in from one topic, scores out to another, by the version that is served.

Each score says which version gave it and which record it answers; key and headers are kept. Records that cannot be
scored become dead letters with their reason. The members of a consumer group share the partitions.

*At least once* by default: what was sent is acknowledged before offsets are committed, so a process that is killed
repeats the batch it was at, and loses nothing. *Exactly once* where the broker has transactions: scores, dead letters
and offsets of a batch become visible together or not at all, to consumers that read committed records only.
"""

import json
import logging
import threading
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final

import orjson
import typer

from ml_core.errors import BrokerDownError, InputError
from ml_core.process import do_without, keep_what_is_loaded, told_to_stop
from ml_core.streaming.broker import Broker, reported
from ml_core.streaming.deadletters import DeadLetters, dead_letter_topic
from serving.model import ServedModel
from serving.predictor import LocalPredictor
from serving.settings import default_tracking_uri, kafka_bootstrap, kafka_environment

if TYPE_CHECKING:
    from kafka import KafkaConsumer, KafkaProducer

_LOG = logging.getLogger("modelflow.serving")
_POLL_MS: Final = 200
# so many at once that waiting for the last acknowledgement, and committing, cost little beside them
_BATCH: Final = 5_000
_PAUSE_S: Final = 1.0
# a group that lost a member waits for this long
_SESSION_MS: Final = 6_000
_TRANSACTION_MS: Final = 10_000


@dataclass(slots=True)
class Scored:
    """What a scorer has done: records scored, and refused as dead letters."""

    scored: int = 0
    refused: int = 0


class StreamScorer:
    """One member of a group of scorers.

    Parameters
    ----------
    predictor : LocalPredictor
    broker : Broker
    source, target : str
        Topics of JSON objects, one row each, and of scores.
    group : str
        The consumer group.
    exactly_once : bool
        Whether a batch is one transaction.

    Attributes
    ----------
    total : Scored
    """

    def __init__(
        self,
        predictor: LocalPredictor,
        broker: Broker,
        *,
        source: str,
        target: str,
        group: str,
        exactly_once: bool = False,
    ) -> None:
        self.total = Scored()
        self._predictor, self._broker = predictor, broker
        self._source, self._target, self._group = source, target, group
        self._exactly_once = exactly_once
        self._flow = predictor.follower.address.flow
        for topic in (source, target, dead_letter_topic(self._flow)):
            broker.ensure(topic)
        self._consumer: KafkaConsumer | None = None
        self._producer: KafkaProducer | None = None

    def step(self) -> int:
        """Score what has come; return how many records that was. All of it is acknowledged and committed.

        Raises
        ------
        BrokerDownError
            Nothing of the batch is committed; the next step begins with it again.
        """
        try:
            with reported(self._broker):
                consumer, producer = self._connected()
                polled = consumer.poll(timeout_ms=_POLL_MS, max_records=_BATCH)
                if not polled:
                    return 0
                # whose batch this is, is told before it is scored: a member taken for dead meanwhile is fenced by it
                return self._answer(consumer, producer, polled, consumer.group_metadata())
        except BrokerDownError:
            self._abort()
            self.close()
            raise

    def _abort(self) -> None:
        """End a transaction that was begun, so that readers need not wait until the broker does."""
        if self._exactly_once and self._producer is not None:
            try:
                self._producer.abort_transaction()
            except Exception:  # the broker is away, or had none begun; it ends by itself  # noqa: BLE001
                _LOG.info("%s: no transaction to end", self._group, exc_info=True)

    def close(self) -> None:
        """Let go of the broker; what was not committed is scored again by whoever takes the partitions over."""
        for client in (self._producer, self._consumer):
            if client is not None:
                try:
                    client.close()
                except Exception:  # of a connection that is broken already  # noqa: BLE001
                    _LOG.warning("a connection to %s did not close", self._broker.bootstrap_servers, exc_info=True)
        self._consumer = self._producer = None

    def _connected(self) -> "tuple[KafkaConsumer, KafkaProducer]":
        if self._producer is None:
            more: dict[str, Any] = {}
            if self._exactly_once:
                # the group's generation fences a member that was taken for dead, so the name need not outlive it
                name = f"{self._group}-{uuid.uuid4().hex[:8]}"
                more = {"transactional_id": name, "transaction_timeout_ms": _TRANSACTION_MS}
            self._producer = self._broker.producer(**more)
            if self._exactly_once:
                self._producer.init_transactions()
        if self._consumer is None:
            level = "read_committed" if self._exactly_once else "read_uncommitted"
            self._consumer = self._broker.consumer(
                self._group,
                session_timeout_ms=_SESSION_MS,
                heartbeat_interval_ms=_SESSION_MS // 3,
                isolation_level=level,
            )
            # known before the group forms: a leader that knows of no partitions assigns none, and may not notice
            self._consumer.partitions_for_topic(self._source)
            self._consumer.subscribe([self._source])
        return self._consumer, self._producer

    def _answer(
        self, consumer: "KafkaConsumer", producer: "KafkaProducer", polled: Mapping[Any, Sequence[Any]], member: Any
    ) -> int:
        from kafka.errors import CommitFailedError, RebalanceInProgressError
        from kafka.structs import OffsetAndMetadata

        records = [record for part in polled.values() for record in part]
        offsets = {part: OffsetAndMetadata(found[-1].offset + 1, "", -1) for part, found in polled.items()}
        model = self._predictor.served
        answers, refused = scored(model, records)
        if self._exactly_once:
            producer.begin_transaction()
        # the client hashes keys in Python, which is a sixth of sending; with one partition it decides nothing
        only = 0 if len(producer.partitions_for(self._target)) == 1 else None
        futures = [
            producer.send(
                self._target,
                key=record.key,
                value=_written(score, model, record),
                headers=record.headers,
                partition=only,
            )
            for record, score in answers
        ]
        DeadLetters(self._flow, self._broker, producer).send(refused)
        for future in futures:
            future.get(timeout=30)
        if self._exactly_once:
            producer.send_offsets_to_transaction(offsets, member)
            producer.commit_transaction()
        else:
            try:
                consumer.commit(offsets)
            except (CommitFailedError, RebalanceInProgressError):
                # the group forms anew: whoever gets these partitions scores the batch again
                _LOG.warning("%s: a batch of %s is scored again, since the group forms anew", self._group, len(records))
        self.total.scored += len(answers)
        self.total.refused += len(refused)
        return len(records)


def scored(model: ServedModel, records: Sequence[Any]) -> tuple[list[tuple[Any, Any]], list[tuple[Any, str]]]:
    """Score records that hold a JSON object each, all by one model.

    Returns
    -------
    answers : list of (record, score)
    refused : list of (record, reason)
    """
    read: list[tuple[Any, Mapping[str, Any]]] = []
    refused: list[tuple[Any, str]] = []
    for record in records:
        try:
            row = None if record.value is None else orjson.loads(record.value)
        except orjson.JSONDecodeError as error:
            refused.append((record, f"not JSON: {error}"))
            continue
        if isinstance(row, dict):
            read.append((record, row))
        else:
            refused.append(
                (record, "no value" if row is None else f"expected a JSON object, found {type(row).__name__}")
            )
    if not read:
        return [], refused
    try:
        columns = {name: [row[name] for _, row in read] for name in model.signature}
        scores = model.score_columns(columns)
        return list(zip([record for record, _ in read], scores.tolist(), strict=True)), refused
    except (InputError, KeyError):  # one of them does not fit; which, the way row by row says
        answers = []
        for record, row in read:
            try:
                answers.append((record, model.score_row(row)))
            except InputError as error:
                refused.append((record, str(error)))
        return answers, refused


def _written(score: Any, model: ServedModel, record: Any) -> bytes:
    answer = {
        "score": score,
        "version": model.version,
        "key": None if record.key is None else record.key.decode("utf-8", "replace"),
        "partition": record.partition,
        "offset": record.offset,
    }
    return orjson.dumps(answer)


def score(  # noqa: PLR0913, PLR0917 - a command's options
    flow: Annotated[str, typer.Argument(help="the flow")],
    model: Annotated[str | None, typer.Option(help="default: models:/<flow>/Production; or a model topic")] = None,
    source: Annotated[str | None, typer.Option("--from", help="the topic of rows; default: <flow>.features")] = None,
    target: Annotated[str | None, typer.Option("--to", help="the topic of scores; default: <flow>.scores")] = None,
    group: Annotated[str | None, typer.Option(help="the consumer group; default: <flow>.score")] = None,
    exactly_once: Annotated[bool, typer.Option("--exactly-once", help="one transaction a batch")] = False,
    tracking_uri: Annotated[str | None, typer.Option(help="the MLflow registry; default: MLFLOW_TRACKING_URI")] = None,
    until_idle: Annotated[bool, typer.Option(help="end once the topic holds nothing more for a while")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="what was done at the end, as one JSON object")] = False,
) -> None:
    """Score the rows of a topic into another by the version that is served; at least once, or exactly once."""
    stop = told_to_stop()
    broker = Broker.from_environment(kafka_environment(), default=kafka_bootstrap())
    address = model or f"models:/{flow}/Production"
    with LocalPredictor(address, tracking_uri=tracking_uri or default_tracking_uri()) as predictor:
        scorer = StreamScorer(
            predictor,
            broker,
            source=source or f"{flow}.features",
            target=target or f"{flow}.scores",
            group=group or f"{flow}.score",
            exactly_once=exactly_once,
        )
        do_without("pandas")
        keep_what_is_loaded()
        try:
            run(scorer, stop=stop, until_idle=until_idle)
        finally:
            scorer.close()
    told = scorer.total
    typer.echo(json.dumps(asdict(told)) if as_json else f"{told.scored} scored, {told.refused} dead letters")


def run(scorer: StreamScorer, *, stop: threading.Event, until_idle: bool) -> None:
    """Score until told to stop, or until nothing has come for a while; a broker that is away is waited for.

    The while is longer than the group takes to notice that a member is gone, whose partitions nobody had till then.
    """
    silent, longest = 0, 2 * _SESSION_MS // _POLL_MS
    while not stop.is_set():
        try:
            silent = 0 if scorer.step() else silent + 1
        except BrokerDownError as error:
            _LOG.warning("%s", error)
            stop.wait(_PAUSE_S)
        if until_idle and silent > longest:
            return

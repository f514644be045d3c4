"""Following a model topic: the weights a resident learner streams, verified and bound to one session.

Each publication that is the newest one read has to say of the learner's golden rows what the learner said
(`serving.bound`) before it answers anybody. The topic is read from its beginning, compacted or not; while the reader
catches up only the newest publication is proved. What is missing or altered costs freshness until the next snapshot,
never a wrong weight. Each worker of a sidecar follows by itself: waiting for one another would cost more than the
second they may differ by.
"""

import logging
import random
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ml_core.errors import BrokerDownError, NotReadyError, ProjectError
from ml_core.flow.topic import ModelReader, StreamedModel
from ml_core.streaming.broker import Broker, reported
from ml_core.streaming.publisher import model_topic
from serving.bound import Binder
from serving.following import Following, State
from serving.model import check_signature, warm_up
from serving.settings import kafka_environment

if TYPE_CHECKING:
    from kafka import KafkaConsumer

_ADDRESS: Final = re.compile(r"kafka://(?P<servers>[^/\s]+)/(?P<topic>[A-Za-z0-9._-]+)")
_SUFFIX: Final = model_topic("")
_LONGEST_PAUSE_S: Final = 5.0
_FIRST_S: Final = 20.0


@dataclass(frozen=True, slots=True)
class TopicAddress:
    """A model topic on a broker, ``kafka://host:port/<flow>.model``; several hosts are separated by commas."""

    servers: str
    topic: str
    stage: None = None
    alias: None = None
    version: None = None

    @classmethod
    def parse(cls, uri: str) -> "TopicAddress":
        """Read an address; raise ProjectError where it is none."""
        match = _ADDRESS.fullmatch(uri)
        if match is None:
            raise ProjectError(f"expected kafka://<host>:<port>/<flow>.model, found {uri!r}")
        return cls(match["servers"], match["topic"])

    @property
    def flow(self) -> str:
        """The flow whose model it is."""
        return self.topic.removesuffix(_SUFFIX)


class TopicFollower(Following):
    """Keeps `current` at the newest whole publication of a model topic.

    Parameters
    ----------
    address : TopicAddress
    broker : Broker, optional
        Stands in for the one at the address; security settings come from the environment's ``KAFKA_*``.
    more : Any
        As for `Following`.
    """

    def __init__(self, address: TopicAddress, *, broker: Broker | None = None, **more: Any) -> None:
        super().__init__(address, **more)
        self._broker = broker or Broker.from_environment(kafka_environment(), default=address.servers)
        self._reader = ModelReader()
        self._consumer: KafkaConsumer | None = None
        self._seen: tuple[int, str] | None = None
        self._binder = Binder(address.flow, address.topic, refuse_extra=self.settings.refuse_extra)
        self._down_for = 0

    def close(self) -> None:
        """Let go of the broker."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            consumer.close()

    def load_first(self) -> None:
        """Read the topic to its end; raise the reason when there is nothing to serve."""
        deadline = self._monotonic() + _FIRST_S
        while self.current is None and self._monotonic() < deadline:
            pause = self.step()
            if not self.registry_answers:
                break
            time.sleep(min(pause, 0.1))
        if self.current is None:
            raise NotReadyError(f"{self.address.flow}: nothing to serve: {self.last_error or self._reader.problem}")

    def step(self) -> float:
        """Take in what has come; serve the newest publication once it is proved. It never raises."""
        self.polls += 1
        pause = 0.0
        try:
            self._look()
        except BrokerDownError as error:
            self._report(error)
            self.registry_answers = False
            self._down_for = min(self._down_for + 1, 16)
            self._drop()
            pause = min(0.1 * 2.0**self._down_for, _LONGEST_PAUSE_S) * random.uniform(0.5, 1.0)  # noqa: S311 - jitter
        except Exception as error:  # the follower's thread is a process boundary: it must not die  # noqa: BLE001
            self._report(error)
            pause = self.settings.poll_interval_s
        self.state = State.IDLE
        return pause

    def _look(self) -> None:
        from kafka import TopicPartition

        part = TopicPartition(self.address.topic, 0)
        self._move(State.RESOLVING)
        with reported(self._broker):
            consumer = self._consumer or self._open(part)
            records = consumer.poll(timeout_ms=round(self.settings.poll_interval_s * 1_000)).get(part, [])
            end = consumer.highwater(part)
            behind = end is None or consumer.position(part) < end
        self._down_for = 0
        self._answered()
        for record in records:
            self._reader.read(record.value, dict(record.headers))
        if behind:
            return
        model = self._reader.current
        self.vacant = model is None
        if model is not None and (model.sequence, model.digest) != self._seen:
            self._load(model)
        if self._reader.problem is not None:
            self.last_error = self._reader.problem
        elif self.current is not None and self.current.ref.version == (model.sequence if model else None):
            self.last_error = None
            self._quarantine.clear()

    def _open(self, part: Any) -> "KafkaConsumer":
        """Read the topic from its beginning: what was read before the connection broke is only read again."""
        consumer = self._consumer = self._broker.consumer()
        self._reader = ModelReader()
        consumer.assign([part])
        consumer.seek_to_beginning(part)
        return consumer

    def _drop(self) -> None:
        try:
            self.close()
        except Exception as error:  # of a connection that is broken already  # noqa: BLE001
            self._report(error)

    def _load(self, model: StreamedModel) -> None:
        """Prove a publication and swap to it; one that cannot be proved is put aside, and the next one is tried."""
        self._seen = (model.sequence, model.digest)
        try:
            self._move(State.DOWNLOADING)
            self._move(State.VERIFYING)
            served = self._binder.proved(model, loaded_at=self._clock.now())
            if self.current is not None and not self.settings.accept_new_signature:
                check_signature(self.current, served)
            self._move(State.WARMING)
            warm_up(served)
        except Exception as error:  # no publication may stop the follower, however it fails  # noqa: BLE001
            self._put_aside((model.sequence, model.digest), error, self._monotonic())
        else:
            self._swap(served, told=logging.DEBUG)

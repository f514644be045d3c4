"""How to reach a broker, and the clients made from that: the one place that names settings of kafka-python.

A process that owns its partitions assigns them itself and keeps a group only to commit offsets, so it never waits for a
group to form. Offsets of ours live in our own commits; what the broker holds is a hint for people and lag monitors.
Topics are never made by accident: clients do not create them, `Broker.ensure` does.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ml_core.errors import BrokerDownError, StreamError

if TYPE_CHECKING:
    from kafka import KafkaConsumer, KafkaProducer

_BOOTSTRAP_MS = 10_000
_REQUEST_MS = 10_000
# the library tries less and less often, every 30 s in the end: a broker that is back would stay unnoticed for as long
_RECONNECT_MS = 1_000
_MADE_S = 10.0
_UNKNOWN_TOPIC = 3
_POLL_MS, _SILENT_POLLS = 100, 100
# on some brokers the fetch wait is a sleep, not a wake-up
_FETCH_WAIT_MS = 50
_LARGEST_REQUEST = 16 * 1024 * 1024
_VARIABLES = {
    "KAFKA_SECURITY_PROTOCOL": "security_protocol",
    "KAFKA_SASL_MECHANISM": "sasl_mechanism",
    "KAFKA_SASL_USERNAME": "sasl_plain_username",
    "KAFKA_SASL_PASSWORD": "sasl_plain_password",
    "KAFKA_SSL_CAFILE": "ssl_cafile",
    "KAFKA_SSL_CERTFILE": "ssl_certfile",
    "KAFKA_SSL_KEYFILE": "ssl_keyfile",
    "KAFKA_SSL_PASSWORD": "ssl_password",
}


@dataclass(frozen=True, slots=True)
class Broker:
    """Where a broker is and how to prove oneself to it.

    Attributes
    ----------
    bootstrap_servers : str
        ``host:port``, several separated by commas.
    security : mapping of str to str
        SASL and TLS settings by kafka-python's names; not shown in messages.
    """

    bootstrap_servers: str
    security: Mapping[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], *, default: str) -> "Broker":
        """Read ``KAFKA_BOOTSTRAP_SERVERS``, ``KAFKA_SECURITY_PROTOCOL``, ``KAFKA_SASL_*`` and ``KAFKA_SSL_*``."""
        security = {key: environment[name] for name, key in _VARIABLES.items() if environment.get(name)}
        return cls(environment.get("KAFKA_BOOTSTRAP_SERVERS") or default, security)

    def consumer(self, group: str | None = None, **settings: Any) -> "KafkaConsumer":
        """Return a consumer that reads from the beginning unless told where; the caller assigns or subscribes."""
        from kafka import KafkaConsumer

        with reported(self):
            return KafkaConsumer(
                bootstrap_servers=self.bootstrap_servers,
                group_id=group,
                enable_auto_commit=False,
                allow_auto_create_topics=False,
                fetch_max_wait_ms=_FETCH_WAIT_MS,
                bootstrap_timeout_ms=_BOOTSTRAP_MS,
                reconnect_backoff_max_ms=_RECONNECT_MS,
                metrics_enabled=False,
                **{"auto_offset_reset": "earliest", "max_partition_fetch_bytes": _LARGEST_REQUEST}
                | dict(self.security)
                | settings,
            )

    def producer(self, **settings: Any) -> "KafkaProducer":
        """Return an idempotent producer; with ``transactional_id`` one that commits what it sends as a whole."""
        from kafka import KafkaProducer

        with reported(self):
            return KafkaProducer(
                bootstrap_servers=self.bootstrap_servers,
                allow_auto_create_topics=False,
                max_request_size=_LARGEST_REQUEST,
                request_timeout_ms=_REQUEST_MS,
                bootstrap_timeout_ms=_BOOTSTRAP_MS,
                reconnect_backoff_max_ms=_RECONNECT_MS,
                metrics_enabled=False,
                **{"linger_ms": 5, "batch_size": 256 * 1024, "delivery_timeout_ms": 30_000}
                | dict(self.security)
                | settings,
            )

    def ensure(
        self, topic: str, *, partitions: int = 1, compacted: bool = False, keep: bool = False, bytes_: int | None = None
    ) -> str:
        """Make a topic unless it exists, and return its id, which changes when it is deleted and made anew.

        Parameters
        ----------
        partitions : int
            For a new topic; one that exists keeps its own.
        compacted : bool
            Whether the broker may keep only the newest record of each key.
        keep : bool
            Whether a new topic keeps its records for good. Brokers let records go by their timestamps, and those of
            facts may be years old when they are sent.
        bytes_ : int, optional
            The largest record the topic is to take.
        """
        configs = {"cleanup.policy": "compact"} if compacted else {"message.timestamp.type": "LogAppendTime"}
        if keep:
            configs = {"retention.ms": "-1"}
        if bytes_ is not None:
            configs["max.message.bytes"] = str(bytes_)
        wanted = {topic: {"num_partitions": partitions, "replication_factor": 1, "configs": configs}}
        with self._admin() as admin:
            admin.create_topics(wanted, raise_errors=False)
            deadline = time.monotonic() + _MADE_S
            while (described := admin.describe_topics([topic])[0])["error_code"] == _UNKNOWN_TOPIC:
                if time.monotonic() > deadline:
                    break
                time.sleep(0.05)  # a broker answers a creation before all of it knows the topic
        if described["error_code"]:
            raise StreamError(
                f"{self.bootstrap_servers}: topic {topic!r} could not be made or read: error {described['error_code']}"
            )
        return str(described["topic_id"])

    def partitions(self, topic: str) -> int:
        """Return how many partitions a topic has."""
        with self._admin() as admin:
            return len(admin.describe_topics([topic])[0]["partitions"])

    @contextmanager
    def ids(self, topics: Sequence[str]) -> Iterator[Callable[[], dict[str, str]]]:
        """Yield a function that asks for the ids of topics, as `ensure` tells them, over a connection that stays open.

        It raises BrokerDownError where the broker does not tell one of them. An answer takes one round trip.
        """
        with self._admin() as admin:

            def ask() -> dict[str, str]:
                with reported(self):
                    described = admin.describe_topics(list(topics))
                for topic in described:
                    if topic["error_code"]:
                        raise BrokerDownError(
                            f"{self.bootstrap_servers}: expected the id of topic {topic['name']!r}, found error"
                            f" {topic['error_code']}; see that the topic is there"
                        )
                return {str(topic["name"]): str(topic["topic_id"]) for topic in described}

            yield ask

    def records(self, topic: str) -> Iterator[Any]:
        """Yield what each partition of a topic holds by now, one after the other, from its first record on.

        Raises
        ------
        StreamError
            The broker stops giving records before the end it tells of.
        """
        from kafka import TopicPartition

        for number in range(self.partitions(topic)):
            part, silent = TopicPartition(topic, number), 0
            with reported(self), closing(self.consumer()) as consumer:
                consumer.assign([part])
                consumer.seek_to_beginning(part)
                # the broker's own answer for the end of a topic is not to be relied on; a fetch tells it
                while (end := consumer.highwater(part)) is None or consumer.position(part) < end:
                    records = consumer.poll(timeout_ms=_POLL_MS).get(part, [])
                    yield from records
                    silent = 0 if records else silent + 1
                    if silent > _SILENT_POLLS:
                        raise StreamError(
                            f"{topic}: the broker gives no further record of partition {number}; try again"
                        )

    @contextmanager
    def _admin(self) -> Iterator[Any]:
        from kafka.admin import KafkaAdminClient

        with reported(self):
            admin = KafkaAdminClient(
                bootstrap_servers=self.bootstrap_servers,
                bootstrap_timeout_ms=_BOOTSTRAP_MS,
                request_timeout_ms=_REQUEST_MS,
                **dict(self.security),
            )
            try:
                yield admin
            finally:
                admin.close()


@contextmanager
def reported(broker: Broker) -> Iterator[None]:
    """Turn the client's errors into ours, saying which broker it was."""
    from kafka.errors import KafkaError

    try:
        yield
    except KafkaError as error:
        raise BrokerDownError(
            f"{broker.bootstrap_servers}: expected the broker to answer, found {type(error).__name__}: {error}; see"
            " that it runs, and KAFKA_BOOTSTRAP_SERVERS"
        ) from error

"""Reading whole topics, as the tests' oracle."""

from typing import Any

from kafka import TopicPartition
from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaConnectionError

from ml_core.streaming.broker import Broker


def everything(broker: Broker, topic: str, **settings: Any) -> list[Any]:
    """Return every record of a topic, partition by partition."""
    parts = [TopicPartition(topic, number) for number in range(broker.partitions(topic))]
    found = []
    consumer = broker.consumer(**settings)
    for part in parts:
        consumer.assign([part])
        consumer.seek(part, 0)
        waited = 0
        while waited < 20:
            records = [record for batch in consumer.poll(timeout_ms=100).values() for record in batch]
            found += records
            end = consumer.highwater(part)
            if end is not None and consumer.position(part) >= end:
                break
            waited += not records
    consumer.close()
    return found


def deleted_before(broker: Broker, topic: str, offset: int) -> bool:
    """Let the broker delete a topic's records before `offset`; say whether it can."""
    admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap_servers)
    try:
        admin.delete_records({TopicPartition(topic, 0): offset})
    except KafkaConnectionError:  # what the embedded broker answers with
        return False
    finally:
        admin.close()
    return True


def remade(broker: Broker, topic: str) -> None:
    """Let the broker delete a topic and make it anew."""
    before = broker.ensure(topic)
    admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap_servers)
    admin.delete_topics([topic])
    admin.close()
    while broker.ensure(topic, keep=True) == before:  # a broker answers before all of it is gone
        pass

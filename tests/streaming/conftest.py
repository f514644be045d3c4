"""What the streaming tests share: a broker, a flow that comes over it, and records to send."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from ml_core.data import FeatureStore
from ml_core.project import Flow
from ml_core.streaming.broker import Broker
from ml_core.streaming.embedded import embedded_broker
from tests.data.conftest import FEATURES, at
from tests.streaming.brokers import Apache, can_run_apache, named_broker
from tests.streaming.orders import flow_of

_NAMES = (f"orders{number}" for number in itertools.count())

Send = Callable[..., None]


@pytest.fixture(scope="session", params=["tansu", pytest.param("apache", marks=pytest.mark.slow)])
def broker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """Yield each broker there is; the whole suite runs on each."""
    if request.param == "tansu":
        named = named_broker()
        if named is not None:
            yield named
            return
        with embedded_broker() as embedded:
            yield embedded
        return
    if not can_run_apache():
        pytest.skip("Apache Kafka needs java and mvn on this machine")
    apache = Apache(tmp_path_factory.mktemp("apache")).start()
    yield apache.broker
    apache.kill()


@pytest.fixture
def flow() -> Flow:
    """Return the flow of orders over topics of its own."""
    return flow_of(next(_NAMES))


@pytest.fixture
def store(flow: Flow, tmp_path: Path) -> FeatureStore:
    """Return the flow's store."""
    (tmp_path / "features.sql").write_text(FEATURES, encoding="utf-8")
    return FeatureStore(flow, root=tmp_path, home=tmp_path / "home")


@pytest.fixture
def send(broker: Broker, flow: Flow) -> Iterator[Send]:
    """Return a function that sends values to one of the flow's fact topics, all acknowledged."""
    producer = broker.producer()

    def sent(kind: str, values: Sequence[bytes | None], *, partition: int = 0, **more: Any) -> None:
        broker.ensure(f"{flow.name}.{kind}", keep=True)
        more = {"key": b"key", "timestamp_ms": round(at(100_000).timestamp() * 1000)} | more
        futures = [producer.send(f"{flow.name}.{kind}", value=value, partition=partition, **more) for value in values]
        for future in futures:
            future.get(timeout=30)

    yield sent
    producer.close()

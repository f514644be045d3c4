"""`make bench-stream`: a flow over a broker on this machine, part by part and as a whole.

The flow is small on purpose, orders with one feature looked up among the facts of the last minute, so that the figures
are those of the machinery. Facts go in as JSON. The broker is the embedded one, unless KAFKA_BOOTSTRAP_SERVERS names
another.

*Fresh* is measured from outside: a producer stamps every label with the instant it sends it; a predictor that follows
the model topic is asked a hundred times a second how far the version it serves has learned. A label's time to be served
is from its stamp to the first look that finds it learned.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson

from benchmarks.deltas import rows as delta_rows
from benchmarks.report import Row, bound, write
from ml_core.data.store import FeatureStore
from ml_core.errors import NotReadyError
from ml_core.flow.registry import Registry, registry_of
from ml_core.process import keep_what_is_loaded
from ml_core.project import Flow, Project, load_project
from ml_core.streaming.broker import Broker
from ml_core.streaming.embedded import embedded_broker
from ml_core.streaming.feed import Feed
from ml_core.streaming.ingest import Ingester
from ml_core.streaming.learner import Learner
from ml_core.training import judge_and_promote, train_full
from serving import LocalPredictor

RATE: Final = 5_000
SECONDS: Final = 30
WARM_UP_S: Final = 15
TRAINED: Final = 200_000
FACTS: Final = 1_000_000
BAD_SHARE: Final = 0.01
_ROUNDS: Final = 3
SCORED: Final = 200_000
_PATIENCE_S: Final = 120.0
PROJECT: Final = """
[flows.{name}.data]
loader = "nowhere:facts"
features = "features.sql"
entity = "ordered"
key = "order_id"
request_time = "asked_at"
label_fact = "arrived"
label = "late"
lookback = "2 minutes"
label_window = "1 hour"
starts = 2024-01-01

[flows.{name}.pipeline]
stages = [
    {{ stage = "hash", columns = ["shop", "customer"], bits = 18 }},
    {{ stage = "standardise", columns = ["price"] }},
]
estimator = {{ name = "FTRLClassifier" }}

[flows.{name}.gate]
min_rows = 100
first_max_normalised_entropy = 2.0
max_calibration_error = 0.9

[flows.{name}.stream]
[flows.{name}.stream.facts.ordered]
order_id = "string"
shop = "string"
customer = "string"
price = "float"
asked_at = "instant"
[flows.{name}.stream.facts.arrived]
order_id = "string"
late = "boolean"

[flows.{name}.stream.learn]
publish_every = "1 second"
register_every = "1 day"
"""
FEATURES: Final = """
select requests.order_id as key, requests.request_time, requests.shop, requests.customer, requests.price::float as price
from requests
"""


@dataclass(frozen=True, slots=True)
class Place:
    """A project of one flow on disk, and the broker its topics are on."""

    project: Project
    flow: Flow
    broker: Broker

    @property
    def store(self) -> FeatureStore:
        """The flow's store."""
        return FeatureStore(self.flow, root=self.project.root, home=self.project.home)

    @contextmanager
    def running(self, *command: str) -> Iterator[None]:
        """Run `modelflow <command>` beside the measurement."""
        environment = os.environ | {
            "MODELFLOW_HOME": str(self.project.home),
            "KAFKA_BOOTSTRAP_SERVERS": self.broker.bootstrap_servers,
        }
        modelflow = Path(sys.executable).with_name("modelflow")
        with (self.project.root / f"{command[0]}.log").open("wb") as log:
            process = subprocess.Popen(
                [modelflow, *command], cwd=self.project.root, env=environment, stdout=log, stderr=log
            )
        try:
            yield
        finally:
            process.terminate()
            process.wait(30)


@contextmanager
def placed(name: str, broker: Broker) -> Iterator[Place]:
    """Write a project into a folder that is thrown away."""
    with tempfile.TemporaryDirectory(prefix="modelflow-bench-") as folder:
        root = Path(folder)
        (root / "dagster_project.toml").write_text(PROJECT.format(name=name), encoding="utf-8")
        (root / "features.sql").write_text(FEATURES, encoding="utf-8")
        project = load_project(root, environment={"MODELFLOW_HOME": str(root / "home")})
        yield Place(project, project.flow(name), broker)


def facts(numbers: range, moment: datetime, *, step: timedelta = timedelta(0)) -> tuple[list[bytes], list[bytes]]:
    """Return an order and its label for each number, all known at `moment` and on from there by `step`."""
    ordered, arrived = [], []
    for place, number in enumerate(numbers):
        known = (moment + place * step).isoformat()
        key, shop = f"o{number}", number * 7919 % 500
        times = {"event_time": known, "known_at": known, "order_id": key}
        row = {"shop": f"s{shop}", "customer": f"c{number * 104729 % 50_000}", "price": float(number % 97)}
        ordered.append(orjson.dumps(times | row | {"asked_at": known}))
        arrived.append(orjson.dumps(times | {"late": (shop * 17 + number // 3) % 10 < 3}))
    return ordered, arrived


def send(producer: Any, topic: str, values: Sequence[bytes | None], *, partition: int = 0) -> None:
    """Send values and wait until all are acknowledged."""
    futures = [producer.send(topic, key=b"k", value=value, partition=partition) for value in values]
    for future in futures:
        future.get(timeout=120)


def prepared(place: Place, count: int) -> Registry:
    """Let so many orders and labels come in over the broker, and serve a first version of them."""
    producer = place.broker.producer()
    ingester = Ingester(place.flow, place.store.log, place.broker)
    moment = datetime.now(UTC) - timedelta(minutes=30)
    for values, kind in zip(
        facts(range(count), moment, step=timedelta(milliseconds=10)), ("ordered", "arrived"), strict=True
    ):
        send(producer, f"{place.flow.name}.{kind}", values)
    while ingester.step().facts or ingester.lag():
        pass
    ingester.close()
    producer.close()
    place.store.absorb()
    registry = registry_of(place.project)
    verdict = judge_and_promote(place.flow, registry, train_full(place.flow, place.store, registry))
    if not verdict.accepted:
        raise SystemExit(f"expected the first version to be served, found {verdict.reasons}")
    return registry


def fresh(broker: Broker) -> list[Row]:
    """Measure how long a label takes until a predictor that learned from it serves, all processes on this machine."""
    with placed("fresh", broker) as place:
        prepared(place, 2_000)
        with place.running("ingest", "fresh"), place.running("learn", "fresh"):
            stop = threading.Event()
            sender = threading.Thread(target=_send_on, args=(broker, stop), daemon=True)
            sender.start()
            with _following(broker) as predictor:
                waits = _watched(predictor)
            stop.set()
            sender.join(30)
    half, most = (float(np.quantile(waits, share)) for share in (0.5, 0.99))
    return [
        bound(f"label sent to served by what learned it, {RATE:,} facts/s: p50", half, "s", 1.0),
        bound("the same: p99", most, "s", 2.0),
    ]


def _following(broker: Broker) -> LocalPredictor:
    """Return a predictor that follows the model topic, once something is published there."""
    for _ in range(5):
        try:
            return LocalPredictor(f"kafka://{broker.bootstrap_servers}/fresh.model", poll_interval_s=0.05)
        except NotReadyError:
            time.sleep(1)
    raise SystemExit("expected the learner to publish within two minutes, found nothing")


def _send_on(broker: Broker, stop: threading.Event) -> None:
    producer, number = broker.producer(linger_ms=2), 1_000_000
    began, sent = time.perf_counter(), 0
    while not stop.is_set():
        due = int((time.perf_counter() - began) * RATE / 2) - sent
        if due < 25:
            time.sleep(0.005)
            continue
        ordered, arrived = facts(range(number, number + due), datetime.now(UTC))
        for kind, values in (("ordered", ordered), ("arrived", arrived)):
            for value in values:
                producer.send(f"fresh.{kind}", value=value, partition=0)
        number, sent = number + due, sent + due
    producer.close()


def _watched(predictor: LocalPredictor) -> np.ndarray[Any, Any]:
    """Return the seconds from stamp to served of instants a millisecond apart."""
    waits: list[np.ndarray[Any, Any]] = []
    began, before = time.time(), None
    while time.time() < began + WARM_UP_S + SECONDS:
        through = predictor.served.trained_through
        now = time.time()
        learned = None if through is None else through.timestamp()
        if learned is not None and learned != before:
            first = max(before or learned, began + WARM_UP_S)
            waits.append(now - np.arange(first, learned, 0.001))
            before = learned
        time.sleep(0.01)
    return np.concatenate(waits)


def trained(broker: Broker) -> list[Row]:
    """Measure one learner on a topic that is full already."""
    with placed("trained", broker) as place:
        registry = prepared(place, 1_000)
        feed = Feed(place.flow, place.store, broker)
        producer = broker.producer()
        moment = datetime.now(UTC) - timedelta(minutes=20)
        numbers = range(1_000, 1_000 + TRAINED)
        for values, kind in zip(
            facts(numbers, moment, step=timedelta(milliseconds=1)), ("ordered", "arrived"), strict=True
        ):
            send(producer, f"trained.{kind}", values)
        producer.close()
        ingester = Ingester(place.flow, place.store.log, broker)
        while ingester.step().facts or ingester.lag():
            pass
        ingester.close()
        feed.step()
        feed.close()
        learner = Learner(place.flow, place.store, registry, broker)
        began = time.perf_counter()
        while learner.waiting:
            learner.step()
        took = time.perf_counter() - began
        learned = learner.learned
        learner.close()
    return [_at_least("labelled events learned from the topic by one learner", learned / took, "rows/s", 20_000)]


def scored(broker: Broker) -> list[Row]:
    """Measure one `modelflow score`, and a group of two, on a topic that is full already."""
    names = {1: "records scored from one topic into another by one process", 2: "the same by a group of two processes"}
    return [
        _at_least(name, _rate_scored(broker, f"scored{processes}", processes), "rows/s", 20_000)
        for processes, name in names.items()
    ]


def _rate_scored(broker: Broker, name: str, processes: int) -> float:
    """Return how many records a second are scored, by how many scores the target holds when."""
    with placed(name, broker) as place:
        prepared(place, 2_000)
        ordered, _ = facts(range(SCORED), datetime.now(UTC))
        broker.ensure(f"{name}.rows", partitions=processes)
        broker.ensure(f"{name}.answers")
        producer = broker.producer()
        for number in range(processes):
            send(producer, f"{name}.rows", ordered[number::processes], partition=number)
        producer.close()
        command = ("score", name, "--from", f"{name}.rows", "--to", f"{name}.answers")
        with ExitStack() as running:
            for _ in range(processes):
                running.enter_context(place.running(*command, "--tracking-uri", place.project.tracking_uri))
            looks = list(_held(broker, f"{name}.answers", until=SCORED))
    (began, first), (ended, last) = looks[0], looks[-1]
    return (last - first) / (ended - began)


def _held(broker: Broker, topic: str, *, until: int) -> Iterator[tuple[float, int]]:
    """Yield the instants at which a topic was seen to hold more than before, and how much, up to so many records."""
    from kafka import TopicPartition

    part = TopicPartition(topic, 0)
    consumer = broker.consumer(max_partition_fetch_bytes=1)
    consumer.assign([part])
    held, patience = 0, time.perf_counter() + _PATIENCE_S
    while held < until:
        consumer.seek(part, max(held - 1, 0))
        consumer.poll(timeout_ms=100, max_records=1)
        now, end = time.perf_counter(), consumer.highwater(part) or 0
        if now > patience:
            raise SystemExit(f"expected {until} records in {topic}, found {held}")
        if end > held:
            held = end
            yield now, held
        time.sleep(0.1)
    consumer.close()


def taken_in(broker: Broker) -> list[Row]:
    """Measure the ingester on a million facts, all good, and with one bad one in a hundred; medians of three each.

    The two take turns, a batch each, because the speed of a shared machine changes from one second to the next.
    """
    keep_what_is_loaded()  # as `modelflow ingest` does
    rounds = [_rates_of(broker, {f"good{number}": 0.0, f"mixed{number}": BAD_SHARE}) for number in range(_ROUNDS)]
    good, mixed = (statistics.median(rates) for rates in zip(*rounds, strict=True))
    ratio = statistics.median(good / mixed for good, mixed in rounds)
    row = bound("a million facts taken in, 10,000 of them bad: time beside all good", ratio, "times", 1.25)
    return [bound("the same in facts a second", mixed, "rows/s", None, peer=good), row]


def _rates_of(broker: Broker, shares: Mapping[str, float]) -> list[float]:
    """Return how many facts a second each flow takes in, of which so many are bad."""
    with ExitStack() as stack:
        ingesters = []
        for name, share in shares.items():
            place = stack.enter_context(placed(name, broker))
            Ingester(place.flow, place.store.log, broker).close()  # makes the topics
            _fill(broker, f"{name}.ordered", share)
            ingesters.append(Ingester(place.flow, place.store.log, broker))
            stack.callback(ingesters[-1].close)
        spent = [0.0] * len(ingesters)
        while any(waiting := [ingester.total.facts + ingester.total.refused < FACTS for ingester in ingesters]):
            for number, ingester in enumerate(ingesters):
                if waiting[number]:
                    began = time.perf_counter()
                    ingester.step()
                    spent[number] += time.perf_counter() - began
        for share, ingester in zip(shares.values(), ingesters, strict=True):
            if ingester.total.refused != FACTS * share:
                raise SystemExit(f"expected {FACTS * share:.0f} dead letters, found {ingester.total.refused}")
    return [FACTS / seconds for seconds in spent]


def _fill(broker: Broker, topic: str, share: float) -> None:
    """Send a million facts, of which so many are bad."""
    producer = broker.producer()
    moment, bad = datetime.now(UTC) - timedelta(hours=1), 0
    for first in range(0, FACTS, 50_000):
        values, _ = facts(
            range(first, first + 50_000), moment + timedelta(milliseconds=first), step=timedelta(milliseconds=1)
        )
        sent: list[bytes | None] = list(values)
        for number, value in enumerate(values):
            if share and number % round(1 / share) == 0:
                sent[number] = _TOO_LARGE if bad % 500 == 0 else _BAD[bad % len(_BAD)](value)
                bad += 1
        send(producer, topic, sent)
    producer.close()


_TOO_LARGE: Final = b'{"note":"' + b"x" * 5_000_000 + b'"}'
_BAD: Final[Sequence[Callable[[bytes], bytes | None]]] = (
    lambda value: value[:-1],
    lambda value: value.replace(b'"price":', b'"price":"much","old":'),
    lambda value: value.replace(b'"order_id":', b'"number":'),
    lambda value: value.replace(b'"event_time":"2', b'"event_time":"x'),
    lambda value: value.replace(b'"known_at":"2', b'"known_at":"9'),
    lambda _: b"[]",
    lambda _: None,
)


def _at_least(name: str, ours: float, unit: str, wanted: float) -> Row:
    return {
        "name": name,
        "ours": round(ours),
        "unit": unit,
        "peer": None,
        "ratio": None,
        "target": wanted,
        "holds": ours >= wanted,
    }


@contextmanager
def some_broker() -> Iterator[Broker]:
    """Yield the broker that is named, or one of our own."""
    named = os.environ.get("KAFKA_BOOTSTRAP_SERVERS")
    if named:
        yield Broker.from_environment(os.environ, default=named)
        return
    with embedded_broker() as broker:
        yield broker


def main() -> None:
    """Measure every part and write the table."""
    rows: list[Row] = []
    for part in (fresh, trained, scored, taken_in):
        with some_broker() as broker:
            rows += part(broker)
    write("stream", [*rows, *delta_rows()])


if __name__ == "__main__":
    main()

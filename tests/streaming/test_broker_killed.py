"""The broker itself is killed, again and again, under everything that uses it."""

import json
import os
import random
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ml_core.data import FeatureStore
from ml_core.flow.registry import Registry
from ml_core.pipeline import PipelineModel
from ml_core.project import Flow
from ml_core.streaming.broker import Broker
from ml_core.streaming.feed import feature_topic
from ml_core.training import judge_and_promote, train_full
from tests.data.conftest import FEATURES
from tests.registries import empty_registry
from tests.streaming.brokers import Apache, can_run_apache
from tests.streaming.orders import flow_of, labels, orders
from tests.streaming.processes import MODELFLOW, ProjectOnDisk
from tests.streaming.reading import everything
from tests.streaming.test_ingest import facts_in
from tests.streaming.test_learner import undisturbed
from tests.streaming.test_score import answered

KILLS = 30
BEFORE, EACH = 400, 60


@contextmanager
def resident(project: ProjectOnDisk, *command: str) -> "Iterator[subprocess.Popen[bytes]]":
    """Run `modelflow <command>` beside what follows, its words going to a file."""
    environment = os.environ | {
        "MODELFLOW_HOME": str(project.root / "home"),
        "KAFKA_BOOTSTRAP_SERVERS": project.broker.bootstrap_servers,
    }
    with (project.root / f"{command[0]}.log").open("wb") as log:
        process = subprocess.Popen([MODELFLOW, *command], cwd=project.root, env=environment, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_broker_killed_at_thirty_moments_costs_nobody_anything(tmp_path: Path) -> None:
    """Ingester, learner and scorer run all the while; none may end, lose or repeat anything."""
    if not can_run_apache():
        pytest.skip("Apache Kafka needs java and mvn on this machine")
    apache = Apache(tmp_path / "apache").start()
    flow = flow_of("killed")
    (tmp_path / "features.sql").write_text(FEATURES, encoding="utf-8")
    store = FeatureStore(flow, root=tmp_path, home=tmp_path / "home")
    project = ProjectOnDisk.write(tmp_path, flow, apache.broker)
    uri = empty_registry(tmp_path / "home" / "mlflow" / "mlflow.db")
    registry = Registry(uri)
    moments = random.Random(30)  # noqa: S311 - moments, not secrets
    for kind in ("ordered", "arrived"):
        apache.broker.ensure(f"{flow.name}.{kind}", keep=True)
    producer = apache.broker.producer(delivery_timeout_ms=240_000)
    sent = []

    def send(first: int, stop: int) -> None:
        for kind, values in (("ordered", orders(first, stop)), ("arrived", labels(first, stop))):
            sent.extend(producer.send(f"{flow.name}.{kind}", key=b"k", value=value, partition=0) for value in values)

    try:
        send(0, BEFORE)
        project.run("ingest", flow.name, "--until-idle")
        assert judge_and_promote(flow, registry, train_full(flow, store, registry)).accepted
        scoring = ("score", flow.name, "--exactly-once", "--tracking-uri", uri)
        with (
            resident(project, "ingest", flow.name) as ingester,
            resident(project, "learn", flow.name) as learner,
            resident(project, *scoring) as scorer,
        ):
            learned = 0
            for kill in range(KILLS):
                first = BEFORE + kill * EACH
                learned = learned_beyond(learned, store)
                going = threading.Thread(target=send, args=(first, first + EACH))
                going.start()
                time.sleep(moments.uniform(0.0, 2.5))
                apache.kill()
                time.sleep(moments.uniform(0.0, 1.0))
                apache.start()
                going.join()
                for process in (ingester, learner, scorer):
                    assert process.poll() is None, f"kill {kill}: {process.args} ended"
            for future in sent:
                future.get(timeout=240)
        producer.close()
        project.run("ingest", flow.name, "--until-idle")
        project.run("learn", flow.name, "--until-idle")
        project.run(*scoring, "--until-idle", timeout_s=180)

        require_as_undisturbed(flow, store, registry, apache.broker, folder=tmp_path, count=BEFORE + KILLS * EACH)
    finally:
        apache.kill()


def learned_beyond(before: int, store: FeatureStore) -> int:
    """Wait until facts reach the learner again, so that the next kill meets everybody at work; return how many have."""
    status = store.directory / "learner" / "status.json"
    deadline = time.monotonic() + 90
    while not status.exists() or (found := int(json.loads(status.read_text())["watermark"])) <= before:
        assert time.monotonic() < deadline, f"nothing was learned past {before} for 90 s"
        time.sleep(0.1)
    return found


def require_as_undisturbed(
    flow: Flow, store: FeatureStore, registry: Registry, broker: Broker, *, folder: Path, count: int
) -> None:
    """Demand every fact once, the weights of one pass over them, and one score for every row."""
    for kind in ("ordered", "arrived"):
        names = facts_in(store.log, kind).column("order_id").to_pylist()
        assert names == [f"o{number:06d}" for number in range(count)]
    head = registry.head(flow.name)
    assert head is not None
    assert (head.kind, head.watermark) == ("stream", store.progress().next_example)
    package = registry.download(head, folder / "last")
    learned = PipelineModel.load(package / "state", flow.pipeline).state_digest()
    assert learned == undisturbed(flow, store, 0, head.watermark)

    asked = Counter((record.partition, record.offset) for record in everything(broker, feature_topic(flow.name)))
    assert len(asked) > count // 2
    deadline = time.monotonic() + 60  # the broker ends an abandoned transaction in its own time
    while (found := answered(broker, f"{flow.name}.scores", committed=True)) != asked:
        assert time.monotonic() < deadline, (len(asked), len(found), set(found.values()))
        time.sleep(1)

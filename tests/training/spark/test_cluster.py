"""Training on a year of flights, on a standalone cluster of two workers: in sequence, averaged, and with one killed."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flows.flight_delays.load import facts
from ml_core.data import FeatureStore
from ml_core.data.replay import Replay
from ml_core.data.spark import session, tasks
from ml_core.data.spark.session import stop
from ml_core.errors import PlatformError
from ml_core.flow.registry import Registry
from ml_core.flow.verdict import Verdict
from ml_core.flow.version import ModelVersion
from ml_core.pipeline import PipelineModel
from ml_core.project import Flow, SparkTrainingSettings
from ml_core.training import train_full, train_increment
from ml_core.training.evaluation import evidence_of, row_log_loss
from ml_core.training.spark.shards import SavedState, Shard, score
from tests.data.spark.cluster import Cluster, cluster
from tests.data.spark.test_cluster import ROOT, SETTINGS, flow_on
from tests.registries import empty_registry

YEAR_EXAMPLES = 327_346
ACCEPTED = Verdict(accepted=True, policy="first", rows=1, reasons=(), figures={})
AVERAGE = SparkTrainingSettings(mode="average", shards=4, shard_rows=32_768)
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1_200)]


@dataclass
class Year:
    """The examples of a year in a store, and a registry for each way to train on them."""

    home: Path
    registries: dict[str, Registry] = field(default_factory=dict)

    def store(self, flow: Flow) -> FeatureStore:
        return FeatureStore(flow, root=ROOT, home=self.home)

    def registry(self, name: str) -> Registry:
        if name not in self.registries:
            self.registries[name] = Registry(empty_registry(self.home / f"{name}.db"))
        return self.registries[name]

    def full(self, flow: Flow, name: str, **until: datetime) -> ModelVersion:
        return train_full(flow, self.store(flow), self.registry(name), **until)

    def digest(self, version: ModelVersion, name: str, scratch: Path) -> str:
        """Return the digest of a version's whole trainer state."""
        package = self.registry(name).download(version, scratch / f"{name}-{version.version}")
        return PipelineModel.load(package / "state").state_digest()

    def loss(self, version: ModelVersion, name: str, rows: int) -> float:
        """Return the mean log loss of what was said of the newest rows before they were learned."""
        said = evidence_of(self.registry(name), version).last(rows)
        assert said.labels.size == rows
        return float(np.mean(row_log_loss(said.labels, said.scores)))


@pytest.fixture(scope="module")
def year(tmp_path_factory: pytest.TempPathFactory) -> Year:
    made = Year(tmp_path_factory.mktemp("year"))
    store = made.store(flow_on())
    replay = Replay(facts(tmp_path_factory.mktemp("sources")))
    replay.ingest(store.log, replay.end)
    store.absorb()
    assert store.progress().next_example == YEAR_EXAMPLES
    return made


@pytest.fixture(scope="module")
def plain(year: Year) -> ModelVersion:
    """Return the version that a training without Spark makes of the year."""
    return year.full(flow_on(), "plain")


@pytest.fixture(scope="module")
def running(pyspark: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Return a cluster of two workers; the last test of this module kills one."""
    del pyspark
    with cluster(tmp_path_factory.mktemp("cluster"), workers=2, memory="2g") as started:
        yield started
        stop()


def on(running: Cluster, training: SparkTrainingSettings) -> Flow:
    """Return the flow of flights, trained on a cluster."""
    flow = flow_on(spark_master=running.master, spark_settings=SETTINGS)
    return flow.model_copy(update={"spark_training": training})


def test_in_sequence_the_year_has_the_bits_of_a_training_without_spark(
    running: Cluster, year: Year, plain: ModelVersion, tmp_path: Path
) -> None:
    """The package, its weights and its state, whichever machine learned them."""
    flow = on(running, SparkTrainingSettings(mode="sequential", shard_rows=65_536))
    version = year.full(flow, "sequential")
    assert version.manifest_sha256 == plain.manifest_sha256
    assert year.digest(version, "sequential", tmp_path) == year.digest(plain, "plain", tmp_path)
    assert version.metrics == plain.metrics


@pytest.mark.parametrize("training", [AVERAGE, SparkTrainingSettings(mode="sequential")], ids=lambda each: each.mode)
def test_an_increment_continues_the_head_at_its_watermark(
    running: Cluster, year: Year, plain: ModelVersion, training: SparkTrainingSettings, tmp_path: Path
) -> None:
    """What was labelled since October is learned by the child, from its parent's very state, and once."""
    flow, name = on(running, training), f"increment-{training.mode}"
    parent = year.full(flow, name, until=datetime(2013, 10, 1, tzinfo=UTC))
    year.registry(name).promote("flight_delays", parent.version, verdict=ACCEPTED, expected_champion=None)
    child = train_increment(flow, year.store(flow), year.registry(name))
    assert child is not None
    assert (child.parent, child.watermark, child.kind) == (parent.version, YEAR_EXAMPLES, "incremental")
    assert parent.watermark < YEAR_EXAMPLES
    said = evidence_of(year.registry(name), child)
    assert said.next == YEAR_EXAMPLES
    assert said.parent_scores.size == said.labels.size
    if training.mode == "sequential":
        assert said.first == parent.watermark
        assert year.digest(child, name, tmp_path) == year.digest(plain, "plain", tmp_path)
    else:
        assert year.loss(child, name, 20_000) < year.loss(plain, "plain", 20_000) * 1.005


def test_a_folder_that_workers_do_not_have_is_named(running: Cluster, year: Year) -> None:
    """The one thing a cluster needs that one machine does not."""
    flow = on(running, AVERAGE)
    state = SavedState.of(PipelineModel.build(flow.pipeline, year.store(flow).schema()))
    with pytest.raises(PlatformError, match=r"shards.score failed: FileNotFoundError.*only-here.parquet.*spark_folder"):
        tasks.run(flow.data, score, state, [Shard(0, 1, "only-here.parquet")])


def test_averaged_the_year_loses_next_to_nothing_and_a_killed_worker_nothing_at_all(
    running: Cluster, year: Year, plain: ModelVersion, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The same shards give the same bits, on both workers or on the one that is left."""
    flow = on(running, AVERAGE)
    whole = year.full(flow, "whole")
    rows = flow.gate.max_rows
    averaged, sequential = year.loss(whole, "whole", rows), year.loss(plain, "plain", rows)
    assert averaged < sequential * 1.005, f"averaged {averaged:.6f}, in sequence {sequential:.6f}"

    killed, jobs, run = [], [], tasks.run

    def run_and_kill(*arguments: Any) -> list[Any]:
        jobs.append(len(arguments[-1]))
        if len(jobs) == 2:  # the first group that learns side by side
            threading.Timer(0.7, lambda: killed.extend(running.kill(0))).start()
        return run(*arguments)

    monkeypatch.setattr(tasks, "run", run_and_kill)
    survived = year.full(flow, "survived")
    assert jobs[:3] == [1, 4, 4]
    assert killed
    assert running.executors() > 0
    assert failed_tasks(flow) > 0, "no task ran on the worker when it was killed"
    assert survived.manifest_sha256 == whole.manifest_sha256
    assert year.digest(survived, "survived", tmp_path) == year.digest(whole, "whole", tmp_path)


def failed_tasks(flow: Flow) -> int:
    """Return how many tasks of this application failed, those of a lost executor among them."""
    tracker = session.session(flow.data.spark_master, flow.data.spark_settings).sparkContext.statusTracker()
    jobs = [tracker.getJobInfo(job) for job in tracker.getJobIdsForGroup(None)]
    stages = [tracker.getStageInfo(stage) for job in jobs for stage in job.stageIds]
    return sum(stage.numFailedTasks for stage in stages if stage is not None)

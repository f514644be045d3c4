"""The features of the whole year of flights on a standalone cluster, also when a worker is killed in between."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from flows.flight_delays.load import facts
from ml_core.data import FeatureStore
from ml_core.data.replay import Replay
from ml_core.data.spark.session import stop
from ml_core.project import Flow, load_project
from tests.data.spark.cluster import Cluster, cluster

ROOT = Path(__file__).resolve().parents[3]
YEAR_ROWS = 336_776
SETTINGS = {
    "spark.executor.memory": "2g",
    "spark.executor.cores": "1",
    "spark.driver.memory": "2g",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.sql.shuffle.partitions": "8",
    "spark.shuffle.io.maxRetries": "1",  # a killed worker's files are computed anew rather than waited for
    "spark.shuffle.io.retryWait": "1s",
}
pytestmark = [pytest.mark.slow, pytest.mark.timeout(3_000)]


def flow_on(**data: Any) -> Flow:
    """Return the flow of flights with other settings of its data."""
    flow = load_project(ROOT).flow("flight_delays")
    return flow.model_copy(update={"data": flow.data.model_copy(update=data)})


def built(flow: Flow, home: Path, year: dict[str, pa.Table]) -> pa.Table:
    """Return the feature table of the year."""
    store = FeatureStore(flow, root=ROOT, home=home)
    replay = Replay(year)
    replay.ingest(store.log, replay.end)
    store.absorb(join_labels=False)
    with store.reading() as connection:
        return connection.sql("from features order by request_time, key").to_arrow_table()


@pytest.fixture(scope="module")
def year(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pa.Table]:
    """Return the year's facts."""
    return facts(tmp_path_factory.mktemp("sources"))


@pytest.fixture(scope="module")
def expected(year: dict[str, pa.Table], tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    """Return the rows DuckDB builds."""
    return built(flow_on(), tmp_path_factory.mktemp("duckdb"), year)


@pytest.fixture
def running(pyspark: None, tmp_path: Path) -> Iterator[Cluster]:
    """Return a cluster of two workers."""
    del pyspark
    with cluster(tmp_path, workers=2, memory="2g") as started:
        yield started
        stop()


def bits(table: pa.Table) -> list[list[Any]]:
    """Return the columns so that numbers are compared by their bits."""
    return [
        [column.combine_chunks().is_valid(), column.combine_chunks().fill_null(0).view(pa.uint32())]
        if column.type == pa.float32()
        else [column.combine_chunks()]
        for column in table.columns
    ]


def require_same(found: pa.Table, expected: pa.Table) -> None:
    """Demand the same columns, rows, order and bits."""
    assert found.schema == expected.schema
    assert found.num_rows == expected.num_rows == YEAR_ROWS
    different = [
        name
        for name, one, other in zip(found.column_names, bits(found), bits(expected), strict=True)
        if not all(left.equals(right) for left, right in zip(one, other, strict=True))
    ]
    assert different == []


def test_a_cluster_of_two_workers_builds_the_rows_that_duckdb_builds(
    running: Cluster, year: dict[str, pa.Table], expected: pa.Table, tmp_path: Path
) -> None:
    """A model trained on one engine's rows is served with the other's."""
    flow = flow_on(engine="spark", spark_master=running.master, spark_settings=SETTINGS)
    require_same(built(flow, tmp_path / "home", year), expected)
    assert list((tmp_path / "home" / "flows" / "flight_delays" / "spark").iterdir()) == []


def test_a_worker_that_is_killed_in_between_changes_no_row(
    running: Cluster, year: dict[str, pa.Table], expected: pa.Table, tmp_path: Path
) -> None:
    """A night's build on a hundred machines meets one that dies."""
    flow = flow_on(engine="spark", spark_master=running.master, spark_settings=SETTINGS)
    killed: list[int] = []
    watch = threading.Thread(target=when, args=(lambda: at_work(running), lambda: killed.extend(running.kill(0))))
    watch.start()
    found = built(flow, tmp_path / "home", year)
    watch.join(timeout=10)
    assert len(killed) == 1, "no executor ran on the worker when it was killed"
    require_same(found, expected)


def at_work(running: Cluster) -> bool:
    """Whether both executors run and a fifth of the work, some shuffles' files, is done."""
    folder = running.folder
    return running.executors() == 2 and len(list(folder.rglob("shuffle_*.data"))) >= 12


def when(ready: Callable[[], bool], then: Callable[[], object]) -> None:
    """Do something as soon as it is time."""
    until = time.monotonic() + 1_200
    while time.monotonic() < until:
        if ready():
            then()
            return
        time.sleep(0.2)

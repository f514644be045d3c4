"""A flow triggered as its users do: from the UI's own API, by the schedule's tick and by the sensor's tick.

A real webserver and a real daemon run on a DAGSTER_HOME on disk, beside a real MLflow server; the flow is small and
made here, so that seconds are spent on the machinery and not on training.
"""

import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import numpy as np
import pyarrow as pa
import pytest

from ml_core.data import FeatureStore
from ml_core.flow.registry import Registry
from ml_core.project import Project, load_project
from orchestration.processes import Supervisor, answers, free_port, start_mlflow, wait_for_mlflow
from tests.integration.graphql import launch
from tests.registries import empty_registry

ROOT = Path(__file__).parents[2]
START = datetime(2024, 5, 1, tzinfo=UTC)
INSTANT = pa.timestamp("us", tz="UTC")

PROJECT = """
[flows.orders]
description = "Will an order arrive late?"
owners = ["team:shop"]

[flows.orders.data]
loader = "nowhere:facts"
features = "features.sql"
entity = "ordered"
key = "order_id"
request_time = "asked_at"
label_fact = "arrived"
label = "late"
lookback = "2 days"
label_window = "3 days"
starts = 2024-05-01
ends = 2024-05-11

[flows.orders.pipeline]
stages = [{ stage = "hash", columns = ["shop"], bits = 10 }]
estimator = { name = "FTRLClassifier", alpha = 0.5 }

[flows.orders.full_training]
cron = "* * * * *"

[flows.orders.incremental_training]
min_rows = 500

[flows.orders.gate]
min_rows = 100
"""

FEATURES = "select order_id as key, request_time, shop from requests"


@dataclass(frozen=True)
class Running:
    """What a test needs of the running platform."""

    project: Project
    port: int
    instance: dg.DagsterInstance

    def runs(self, **tags: str) -> list[dg.DagsterRun]:
        """Return the runs with these tags."""
        return list(
            self.instance.get_runs(dg.RunsFilter(tags={f"dagster/{name}": value for name, value in tags.items()}))
        )


def ingest(project: Project, days: range) -> None:
    """Drop and absorb the orders of some days, 400 a day; one shop is late far more often."""
    store = FeatureStore(project.flow("orders"), root=project.root, home=project.home)
    for day in days:
        random = np.random.default_rng(day)
        begins = START + timedelta(days=day)
        asked = [begins + timedelta(minutes=int(minute)) for minute in np.sort(random.integers(0, 1_000, 400))]
        shops = random.choice(["north", "south"], 400)
        late = random.random(400) < np.where(shops == "north", 0.7, 0.1)
        keys = [f"{day}-{number}" for number in range(400)]
        arrivals = [instant + timedelta(hours=2) for instant in asked]
        ordered = {"event_time": asked, "known_at": asked, "asked_at": asked}
        arrived = {"event_time": arrivals, "known_at": arrivals}
        tables = {
            "ordered": {name: pa.array(values, INSTANT) for name, values in ordered.items()}
            | {"shop": pa.array(shops)},
            "arrived": {name: pa.array(values, INSTANT) for name, values in arrived.items()} | {"late": pa.array(late)},
        }
        for partition, columns in tables.items():
            facts = pa.table(columns | {"order_id": pa.array(keys)})
            store.log.append(partition, facts, through=begins + timedelta(days=1))
    store.absorb()


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    root = tmp_path_factory.mktemp("project")
    home = root / "var"
    (root / "dagster_project.toml").write_text(PROJECT, encoding="utf-8")
    (root / "features.sql").write_text(FEATURES, encoding="utf-8")
    shutil.copy(ROOT / "workspace.yaml", root)
    dagster_home = home / "dagster"
    dagster_home.mkdir(parents=True)
    (dagster_home / "dagster.yaml").write_text(
        "telemetry: {enabled: false}\nconcurrency: {pools: {default_limit: 1}}\n", encoding="utf-8"
    )
    # the first to open an instance makes its tables: not two processes at once
    with dg.DagsterInstance.from_config(str(dagster_home)) as instance, Supervisor(home) as supervisor:
        mlflow_port, port = free_port(), free_port()
        empty_registry(home / "mlflow" / "mlflow.db")  # the server would spend seconds on its migrations
        tracking_uri = start_mlflow(supervisor, home, mlflow_port)
        environment = {
            "DAGSTER_HOME": str(dagster_home),
            "MODELFLOW_HOME": str(home),
            "MLFLOW_TRACKING_URI": tracking_uri,
        }
        project = load_project(root, environment=environment)
        ingest(project, range(4))
        workspace = ("-w", str(root / "workspace.yaml"))
        for name, command in {
            "webserver": ("dagster-webserver", "-h", "127.0.0.1", "-p", str(port), *workspace),
            "daemon": ("dagster-daemon", "run", *workspace),
        }.items():
            program = str(Path(sys.executable).with_name(command[0]))
            supervisor.start(name, [program, *command[1:]], environment=environment, folder=root)
        wait_for_mlflow(supervisor, mlflow_port)
        supervisor.wait_until("webserver", lambda: answers(port, "/server_info"), timeout_s=180)
        yield Running(project, port, instance)


def eventually(condition: Callable[[], bool], *, what: str, timeout_s: float = 240) -> None:
    """Wait until `condition` holds; fail with `what` when it does not in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.5)


@pytest.mark.timeout(600)
def test_a_flow_is_triggered_from_the_ui_by_its_schedule_and_by_its_sensor(platform: Running) -> None:
    """One story, because the processes take longer to start than all of its acts to play."""
    registry = Registry(platform.project.tracking_uri)

    run_id = launch(platform.port, "orders_full_training")

    def launched() -> bool:
        run = platform.instance.get_run_by_id(run_id)
        assert run is not None
        assert run.status is not dg.DagsterRunStatus.FAILURE
        return run.status is dg.DagsterRunStatus.SUCCESS

    eventually(launched, what=f"the run launched through GraphQL, {run_id}, did not succeed")
    head = registry.head("orders")
    assert head is not None
    assert head.verdict is not None
    assert head.verdict.accepted
    first = min(registry.versions("orders"), key=lambda version: version.version)
    assert platform.instance.get_run_by_id(first.dagster_run_id) is not None

    def scheduled() -> bool:
        runs = platform.runs(schedule_name="orders_nightly")
        return any(run.job_name == "orders_full_training" and run.is_success for run in runs)

    eventually(scheduled, what="the schedule's tick started no full training that succeeded")

    ingest(platform.project, range(4, 7))

    def sensed() -> bool:
        runs = platform.runs(sensor_name="orders_new_labels")
        return any(run.job_name == "orders_incremental_training" and run.is_success for run in runs)

    eventually(sensed, what="the sensor's tick started no increment that succeeded")
    increments = [version for version in registry.versions("orders") if version.kind == "incremental"]
    assert increments
    assert all(version.verdict is not None for version in increments)

    def days_materialised() -> bool:
        return any(run.is_success for run in platform.runs(sensor_name="orders_new_days"))

    eventually(days_materialised, what="the sensor's tick materialised no days")

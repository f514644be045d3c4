"""A project of one small flow, fed by hand, and its sensors ticked against an instance of their own."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pyarrow as pa
import pytest

from ml_core.data import FeatureStore
from ml_core.project import Flow, Project, load_project
from orchestration.definitions import build_definitions
from orchestration.resources import Platform, platform_of
from tests.registries import empty_registry

START = datetime(2024, 5, 1, tzinfo=UTC)
INSTANT = pa.timestamp("us", tz="UTC")

PROJECT = """
[flows.orders]
description = "Will an order arrive late?"
owners = ["team:shop"]

[flows.orders.data]
features = "features.sql"
entity = "ordered"
key = "order_id"
request_time = "asked_at"
label_fact = "arrived"
label = "late"
lookback = "2 days"
label_window = "3 days"
starts = 2024-05-01
ends = 2025-05-01

[flows.orders.pipeline]
stages = [{ stage = "hash", columns = ["shop"], bits = 10 }, { stage = "standardise", columns = ["recent"] }]
estimator = { name = "FTRLClassifier", alpha = 0.5 }

[flows.orders.incremental_training]
min_rows = 100

[flows.orders.gate]
min_rows = 100
"""

FEATURES = """
select o.order_id as key, o.request_time, o.shop,
       (select avg(a.late::integer) from arrived a
        where a.shop = o.shop and a.known_at <= o.request_time
          and a.known_at > o.request_time - interval 1 day)::float as recent
from requests o
"""


def day_of_orders(day: int, rows: int = 60) -> dict[str, pa.Table]:
    """Make the facts of one day: one shop is late far more often, every label comes two hours after its order."""
    random = np.random.default_rng(day)
    begins = START + timedelta(days=day)
    asked = [begins + timedelta(minutes=int(minute)) for minute in np.sort(random.integers(0, 1_000, rows))]
    shops = random.choice(["north", "south"], rows)
    late = random.random(rows) < np.where(shops == "north", 0.8, 0.1)
    arrivals = [instant + timedelta(hours=2) for instant in asked]
    keys = pa.array([f"{day}-{number}" for number in range(rows)])
    ordered = {"event_time": asked, "known_at": asked, "asked_at": asked}
    arrived = {"event_time": arrivals, "known_at": arrivals}
    own = {"order_id": keys, "shop": pa.array(shops)}
    return {
        "ordered": pa.table({name: pa.array(values, INSTANT) for name, values in ordered.items()} | own),
        "arrived": pa.table(
            {name: pa.array(values, INSTANT) for name, values in arrived.items()} | own | {"late": pa.array(late)}
        ),
    }


@dataclass
class World:
    """A project on disk, its flow and a Dagster instance."""

    project: Project
    instance: dg.DagsterInstance
    monkeypatch: pytest.MonkeyPatch

    @property
    def flow(self) -> Flow:
        return self.project.flow("orders")

    @property
    def store(self) -> FeatureStore:
        return FeatureStore(self.flow, root=self.project.root, home=self.project.home)

    @property
    def platform(self) -> Platform:
        return platform_of(self.project)

    @property
    def definitions(self) -> dg.Definitions:
        return build_definitions(self.project)

    def drop(self, days: range, *, rows: int = 60, absorb: bool = False) -> None:
        """Drop the facts of some days into the log, complete through the end of each."""
        store = self.store
        for day in days:
            for kind, facts in day_of_orders(day, rows).items():
                store.log.append(kind, facts, through=START + timedelta(days=day + 1))
        if absorb:
            store.absorb()

    def tick(self, sensor: str, cursor: str | None = None) -> Any:
        """Evaluate a sensor once."""
        definitions = self.definitions
        with dg.build_sensor_context(
            instance=self.instance, cursor=cursor, definitions=definitions, sensor_name=f"orders_{sensor}",
            resources={"platform": self.platform},
        ) as context:  # fmt: skip
            return definitions.get_repository_def().get_sensor_def(f"orders_{sensor}").evaluate_tick(context)

    def run(self, job: str, tags: dict[str, str] | None = None, *, raise_on_error: bool = True) -> Any:
        """Execute a job here and now, as the daemon would have it done."""
        job_def = self.definitions.resolve_job_def(f"orders_{job}")
        return job_def.execute_in_process(instance=self.instance, tags=tags, raise_on_error=raise_on_error)

    def answer(self, tick: Any, job: str) -> None:
        """Execute what a tick asked for."""
        for request in tick.run_requests:
            assert self.run(job, dict(request.tags)).success

    def pretend(self, job: str, status: dg.DagsterRunStatus, tags: dict[str, str]) -> str:
        """Put a run of a job into the instance's history."""
        run = self.instance.create_run_for_job(
            self.definitions.resolve_job_def(f"orders_{job}"), status=status, tags=tags
        )
        return run.run_id


@pytest.fixture
def make_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., World]]:
    """Make worlds, each with a home of its own in the same project."""
    (tmp_path / "dagster_project.toml").write_text(PROJECT, encoding="utf-8")
    (tmp_path / "features.sql").write_text(FEATURES, encoding="utf-8")
    instances: list[dg.DagsterInstance] = []

    def make(home: str = "home") -> World:
        project = load_project(tmp_path, environment={"MODELFLOW_HOME": str(tmp_path / home)})
        assert project.tracking_uri == empty_registry(project.home / "mlflow" / "mlflow.db")
        instances.append(dg.DagsterInstance.ephemeral())
        return World(project, instances[-1], monkeypatch)

    yield make
    for instance in instances:
        instance.dispose()


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    """Return one world."""
    return make_world()

"""Everything at once on one flow: runs, a backfill, sensors, an ingester and a follower, each in its own right.

Dagster's pools would line the runs up; here nothing does but the store's own lock and the registry's own operation.
"""

import multiprocessing
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import dagster as dg
import pytest

from ml_core.flow.registry import Registry
from ml_core.project import Project, load_project
from orchestration.attempts import REFUSED
from orchestration.definitions import build_definitions
from orchestration.processes import Supervisor, free_port, start_mlflow, wait_for_mlflow
from orchestration.resources import platform_of
from serving import LocalPredictor
from tests.orchestration.conftest import World
from tests.orchestration.test_backfill import days_of

DAYS, ROWS = 90, 24
RUNS = [
    ("ingest", days_of(0, DAYS - 1)),
    *(("ingest", days_of(first, first + 29)) for first in (0, 30, 60)),
    *[("incremental_training", {})] * 3,
    *[("full_training", {})] * 2,
]


def run(root: Path, environment: dict[str, str], job: str, tags: dict[str, str]) -> str:
    """Execute one run in a process of its own; return its id."""
    project = load_project(root, environment=environment)
    with dg.DagsterInstance.from_config(environment["DAGSTER_HOME"]) as instance:
        definitions = build_definitions(project, platform_of(project))
        job_def = definitions.resolve_job_def(f"orders_{job}")
        return job_def.execute_in_process(instance=instance, tags=tags, raise_on_error=False).run_id


class Meanwhile:
    """Somebody who does one thing over and over until told to stop, in a thread; what went wrong is kept."""

    def __init__(self, act: Callable[[], None]) -> None:
        self.times = 0
        self.error: Exception | None = None
        self._act, self._stop = act, threading.Event()
        self._thread = threading.Thread(target=self._go)
        self._thread.start()

    def _go(self) -> None:
        while not self._stop.is_set():
            try:
                self._act()
            except Exception as error:  # noqa: BLE001 - told to the test, which fails with it
                self.error = error
                return
            self.times += 1
            self._stop.wait(0.05)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


def new_project(root: Path, tracking_uri: str) -> tuple[Project, dict[str, str]]:
    home, dagster_home = root / "home", root / "dagster"
    dagster_home.mkdir()
    (dagster_home / "dagster.yaml").write_text("telemetry: {enabled: false}\n", encoding="utf-8")
    environment = {
        "MODELFLOW_HOME": str(home),
        "MLFLOW_TRACKING_URI": tracking_uri,
        "DAGSTER_HOME": str(dagster_home),
    }
    return load_project(root, environment=environment), environment


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_nine_runs_an_ingester_the_sensors_and_a_follower_at_once(
    tmp_path: Path, make_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user who backfills three months at noon must not see one lock error, nor lose or double a row."""
    del make_world  # it wrote the project
    with Supervisor(tmp_path / "home") as supervisor:
        port = free_port()
        project, environment = new_project(tmp_path, start_mlflow(supervisor, tmp_path / "home", port))
        wait_for_mlflow(supervisor, port)
        with dg.DagsterInstance.from_config(environment["DAGSTER_HOME"]) as instance:
            world = World(project, instance, monkeypatch)
            world.drop(range(DAYS), rows=ROWS, absorb=True)
            assert world.run("full_training").success
            world.drop(range(DAYS, DAYS + 5), rows=ROWS)

            day = iter(range(DAYS + 5, DAYS + 500))
            dropped = [DAYS + 5]

            def ingest() -> None:
                number = next(day)
                world.drop(range(number, number + 1), rows=ROWS, absorb=True)
                dropped[0] = number + 1
                time.sleep(0.3)

            def tick() -> None:
                for sensor in ("new_days", "new_labels", "retrain", "people"):
                    world.tick(sensor)

            with LocalPredictor(
                project.flow("orders").address,
                tracking_uri=project.tracking_uri,
                cache=tmp_path / "cache",
                poll_interval_s=0.2,
            ) as predictor:
                others = [
                    Meanwhile(ingest),
                    Meanwhile(tick),
                    Meanwhile(lambda: (predictor.predict({"shop": "north", "recent": 0.3}), None)[1]),
                ]
                try:
                    context = multiprocessing.get_context("spawn")
                    with ProcessPoolExecutor(len(RUNS), mp_context=context) as pool:
                        asked = [pool.submit(run, tmp_path, environment, job, tags) for job, tags in RUNS]
                        run_ids = [future.result() for future in asked]
                finally:
                    for other in others:
                        other.stop()

            for other in others:
                assert other.error is None, repr(other.error)
                assert other.times > 1
            for run_id, (job, _) in zip(run_ids, RUNS, strict=True):
                found = instance.get_run_by_id(run_id)
                assert found is not None
                # the gate may refuse what was trained meanwhile; nothing else may stop a run
                assert found.is_success or REFUSED in found.tags, (
                    job,
                    [entry.user_message for entry in instance.all_logs(run_id)][-3:],
                )

            store = world.store
            store.absorb()
            rows = ROWS * dropped[0]
            assert store.progress().next_example == rows, "every label once"
            keys = store.examples(0, rows).column("key").to_pylist()
            assert len(set(keys)) == rows
            waits = [_waited_s(instance, name) for name in ("events", "features")]
            assert max(max(waited) for waited in waits) > 0, "who waited can be seen"

            registry = Registry(project.tracking_uri)
            versions = registry.versions("orders")
            assert [version.stage for version in versions].count("Production") == 1
            assert all(version.verdict is not None for version in versions)
            for version in versions:
                if version.kind == "incremental":
                    assert version.watermark <= rows


def _waited_s(instance: dg.DagsterInstance, name: str) -> list[float]:
    records = instance.fetch_materializations(dg.AssetKey(["orders", name]), limit=1000).records
    found = [record.asset_materialization for record in records]
    return [float(made.metadata["waited_s"].value) for made in found if made is not None]  # type: ignore[arg-type]

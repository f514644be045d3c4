"""What Dagster does about stages: it completes what people moved, and rolls back when it is told to."""

from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest
from mlflow import MlflowClient

from ml_core.flow.registry import Registry, registry_of
from ml_core.flow.version import ModelVersion
from ml_core.project import Project, load_project
from orchestration.definitions import build_definitions
from orchestration.resources import platform_of
from tests.flow.conftest import ACCEPTED, make_package, publish
from tests.orchestration.test_definitions import tick

__all__ = ["make_package", "publish"]  # fixtures

ROOT = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return load_project(ROOT, environment={"MODELFLOW_HOME": str(tmp_path)})


@pytest.fixture
def registry(project: Project, publish: Callable[..., ModelVersion]) -> Registry:
    """Return the project's registry, with three champions of its flow behind each other."""
    found = registry_of(project)
    for number in (1, 2, 3):
        publish(found, number, parent=number - 1 or None, flow="flight_delays")
        found.promote("flight_delays", number, verdict=ACCEPTED, expected_champion=number - 1 or None)
    return found


def test_the_sensor_completes_a_persons_move_and_shows_it(project: Project, registry: Registry) -> None:
    quiet = tick(project, "flight_delays_people")
    assert "as the ledger says" in str(quiet.skip_message)
    client = MlflowClient(registry.tracking_uri, registry.tracking_uri)
    client.set_registered_model_alias("flight_delays", "champion", "1")
    moved = tick(project, "flight_delays_people")
    assert registry.ledger.last("flight_delays").champion == 1
    (observed,) = moved.asset_events
    assert observed.description == "promote of version 1 by someone in MLflow: alias champion was set"


def test_the_rollback_job_serves_an_earlier_version(project: Project, registry: Registry) -> None:
    job = build_definitions(project).resolve_job_def("flight_delays_rollback")
    config = {"ops": {"flight_delays_roll_back": {"config": {"to": 1, "reason": "late planes"}}}}
    with dg.DagsterInstance.ephemeral() as instance:
        result = job.execute_in_process(
            run_config=config, instance=instance, resources={"platform": platform_of(project)}
        )
    entry = registry.ledger.last("flight_delays")
    assert (entry.kind, entry.champion, entry.why) == ("rollback", 1, "late planes")
    assert entry.who == f"Dagster run {result.run_id}"
    head = registry.head("flight_delays")
    assert head is not None
    assert head.version == 1

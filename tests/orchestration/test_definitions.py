"""What a user sees in Dagster: names that stay, and sensors that say why."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from ml_core.data.progress import Progress
from ml_core.data.store import FeatureStore
from ml_core.flow.registry import Registry
from ml_core.flow.version import ModelVersion
from ml_core.project import Project, load_project
from ml_core.training import increment_due
from orchestration.definitions import build_definitions
from orchestration.resources import platform_of

ROOT = Path(__file__).parents[2]
NOW = datetime(2013, 9, 1, tzinfo=UTC)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return load_project(ROOT, environment={"MODELFLOW_HOME": str(tmp_path)})


def version(watermark: int) -> ModelVersion:
    return ModelVersion(
        flow="flight_delays",
        version=3,
        stage="Production",
        kind="full",
        parent=None,
        watermark=watermark,
        trained_through=NOW,
        feature_fingerprint="f",
        manifest_sha256="m",
        dagster_run_id="",
        mlflow_run_id="",
        source="",
        metrics={},
        verdict=None,
    )


def test_the_names_users_know_do_not_change_unnoticed(project: Project) -> None:
    """Renaming an asset or a job breaks its history, its links and people's bookmarks."""
    repository = build_definitions(project).get_repository_def()
    assert sorted(key.to_user_string() for key in repository.asset_graph.get_all_asset_keys()) == [
        "flight_delays/events",
        "flight_delays/features",
        "flight_delays/full_model",
        "flight_delays/incremental_model",
        "flight_delays/served_model",
    ]
    assert sorted(key.name for key in repository.asset_graph.asset_check_keys) == [
        *("drift_features", "drift_loss", "drift_scores"),
        *("examples_can_be_learned", "facts_columns", "facts_fresh", "facts_in_order", "facts_unique", "facts_volume"),
        *("features_in_range", "features_missing", "features_schema", "gate"),
        *("labels_delay", "labels_follow_requests", "labels_rate", "learner_fresh", "learner_lag"),
    ]
    jobs = {name for name in repository.job_names if not name.startswith("__")}
    assert jobs == {
        "flight_delays_drift",
        "flight_delays_ingest",
        "flight_delays_full_training",
        "flight_delays_incremental_training",
        "flight_delays_live_check",
        "flight_delays_retention",
        "flight_delays_rollback",
    }
    assert [schedule.name for schedule in repository.schedule_defs] == [
        "flight_delays_nightly",
        "flight_delays_retention",
    ]
    assert sorted(sensor.name for sensor in repository.sensor_defs) == [
        "flight_delays_drift",
        "flight_delays_learner",
        "flight_delays_live_loss",
        "flight_delays_new_days",
        "flight_delays_new_labels",
        "flight_delays_people",
        "flight_delays_retrain",
    ]


def test_schedule_and_sensors_run_without_being_switched_on(project: Project) -> None:
    repository = build_definitions(project).get_repository_def()
    assert repository.schedule_defs[0].default_status is dg.DefaultScheduleStatus.RUNNING
    assert repository.schedule_defs[0].execution_timezone == "America/New_York"
    assert {sensor.default_status for sensor in repository.sensor_defs} == {dg.DefaultSensorStatus.RUNNING}


@pytest.mark.parametrize(
    ("head", "progress", "due", "reason"),
    [
        (None, Progress(next_example=9_000), False, "its first one is a full training"),
        (version(9_000), Progress(next_example=9_000), False, "nothing labelled past version 3"),
        (version(9_000), Progress(next_example=9_001), False, "1 new labelled rows past version 3, waiting for 6000"),
        (version(9_000), Progress(next_example=15_000), True, "6000 new labelled rows past version 3"),
        (
            version(9_000),
            Progress(next_example=9_001, labelled_through=NOW + timedelta(days=7)),
            True,
            "version 3 is 7 days, 0:00:00 behind the newest label",
        ),
        (
            version(9_000),
            Progress(next_example=9_000, labelled_through=NOW + timedelta(days=70)),
            False,
            "nothing labelled past version 3",
        ),
    ],
)
def test_an_increment_is_due_by_rows_or_by_age_and_says_why(
    project: Project, head: ModelVersion | None, progress: Progress, due: bool, reason: str
) -> None:
    found = increment_due(project.flow("flight_delays"), progress, head)
    assert found.due is due
    assert reason in found.reason


def tick(project: Project, name: str, cursor: str | None = None) -> Any:
    definitions = build_definitions(project)
    sensor = definitions.get_repository_def().get_sensor_def(name)
    with (
        dg.DagsterInstance.ephemeral() as instance,
        dg.build_sensor_context(
            instance=instance,
            cursor=cursor,
            definitions=definitions,
            sensor_name=name,
            resources={"platform": platform_of(project)},
        ) as context,
    ):
        return sensor.evaluate_tick(context)


def test_on_the_first_tick_of_an_empty_home_the_sensors_skip_with_a_reason(project: Project) -> None:
    assert "its first one is a full training" in str(tick(project, "flight_delays_new_labels").skip_message)
    assert "no segment was dropped" in str(tick(project, "flight_delays_new_days").skip_message)


def test_the_label_sensor_asks_once_for_the_same_rows(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run key names the head and the target: the daemon starts one run per key."""
    monkeypatch.setattr(Registry, "head", lambda self, flow: version(9_000))  # noqa: ARG005 - the signature is its
    monkeypatch.setattr(FeatureStore, "progress", lambda self: Progress(next_example=16_000))  # noqa: ARG005
    monkeypatch.setattr(FeatureStore, "fingerprint", lambda self: "f")  # noqa: ARG005
    keys = {tick(project, "flight_delays_new_labels").run_requests[0].run_key for _ in range(2)}
    assert keys == {"3:0:16000#0"}

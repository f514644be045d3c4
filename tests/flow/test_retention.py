"""Retention: what is kept and why, and that what goes is really gone."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from mlflow import MlflowClient

from ml_core.errors import PromotionError, VersionNotFoundError
from ml_core.flow.ledger import Entry
from ml_core.flow.registry import Registry
from ml_core.flow.retention import collect, plan
from ml_core.flow.verdict import Verdict
from ml_core.flow.version import ModelVersion
from ml_core.project import Flow
from tests.data.conftest import orders_flow
from tests.flow.conftest import ACCEPTED, aliases, stages

NOW = datetime(2024, 6, 1, tzinfo=UTC)
REFUSED = Verdict(accepted=False, policy="non-inferiority", rows=9, reasons=("worse",), figures={})


def flow(keep_last: int = 1, keep_for: str = "1 day", max_rows: int = 15) -> Flow:
    settings = orders_flow().model_dump()
    settings |= {"retention": {"keep_last": keep_last, "keep_for": keep_for}, "gate": {"max_rows": max_rows}}
    return Flow.model_validate(settings).model_copy(update={"name": "shop"})


def version(number: int, **changes: object) -> ModelVersion:
    """Make the `number`-th version of a chain, 10 examples after its parent, 10 days old."""
    told: dict[str, object] = {
        "flow": "shop",
        "version": number,
        "stage": "Archived",
        "kind": "incremental",
        "parent": number - 1 or None,
        "watermark": 10 * number,
        "trained_through": NOW,
        "feature_fingerprint": "f",
        "manifest_sha256": "m",
        "dagster_run_id": "",
        "mlflow_run_id": f"run-{number}",
        "source": "",
        "metrics": {},
        "verdict": ACCEPTED,
        "created_at": NOW - timedelta(days=10),
    }
    return ModelVersion(**(told | changes))  # type: ignore[arg-type]


def test_everything_is_kept_for_its_own_reason() -> None:
    versions = [version(number) for number in range(1, 13)]
    versions[0] = version(1, pinned="the audit of May")
    versions[2] = version(3, stage="Staging")
    versions[3] = version(4, created_at=NOW - timedelta(hours=23))
    versions[4] = version(5, verdict=None, stage="None")
    last = Entry("shop", number=1, champion=11, previous=10, challenger=2)
    made = plan(flow(), versions, last, now=NOW)
    assert made.kept == {
        1: "pinned: the audit of May",
        2: "challenger",
        3: "in Staging",
        4: "younger than 1 day, 0:00:00",
        5: "waits to be judged",
        9: "its evidence is the lineage of version 10",
        10: "previous",
        11: "champion",
        12: "among the newest 1",
    }
    assert [each.version for each in made.gone] == [6, 7, 8]


@pytest.mark.parametrize(("max_rows", "ancestors"), [(10, []), (11, [7]), (20, [7]), (21, [7, 6])])
def test_a_parent_is_kept_while_a_retrain_would_be_judged_on_its_rows(max_rows: int, ancestors: list[int]) -> None:
    versions = [version(number) for number in range(1, 10)]
    made = plan(flow(max_rows=max_rows), versions, Entry("shop", number=1, champion=8), now=NOW)
    assert sorted(made.kept) == sorted([8, 9, *ancestors])


def test_an_empty_flow_and_a_young_one_lose_nothing() -> None:
    assert plan(flow(), [], Entry("shop"), now=NOW).gone == []
    young = [version(number, created_at=NOW) for number in range(1, 9)]
    assert plan(flow(), young, Entry("shop"), now=NOW).gone == []


def test_what_goes_is_gone_with_its_artifacts_and_what_stands_stays(
    registry: Registry, publish: Callable[..., ModelVersion]
) -> None:
    for number in (1, 2, 3, 4):
        publish(registry, number, parent=number - 1 or None)
        registry.promote("shop", number, verdict=ACCEPTED, expected_champion=number - 1 or None)
    publish(registry, 5, parent=4)
    registry.refuse("shop", 5, verdict=REFUSED)
    registry.pin("shop", 1, why="the first")
    client = MlflowClient(registry.tracking_uri, registry.tracking_uri)
    doomed = registry.version("shop", 2)
    assert client.list_artifacts(doomed.mlflow_run_id)

    later = datetime.now(UTC) + timedelta(days=2)
    made = collect(flow(max_rows=1), registry, now=later)
    assert [each.version for each in made.gone] == [2]
    assert stages(registry) == {1: "Archived", 3: "Archived", 4: "Production", 5: "Archived"}
    assert aliases(registry) == {"champion": 4, "previous": 3}
    assert client.get_run(doomed.mlflow_run_id).info.lifecycle_stage == "deleted"
    assert client.list_artifacts(doomed.mlflow_run_id) == []
    with pytest.raises(VersionNotFoundError):
        registry.rollback("shop", to=2, why="too late")
    assert registry.ledger.last("shop").kind == "delete"
    assert collect(flow(max_rows=1), registry, now=later).gone == []


def test_what_came_to_stand_since_the_plan_is_not_deleted(
    sqlite: str, publish: Callable[..., ModelVersion], tmp_path: Path
) -> None:
    """Planning and deleting are two moments; a promotion may lie between them."""
    registry = Registry(sqlite)
    doomed = [publish(registry, number) for number in (1, 2)]
    registry.promote("shop", 2, verdict=ACCEPTED, expected_champion=None)
    with pytest.raises(PromotionError, match=r"versions \[2\] stand in a stage"):
        registry.delete("shop", doomed, why="old")
    assert stages(registry) == {1: "None", 2: "Production"}
    assert (tmp_path / "artifacts").is_dir()

"""`modelflow status`: what a person who looks once a day has to see, and nothing that is not so."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import dagster as dg
import pytest
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteInstigatorOrigin, RemoteRepositoryOrigin
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    InstigatorType,
    ScheduleInstigatorData,
)
from typer import Typer
from typer.testing import CliRunner

from orchestration.status import FlowStatus, next_tick, status, statuses
from tests.orchestration.conftest import World

NEW_YORK = ZoneInfo("America/New_York")
NOW = datetime(2024, 6, 1, 12, tzinfo=UTC)


def of(world: World, **broken: str) -> list[FlowStatus]:
    return list(statuses(world.project, world.instance, now=NOW, broken=broken))


def test_a_flow_is_empty_then_ok_and_then_says_what_wants_attention(world: World) -> None:
    (empty,) = of(world)
    assert (empty.health, empty.serves, empty.lag_rows, empty.runs) == ("empty", None, 0, [])
    assert empty.next_full_training is not None

    world.drop(range(4), absorb=True)
    assert world.run("full_training").success
    world.drop(range(4, 5), absorb=True)
    (served,) = of(world)
    assert served.health == "ok", served.reasons
    assert served.serves == served.newest is not None
    assert (served.serves.version, served.serves.kind) == (1, "full")
    assert served.serves.gate.startswith("accepted, first on ")
    learned = world.store.offset_at(served.serves.trained_through + timedelta(microseconds=1))
    assert served.lag_rows == world.store.progress().next_example - learned > 0
    through = world.store.progress().labelled_through
    assert through is not None
    assert served.staleness_s == (through - served.serves.trained_through).total_seconds() > 0
    assert [(run.job, run.status) for run in served.runs] == [("full_training", "success")]

    world.pretend("incremental_training", dg.DagsterRunStatus.FAILURE, {})
    (failed,) = of(world, wrong="flow wrong: dagster_project.toml, line 3: ...")[1:]
    assert failed.health == "attention"
    assert "the last run of incremental_training failed" in failed.reasons[0]
    assert of(world, wrong="line 3")[0] == FlowStatus("wrong", "broken", ["line 3"])


def test_a_failing_check_and_a_stopped_schedule_are_named(world: World) -> None:
    world.drop(range(4), absorb=True)
    failed = dg.AssetCheckEvaluation(
        dg.AssetKey(["orders", "features"]), "examples_can_be_learned", passed=False, metadata={}
    )
    world.instance.report_runless_asset_event(failed)
    (found,) = of(world)
    assert found.failing_checks == ["examples_can_be_learned"]
    assert found.health == "attention"

    stopped = InstigatorState(
        RemoteInstigatorOrigin(
            RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("modelflow"), "__repository__"), "orders_nightly"
        ),
        InstigatorType.SCHEDULE,
        InstigatorStatus.STOPPED,
        ScheduleInstigatorData("30 3 * * *"),
    )
    with dg.instance_for_test() as instance:
        instance.add_instigator_state(stopped)
        (found,) = statuses(world.project, instance, now=NOW, broken={})
    assert found.reasons == ["the schedule orders_nightly is stopped"]
    assert found.next_full_training is None


@pytest.mark.parametrize(
    ("cron", "after", "ticks"),
    [
        # 02:30 does not exist on 10 March: the night still has its training, at 03:00 of the new time
        ("30 2 * * *", datetime(2024, 3, 9, 12, tzinfo=NEW_YORK), ["03-10 03:00-0400", "03-11 02:30-0400"]),
        # 01:30 comes twice on 3 November: one training, the second time
        ("30 1 * * *", datetime(2024, 11, 2, 12, tzinfo=NEW_YORK), ["11-03 01:30-0500", "11-04 01:30-0500"]),
        ("30 3 * * *", datetime(2024, 3, 9, 12, tzinfo=NEW_YORK), ["03-10 03:30-0400", "03-11 03:30-0400"]),
    ],
)
def test_a_night_has_one_training_also_where_the_clocks_change(
    world: World, cron: str, after: datetime, ticks: list[str]
) -> None:
    """Neither skipped in spring nor made twice in autumn."""
    flow = world.flow.model_copy(
        update={"full_training": world.flow.full_training.model_copy(update={"cron": cron, "time_zone": NEW_YORK.key})}
    )
    at, found = after, []
    for _ in ticks:
        at = next_tick(flow, at)
        found.append(at.astimezone(NEW_YORK).strftime("%m-%d %H:%M%z"))
    assert found == ticks


def test_the_command_prints_a_flow_for_people_and_for_programs(
    make_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    world = make_world()
    world.drop(range(4), absorb=True)
    assert world.run("full_training").success
    monkeypatch.chdir(world.project.root)
    monkeypatch.setenv("MODELFLOW_HOME", str(world.project.home))
    app = Typer()
    app.command()(status)
    shown = CliRunner().invoke(app, [])
    assert shown.exit_code == 0, shown.output
    for part in ("orders", "version 1 (full)", "accepted, first on", "start an increment", "full training"):
        assert part in shown.output
    assert not (tmp_path / "home" / "dagster").exists(), "looking makes nothing"
    told = json.loads(CliRunner().invoke(app, ["orders", "--json"]).output)
    assert set(told) == set(FlowStatus.__dataclass_fields__)
    assert told["serves"]["version"] == 1

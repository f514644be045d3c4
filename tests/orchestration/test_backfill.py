"""A backfilled history equals the live one row for row, and running days again changes nothing."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import dagster as dg
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from tests.orchestration.conftest import START, World, day_of_orders


def history(count: int) -> dict[str, pa.Table]:
    """Return the facts of so many days in the order they became known; some labels take up to four days."""
    end = START + timedelta(days=count)
    days = [day_of_orders(day, rows=12) for day in range(count)]
    random = np.random.default_rng(7)
    facts = {}
    for kind in ("ordered", "arrived"):
        table = pa.concat_tables([day[kind] for day in days])
        if kind == "arrived":
            waits = random.choice([0, 1, 30, 96], table.num_rows) * 3_600_000_000
            known = pc.add(table.column("known_at"), pa.array(waits, pa.duration("us")))
            table = table.set_column(table.schema.get_field_index("known_at"), "known_at", known)
        facts[kind] = table.sort_by("known_at").filter(pc.less_equal(table.sort_by("known_at")["known_at"], end))
    return facts


def everything(world: World) -> tuple[pa.Table, pa.Table, Any]:
    """Return the feature table, the examples and the progress of a world."""
    store = world.store
    progress = store.progress()
    rows = store.feature_rows(START, START + timedelta(days=200)).sort_by(
        [("request_time", "ascending"), ("key", "ascending")]
    )
    return rows, store.examples(0, progress.next_example), progress


def days_of(first: int, last: int) -> dict[str, str]:
    """Return the tags that the UI gives the run of a backfill over a range of days."""
    bounds = {"start": first, "end": last}
    return {
        f"dagster/asset_partition_range_{name}": (START + timedelta(days=day)).date().isoformat()
        for name, day in bounds.items()
    }


@pytest.mark.parametrize("count", [30, pytest.param(120, marks=pytest.mark.slow)])
def test_a_backfilled_history_equals_the_live_one_row_for_row(make_world: Callable[..., World], count: int) -> None:
    """The live flow took facts in as they came, at any minute; the other finds months of them at once."""
    facts, end = history(count), START + timedelta(days=count)
    live, late = make_world("live"), make_world("late")
    random = np.random.default_rng(11)
    before = START - timedelta(days=1)
    cuts = [START + timedelta(minutes=int(minute)) for minute in np.sort(random.integers(1, count * 1440, count // 4))]
    for number, cut in enumerate([*cuts, end]):
        for kind, table in facts.items():
            known = table.column("known_at")
            fresh = table.filter(pc.and_(pc.greater(known, before), pc.less_equal(known, cut)))
            live.store.log.append(kind, fresh, through=cut)
        if number % 10 == 0:
            live.answer(live.tick("new_days"), "ingest")
        live.store.absorb()
        before = cut
    live.answer(live.tick("new_days"), "ingest")

    for kind, table in facts.items():
        late.store.log.append(kind, table, through=end)
    assert late.run("ingest", days_of(0, count - 1)).success

    assert live.store.progress().late_labels > 0, "some labels came after their window"
    assert everything(late)[:2] == everything(live)[:2]
    assert everything(late)[2].next_example == everything(live)[2].next_example > count
    for world in (live, late):
        done = world.instance.get_materialized_partitions(dg.AssetKey(["orders", "features"]))
        assert len(done) == count


def test_running_days_again_changes_nothing(world: World) -> None:
    """A person who is not sure clicks "materialize" once more."""
    world.drop(range(6))
    assert world.run("ingest", days_of(0, 5)).success
    before = everything(world)
    counted = metadata(world, "2024-05-03")
    assert world.run("ingest", days_of(2, 2)).success
    assert world.run("ingest", days_of(0, 5)).success
    assert everything(world) == before
    assert metadata(world, "2024-05-03") == counted


def test_a_late_fact_changes_only_what_is_asked_for_after_it(world: World) -> None:
    """A day that was reported is closed: its rows were served, and a model learned from them."""
    world.drop(range(4))
    assert world.run("ingest", days_of(0, 3)).success
    rows, examples, _ = everything(world)
    late = day_of_orders(1, rows=3)
    late["ordered"] = late["ordered"].set_column(3, "order_id", pa.array(["late-0", "late-1", "late-2"]))
    world.store.log.append("ordered", late["ordered"], through=START + timedelta(days=5))
    world.store.log.append("arrived", day_of_orders(4)["arrived"], through=START + timedelta(days=5))
    assert world.run("ingest", days_of(4, 4)).success
    again, grown, progress = everything(world)
    closed = pc.less(again.column("request_time"), pa.scalar(START + timedelta(days=4), again.schema[1].type))
    assert again.filter(closed) == rows
    assert grown.slice(0, examples.num_rows) == examples
    assert progress.late_facts == 3
    assert world.run("ingest", days_of(1, 1)).success
    assert everything(world)[0] == again


def metadata(world: World, day: str) -> tuple[int, int]:
    """Return the rows last reported of a day's events and features."""
    found = []
    for name in ("events", "features"):
        records = world.instance.fetch_materializations(
            dg.AssetRecordsFilter(asset_key=dg.AssetKey(["orders", name]), asset_partitions=[day]), limit=1
        ).records
        materialization = records[0].asset_materialization
        assert materialization is not None
        found.append(int(materialization.metadata["dagster/partition_row_count"].value))  # type: ignore[arg-type]
    return found[0], found[1]

"""The checks of the newest day: each passes on ordinary days, and fails on the day that is spoilt in its way."""

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from ml_core.data import FeatureStore
from ml_core.project import Flow, load_project
from ml_core.training.quality import (
    BLOCKING,
    FACT_CHECKS,
    FEATURE_CHECKS,
    Finding,
    check_facts,
    check_features,
    unusual,
)
from tests.orchestration.conftest import FEATURES, PROJECT, START, day_of_orders

DAYS = 10
Facts = dict[str, pa.Table]


def replaced(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), name, values)


def shifted(table: pa.Table, name: str, by: timedelta) -> pa.Array:
    return pc.add(table[name], pa.scalar(by, pa.duration("us")))


def without_shop(facts: Facts) -> Facts:
    ordered = facts["ordered"]
    return facts | {"ordered": replaced(ordered, "shop", pa.nulls(ordered.num_rows, pa.string()))}


def few(facts: Facts) -> Facts:
    return {kind: table.slice(0, 5) for kind, table in facts.items()}


def twice(facts: Facts) -> Facts:
    arrived = facts["arrived"]
    return facts | {"arrived": pa.concat_tables([arrived, arrived.slice(arrived.num_rows - 3)])}


def known_before(facts: Facts) -> Facts:
    arrived = facts["arrived"]
    return facts | {"arrived": replaced(arrived, "event_time", shifted(arrived, "known_at", timedelta(minutes=5)))}


def known_when_asked(facts: Facts) -> Facts:
    """Labels that were known before anybody asked: what predicts them may be the answer."""
    return at(facts, [instant - timedelta(minutes=1) for instant in facts["ordered"]["known_at"].to_pylist()])


def slow(facts: Facts) -> Facts:
    last = START + timedelta(days=DAYS + 1, seconds=-1)
    return at(facts, [min(i + timedelta(hours=9), last) for i in facts["arrived"]["known_at"].to_pylist()])


def at(facts: Facts, known: list[datetime]) -> Facts:
    """Let the labels be known at other instants, and happen then."""
    instants = pa.array(known, facts["arrived"]["known_at"].type)
    arrived = replaced(replaced(facts["arrived"], "known_at", instants), "event_time", instants)
    return facts | {"arrived": arrived.sort_by("known_at")}


def all_late(facts: Facts) -> Facts:
    arrived = facts["arrived"]
    return facts | {"arrived": replaced(arrived, "late", pa.array(np.ones(arrived.num_rows, bool)))}


def nothing(facts: Facts) -> Facts:
    return {kind: table.slice(0, 0) for kind, table in facts.items()}


@pytest.fixture
def flow(tmp_path: Path) -> Flow:
    (tmp_path / "dagster_project.toml").write_text(PROJECT, encoding="utf-8")
    return load_project(tmp_path, environment={"MODELFLOW_HOME": str(tmp_path / "home")}).flow("orders")


def found(flow: Flow, root: Path, *last: Facts, features: str = FEATURES) -> dict[str, Finding]:
    """Let ten ordinary days and the `last` ones pass; return what the checks find then."""
    (root / "features.sql").write_text(features, encoding="utf-8")
    store = FeatureStore(flow, root=root, home=root / "home")
    for day, facts in enumerate([*(day_of_orders(day) for day in range(DAYS)), *last]):
        for kind, table in facts.items():
            store.log.append(kind, table, through=START + timedelta(days=day + 1))
    store.absorb()
    return {each.name: each for each in [*check_facts(flow, store), *check_features(flow, store)]}


def test_an_ordinary_day_passes_every_check(flow: Flow, tmp_path: Path) -> None:
    checked = found(flow, tmp_path, day_of_orders(DAYS))
    assert tuple(checked) == (*FACT_CHECKS, *FEATURE_CHECKS)
    assert [each.said for each in checked.values() if not each.passed] == []
    assert checked["labels_delay"].figures["newest"] == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("spoil", "failing"),
    [
        (without_shop, {"facts_columns", "features_missing"}),
        (few, {"facts_volume"}),
        (twice, {"facts_unique"}),
        (known_before, {"facts_in_order"}),
        (known_when_asked, {"labels_follow_requests"}),
        (slow, {"labels_delay"}),
        (all_late, {"labels_rate"}),
    ],
)
def test_a_day_spoilt_in_one_way_fails_the_check_for_it(
    flow: Flow, tmp_path: Path, spoil: Callable[[Facts], Facts], failing: set[str]
) -> None:
    """The sentence names what was found, so that nobody has to look for it in the tables."""
    checked = found(flow, tmp_path, spoil(day_of_orders(DAYS)))
    assert failing <= {name for name, each in checked.items() if not each.passed}
    expected = next(iter(failing - {"features_missing"}))
    assert "allowed" in checked[expected].said or "shop" in checked[expected].said


def test_days_without_facts_are_silence(flow: Flow, tmp_path: Path) -> None:
    empty = nothing(day_of_orders(0))
    checked = found(flow, tmp_path, empty, empty, empty, empty)
    assert not checked["facts_fresh"].passed
    assert "no facts of arrived, ordered for more than 48 hours" in checked["facts_fresh"].said
    assert not checked["facts_volume"].passed


def test_numbers_out_of_range_and_a_column_the_pipeline_lacks_are_named(flow: Flow, tmp_path: Path) -> None:
    first = (START + timedelta(days=DAYS)).isoformat()
    factor = f"case when o.request_time >= timestamptz '{first}' then 100 else 1 end"
    grown = FEATURES.replace("late::integer", f"late::integer * ({factor})")
    checked = found(flow, tmp_path, day_of_orders(DAYS), features=grown)
    assert not checked["features_in_range"].passed
    assert "`recent`" in checked["features_in_range"].said
    stages = [{"stage": "standardise", "columns": ["recnt"]}]
    wrong = flow.model_copy(update={"pipeline": flow.pipeline.model_copy(update={"stages": stages})})
    store = FeatureStore(wrong, root=tmp_path, home=tmp_path / "home")
    schema = next(each for each in check_features(wrong, store) if each.name == "features_schema")
    assert not schema.passed
    assert "pipeline.stages[0]" in schema.said
    assert "features_schema" in BLOCKING


def test_before_the_first_facts_nothing_is_called_wrong(flow: Flow, tmp_path: Path) -> None:
    (tmp_path / "features.sql").write_text(FEATURES, encoding="utf-8")
    store = FeatureStore(flow, root=tmp_path, home=tmp_path / "home")
    assert all(each.passed for each in [*check_facts(flow, store), *check_features(flow, store)])


def test_unusual_counts_robust_deviations() -> None:
    history = [100.0, 102.0, 98.0, 101.0, 99.0, 100.0, 5_000.0]
    assert unusual(history, 110.0) == pytest.approx(10 / 5), "one wild day before does not hide the next"
    assert unusual([1.0, 2.0, 3.0, 4.0, 5.0], 3.0 + 3 * 1.4826) == pytest.approx(3.0)

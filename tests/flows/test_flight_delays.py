"""The flights flow: clocks of the source, and features that know nothing before it is known."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from flows.flight_delays.load import facts
from ml_core.data import FeatureStore
from ml_core.data.replay import Replay
from ml_core.project import Flow, load_project

START, END = datetime(2013, 3, 4, tzinfo=UTC), datetime(2013, 3, 16, tzinfo=UTC)
ROOT = Path(__file__).parents[2]
Facts = Mapping[str, pa.Table]


@pytest.fixture(scope="session")
def year(tmp_path_factory: pytest.TempPathFactory) -> Facts:
    return facts(tmp_path_factory.mktemp("sources"))


@pytest.fixture(scope="session")
def fortnight(year: Facts) -> Facts:
    """Twelve days over the night New York's clocks went forward."""
    return {
        name: table.filter(pc.and_(pc.greater(table["known_at"], START), pc.less_equal(table["known_at"], END)))
        for name, table in year.items()
    }


@pytest.fixture
def flow() -> Flow:
    return load_project(ROOT, environment={}).flow("flight_delays")


def built(flow: Flow, home: Path, tables: Facts, *, root: Path = ROOT) -> pa.Table:
    """Absorb all facts at once and return the feature table."""
    store = FeatureStore(flow, root=root, home=home)
    Replay(tables).ingest(store.log, END)
    store.absorb()
    return store.feature_rows(START, END)


def test_the_whole_year_is_read_and_nothing_twice(year: Facts) -> None:
    """Lost or doubled flights would shift every count a user compares with the source."""
    scheduled, landed = year["scheduled"], year["landed"]
    assert scheduled.num_rows == 336_776 == pc.count_distinct(scheduled["flight_key"]).as_py()
    assert year["departed"].num_rows == 336_776 - 8_255
    assert landed.num_rows - landed["late"].null_count == 327_346
    assert landed["late"].null_count == 717


def test_facts_are_handed_over_in_the_order_they_became_known(year: Facts) -> None:
    for table in year.values():
        known = table["known_at"].cast(pa.int64()).to_numpy()
        assert (np.diff(known) >= 0).all()


@pytest.mark.parametrize(
    ("key", "departed", "landed"),
    [
        # an ordinary flight: EWR 05:15 local, two minutes late; IAH 08:30 Central
        (
            "2013-01-01T10:15 UA1545 EWR-IAH",
            datetime(2013, 1, 1, 10, 17, tzinfo=UTC),
            datetime(2013, 1, 1, 14, 30, tzinfo=UTC),
        ),
        # past midnight, into a zone that is four hours off and missing from the source's airports
        (
            "2013-01-02T04:59 B6727 JFK-BQN",
            datetime(2013, 1, 2, 4, 56, tzinfo=UTC),
            datetime(2013, 1, 2, 8, 25, tzinfo=UTC),
        ),
    ],
)
def test_local_readings_become_the_right_instants(year: Facts, key: str, departed: datetime, landed: datetime) -> None:
    scheduled = year["scheduled"].filter(pc.equal(year["scheduled"]["flight_key"], key))
    assert scheduled.num_rows == 1
    found = [
        year[name].filter(pc.equal(year[name]["flight_key"], key))["known_at"][0].as_py()
        for name in ("departed", "landed")
    ]
    assert found == [departed, landed]


def test_no_flight_lands_before_it_left(year: Facts) -> None:
    """A wrong zone or a missed midnight shows here first."""
    left = year["departed"].select(["flight_key", "known_at"])
    labelled = year["landed"].filter(pc.is_valid(year["landed"]["late"]))  # a diverted flight may land a day later
    came = labelled.select(["flight_key", "known_at"]).rename_columns(["flight_key", "came"])
    both = left.join(came, "flight_key", join_type="inner")
    minutes = pc.divide(pc.subtract(both["came"], both["known_at"]).cast(pa.int64()), 60_000_000).to_numpy()
    assert both.num_rows == 327_346
    assert minutes.min() >= 20
    assert minutes.max() <= 16 * 60


def perturbed(tables: Facts, cut: datetime, seed: int) -> dict[str, pa.Table]:
    """Change every outcome known after `cut`: values, labels, and whether the fact exists at all."""
    random = np.random.default_rng(seed)
    changed = {}
    for name, table in tables.items():
        later = pc.greater(table["known_at"], cut).to_numpy()
        columns = {}
        for field in table.schema:
            column = table[field.name]
            if pa.types.is_integer(field.type) or pa.types.is_floating(field.type):
                noise = random.integers(-400, 400, table.num_rows)
                values = pc.if_else(pa.array(later), pa.array(noise).cast(field.type), column.combine_chunks())
                columns[field.name] = values
            elif pa.types.is_boolean(field.type):
                flips = pa.array(random.random(table.num_rows) < 0.5)
                columns[field.name] = pc.if_else(pa.array(later), flips, column.combine_chunks())
            else:
                columns[field.name] = column
        kept = ~later | (random.random(table.num_rows) < 0.7) if name != "scheduled" else np.ones(len(later), bool)
        # what was scheduled is known a day ahead: it is the outcomes that are not
        source = table if name == "scheduled" else pa.table(columns, schema=table.schema)
        changed[name] = source.filter(pa.array(kept))
    return changed


def moved(before: pa.Table, after: pa.Table, cut: datetime) -> list[str]:
    """Name the features of rows requested by `cut` that differ."""
    earlier = [table.filter(pc.less_equal(table["request_time"], cut)) for table in (before, after)]
    assert earlier[0].num_rows == earlier[1].num_rows > 0
    return [name for name in before.column_names if not earlier[0][name].equals(earlier[1][name])]


@pytest.fixture
def cuts() -> Iterator[datetime]:
    random = np.random.default_rng(3)
    return (START + timedelta(days=9) + timedelta(minutes=int(m)) for m in random.integers(0, 2 * 24 * 60, 3))


def test_no_feature_moves_when_everything_after_a_cut_changes(
    flow: Flow, fortnight: Facts, cuts: Iterator[datetime], tmp_path: Path
) -> None:
    """A feature that used a later outcome would look brilliant here and fail in production."""
    before = built(flow, tmp_path / "true", fortnight)
    for seed, cut in enumerate(cuts):
        after = built(flow, tmp_path / str(seed), perturbed(fortnight, cut, seed))
        assert moved(before, after, cut) == []


def test_the_same_test_finds_a_planted_leak(flow: Flow, fortnight: Facts, tmp_path: Path) -> None:
    """Without this, the test above could pass because it sees nothing."""
    definition = (ROOT / flow.data.features).read_text(encoding="utf-8")
    guard = "where landed.known_at <= request_time and landed.known_at > request_time - interval 4 hour"
    assert guard in definition
    leaking = definition.replace(
        guard,
        "where landed.known_at <= request_time + interval 1 hour and landed.known_at > request_time - interval 4 hour",
    ).replace("unnest(range(5)) as known_hour", "unnest(range(-1, 5)) as known_hour")
    planted = tmp_path / "planted" / flow.data.features
    planted.parent.mkdir(parents=True)
    planted.write_text(leaking, encoding="utf-8")
    cut = START + timedelta(days=9, hours=18)
    before = built(flow, tmp_path / "true", fortnight, root=tmp_path / "planted")
    after = built(flow, tmp_path / "changed", perturbed(fortnight, cut, 1), root=tmp_path / "planted")
    assert "arrival_delay_2h" in moved(before, after, cut)


def test_growing_in_any_steps_gives_the_table_a_rebuild_gives(flow: Flow, fortnight: Facts, tmp_path: Path) -> None:
    """Row for row and bit for bit: otherwise a served row and a trained row could differ."""
    whole = FeatureStore(flow, root=ROOT, home=tmp_path / "whole")
    Replay(fortnight).ingest(whole.log, END)
    whole.absorb()
    grown = FeatureStore(flow, root=ROOT, home=tmp_path / "grown")
    replay, random = Replay(fortnight), np.random.default_rng(5)
    at = START + timedelta(days=5)
    while at < END:
        for _ in range(2):  # a session for every other step
            at = min(at + timedelta(minutes=int(random.integers(1, 900))), END)
            replay.ingest(grown.log, at)
            grown.absorb()
        with grown.session():
            for _ in range(3):
                at = min(at + timedelta(minutes=int(random.integers(1, 900))), END)
                replay.ingest(grown.log, at)
                grown.absorb(join_labels=bool(random.integers(2)))
    grown.absorb()
    assert grown.progress() == whole.progress()
    assert grown.feature_rows(START, END).equals(whole.feature_rows(START, END))
    last = whole.progress().next_example
    assert last > 5_000
    assert grown.examples(0, last).equals(whole.examples(0, last))
    grown.rebuild()
    assert grown.feature_rows(START, END).equals(whole.feature_rows(START, END))


def test_the_schema_holds_enough_features_of_both_kinds(flow: Flow, fortnight: Facts, tmp_path: Path) -> None:
    store = FeatureStore(flow, root=ROOT, home=tmp_path)
    Replay(fortnight).ingest(store.log, END)
    store.absorb()
    schema = store.schema()
    assert len(schema) >= 40
    assert set(schema.values()) == {"string", "float"}

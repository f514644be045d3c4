"""The feature store's rules, on a flow small enough to check by hand."""

import json
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest

from ml_core.data import FeatureStore
from ml_core.data.lock import locked
from ml_core.errors import DataError, FeatureError, SegmentError, StoreBusyError
from tests.data.conftest import arrived, at, ordered

MakeStore = Callable[..., FeatureStore]


def drop(store: FeatureStore, through: float, *, orders: list = [], arrivals: list = []) -> None:  # noqa: B006 - read only
    """Append one segment to each partition."""
    store.log.append("ordered", ordered(*orders), through=at(through))
    store.log.append("arrived", arrived(*arrivals), through=at(through))


def rows(store: FeatureStore) -> dict[str, float | None]:
    table = store.feature_rows(at(-10_000), at(10_000))
    return dict(zip(table["key"].to_pylist(), table["recent_days"].to_pylist(), strict=True))


def test_a_row_appears_when_the_clock_reaches_its_request_labelled_or_not(make_store: MakeStore) -> None:
    store = make_store()
    drop(store, 30, orders=[("a", "x", 10, 0), ("b", "x", 60, 0)])
    assert store.absorb().feature_rows == 1
    assert set(rows(store)) == {"a"}
    drop(store, 60)
    assert store.absorb().feature_rows == 1
    assert set(rows(store)) == {"a", "b"}


def test_examples_stand_in_one_order_whatever_order_they_came_in(make_store: MakeStore) -> None:
    """Ties in the label's instant are broken by key; offsets are dense from zero."""
    store = make_store()
    orders = [(key, "x", 1, 0) for key in "dcba"]
    drop(store, 30, orders=orders, arrivals=[("c", "x", 1, 20), ("a", "x", 5, 20), ("b", "x", 1, 25)])
    store.absorb()
    drop(store, 60, arrivals=[("d", "x", 9, 40)])
    store.absorb()
    examples = store.examples(0, 4)
    assert examples["key"].to_pylist() == ["a", "c", "b", "d"]
    assert examples["offset"].to_pylist() == [0, 1, 2, 3]
    assert examples["label"].to_pylist() == [1.0, 0.0, 0.0, 1.0]
    assert store.progress().next_example == 4
    assert store.offset_at(at(25)) == 2


def test_a_late_fact_changes_only_rows_requested_after_it(make_store: MakeStore) -> None:
    """It is stamped with the first instant after the clock, and counted."""
    store = make_store()
    orders = [("a", "x", 10, 0), ("b", "x", 50, 0)]
    drop(store, 40, orders=orders)
    store.absorb()
    drop(store, 60, arrivals=[("z", "x", 4, 5)])  # known at minute 5, delivered after minute 40
    assert store.absorb().late_facts == 1
    assert rows(store) == {"a": None, "b": 4.0}
    assert store.progress().late_facts == 1
    store.rebuild()
    assert rows(store) == {"a": None, "b": 4.0}


def test_the_first_label_of_an_entity_counts(make_store: MakeStore) -> None:
    store = make_store()
    drop(store, 30, orders=[("a", "x", 1, 0)], arrivals=[("a", "x", 1, 20)])
    store.absorb()
    drop(store, 60, arrivals=[("a", "x", 9, 40)])
    assert store.absorb().examples == 0
    assert store.examples(0, 1)["label"].to_pylist() == [0.0]


def test_a_label_known_before_its_request_waits_for_it(make_store: MakeStore) -> None:
    """An example exists once label and features both do."""
    store = make_store()
    drop(store, 30, orders=[("a", "x", 50, 0)], arrivals=[("a", "x", 1, 20)])
    assert store.absorb().examples == 0
    drop(store, 60)
    assert store.absorb().examples == 1
    assert store.examples(0, 1)["labelled_at"].to_pylist() == [at(50)]


def test_labels_left_to_a_later_call_are_joined_by_it(make_store: MakeStore) -> None:
    store = make_store()
    drop(store, 30, orders=[("a", "x", 1, 0)])
    store.absorb()
    drop(store, 60, orders=[("b", "x", 40, 0)], arrivals=[("a", "x", 1, 50)])
    assert store.absorb(join_labels=False).examples == 0
    drop(store, 90, arrivals=[("b", "x", 1, 80)])
    assert store.absorb(join_labels=False).examples == 0
    assert store.progress().joined_through == at(30)
    assert store.absorb().examples == 2  # with no new fact
    assert store.examples(0, 2)["labelled_at"].to_pylist() == [at(50), at(80)]
    assert store.progress().joined_through is None


def test_a_label_after_the_window_is_counted_not_joined(make_store: MakeStore) -> None:
    store = make_store()
    drop(store, 30, orders=[("a", "x", 10, 0)])
    store.absorb()
    four_days = 4 * 24 * 60
    drop(store, four_days + 60, arrivals=[("a", "x", 9, four_days)])
    assert store.absorb().examples == 0
    assert store.progress().late_labels == 1


def test_a_null_label_is_no_example(make_store: MakeStore) -> None:
    store = make_store()
    drop(store, 30, orders=[("a", "x", 1, 0)], arrivals=[("a", "x", None, 20)])
    assert store.absorb().examples == 0


def test_absorbing_twice_changes_nothing(make_store: MakeStore) -> None:
    store = make_store()
    drop(store, 30, orders=[("a", "x", 1, 0)], arrivals=[("a", "x", 1, 20)])
    store.absorb()
    before = store.progress()
    assert store.absorb().facts == 0
    assert store.progress() == before


def test_nothing_is_taken_in_before_every_needed_partition_is_there(make_store: MakeStore) -> None:
    """Facts taken in without a clock would be forgotten by the offsets, and taken in twice."""
    store = make_store()
    store.log.append("ordered", ordered(("a", "x", 1, 0)), through=at(30))
    assert store.absorb().facts == 0
    store.log.append("arrived", arrived(("a", "x", 1, 20)), through=at(30))
    assert store.absorb().facts == 2


def test_broken_sql_takes_nothing_in_and_names_the_file(make_store: MakeStore, tmp_path: Path) -> None:
    store = make_store()
    definition = (tmp_path / "features.sql").read_text(encoding="utf-8")
    (tmp_path / "features.sql").write_text("select nonsense from requests", encoding="utf-8")
    drop(store, 30, orders=[("a", "x", 1, 0)])
    with pytest.raises(FeatureError, match=r"features\.sql.*nonsense"):
        store.absorb()
    (tmp_path / "features.sql").write_text(definition, encoding="utf-8")
    assert store.absorb().feature_rows == 1


@pytest.mark.parametrize(
    ("definition", "complaint"),
    [
        ("select order_id, request_time, shop from requests", "`key` and `request_time` first"),
        ("select order_id as key, request_time, 1::bigint as n from requests", "'n' as VARCHAR or FLOAT, found BIGINT"),
        ("select order_id as key, request_time, shop from requests, range(2)", "one row for each of 1 requests"),
    ],
)
def test_a_feature_table_that_breaks_its_contract_is_refused(
    make_store: MakeStore, tmp_path: Path, definition: str, complaint: str
) -> None:
    store = make_store()
    (tmp_path / "features.sql").write_text(definition, encoding="utf-8")
    drop(store, 30, orders=[("a", "x", 1, 0)])
    with pytest.raises(FeatureError, match=complaint):
        store.absorb()


@pytest.mark.parametrize(
    ("expression", "complaint"),
    [
        ("(select content from read_text('/etc/hostname'))", "Permission"),
        ("(select any_value(file) from glob('/etc/*'))", "Permission"),
        ("(select any_value(column0) from '/etc/passwd.csv')", "Permission"),
        ("'a' from requests; attach 'elsewhere.duckdb'; select 'a'", "a select, found select, attach, select"),
        ("'a' from requests; copy (select 1) to 'x.csv'; select 'a'", "a select, found select, copy, select"),
    ],
)
def test_features_see_the_flows_tables_and_nothing_else_of_the_machine(
    make_store: MakeStore, tmp_path: Path, expression: str, complaint: str
) -> None:
    """What may write the project's SQL is not what may read the machine."""
    store = make_store()
    text = f"select order_id as key, request_time, {expression}::varchar as shop from requests"  # noqa: S608
    (tmp_path / "features.sql").write_text(text, encoding="utf-8")
    drop(store, 30, orders=[("a", "x", 1, 0)])
    with pytest.raises(FeatureError, match=complaint):
        store.absorb()


def test_a_damaged_segment_is_named_and_the_rest_stays(make_store: MakeStore) -> None:
    store = make_store()
    drop(store, 30, orders=[("a", "x", 1, 0)])
    store.absorb()
    segment = store.log.append("ordered", ordered(("b", "x", 40, 35)), through=at(60))
    store.log.append("arrived", arrived(), through=at(60))
    whole = segment.path.read_bytes()
    segment.path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SegmentError, match=segment.path.name):
        store.absorb()
    assert set(rows(store)) == {"a"}
    segment.path.write_bytes(whole)
    assert store.absorb().facts == 1


def test_a_lost_segment_is_noticed(make_store: MakeStore) -> None:
    store = make_store()
    first = store.log.append("ordered", ordered(("a", "x", 1, 0)), through=at(10))
    store.log.append("ordered", ordered(("b", "x", 1, 0)), through=at(20))
    store.log.append("ordered", ordered(("c", "x", 1, 0)), through=at(30))
    second = store.log.segments("ordered")[1]
    second.path.unlink()
    with pytest.raises(SegmentError, match="starts at offset 1, found 2"):
        store.log.segments("ordered")
    assert first.path.exists()


def test_reading_before_the_first_facts_says_so(make_store: MakeStore) -> None:
    with pytest.raises(DataError, match="ingest some first"):
        make_store().feature_rows(at(0), at(1))


def test_a_store_that_stays_held_is_reported_in_time(make_store: MakeStore) -> None:
    store = make_store(wait_s=0.2)
    drop(store, 30, orders=[("a", "x", 1, 0)])
    store.absorb()
    with locked(store.directory, exclusive=True, wait_s=1), pytest.raises(StoreBusyError, match="last writer: process"):
        store.absorb()
    assert store.absorb().facts == 0


def test_a_session_opened_while_examples_are_being_read_ends_in_time(
    make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slices are read by a thread; it must not wait for a session that waits for its slice."""
    monkeypatch.setattr("ml_core.data.ahead.SLICE_VALUES", 1)
    store = make_store(wait_s=0.3)
    names = [str(number) for number in range(6)]
    drop(store, 60, orders=[(name, "x", 1, 0) for name in names], arrivals=[(name, "x", 5, 3) for name in names])
    store.absorb()
    batches = store.example_batches(0, 6, rows=1)
    assert next(batches).column("offset").to_pylist() == [0]
    with store.session(), pytest.raises(StoreBusyError):
        list(batches)
    assert [batch.column("offset")[0].as_py() for batch in store.example_batches(0, 6, rows=1)] == list(range(6))


_WORKER = """
    import sys
    from pathlib import Path
    from tests.data.conftest import arrived, at, ordered, orders_flow
    from ml_core.data import FeatureStore
    role, root, steps = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    store = FeatureStore(orders_flow(), root=root, home=root / "home", wait_s=60)
    for step in range(steps):
        if role == "producer":
            store.log.append("ordered", ordered((f"k{step}", "x", step + 1, step)), through=at(step + 1))
            store.log.append("arrived", arrived((f"k{step}", "x", step % 7, step + 1)), through=at(step + 1))
        elif role == "owner":
            store.absorb()
        elif role == "reader" and store.progress().next_example:
            store.examples(0, store.progress().next_example)
"""


def work(role: str, root: Path, steps: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", textwrap.dedent(_WORKER), role, str(root), str(steps)]
    return subprocess.Popen(command, cwd=Path(__file__).parents[2])


def test_producers_owners_and_readers_at_once_lose_and_lock_nothing(make_store: MakeStore, tmp_path: Path) -> None:
    """The ownership rule, as `make up` needs it: several processes and never a lock error."""
    store = make_store()
    drop(store, 0)
    roles = [("producer", 60), ("owner", 25), ("owner", 25), ("reader", 25), ("reader", 25)]
    workers = [work(role, tmp_path, steps) for role, steps in roles]
    assert [worker.wait(120) for worker in workers] == [0] * len(workers)
    store.absorb()
    examples = store.examples(0, store.progress().next_example)
    assert sorted(examples["key"].to_pylist()) == sorted(f"k{step}" for step in range(60))
    assert examples["offset"].to_pylist() == list(range(60))


@pytest.mark.parametrize("seed", [2, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (0, 1, 3))])
def test_an_owner_killed_at_any_moment_leaves_all_or_nothing(make_store: MakeStore, tmp_path: Path, seed: int) -> None:
    """The next absorb ends where an undisturbed one would."""
    undisturbed, store = make_store("undisturbed"), make_store()
    for each in (undisturbed, store):
        for step in range(12):
            drop(each, step + 1, orders=[(f"k{step}", "x", step, step)], arrivals=[(f"k{step}", "x", step, step + 0.5)])
    undisturbed.absorb()
    owner = work("owner", tmp_path, 50)
    threading.Event().wait(0.9 + 0.15 * seed)
    owner.kill()
    owner.wait()
    store.absorb()
    assert store.progress() == undisturbed.progress()
    assert store.examples(0, 12).equals(undisturbed.examples(0, 12))


def test_progress_is_read_without_opening_the_file(make_store: MakeStore) -> None:
    """A sensor must never wait for, or block, the owner."""
    store = make_store()
    drop(store, 30, orders=[("a", "x", 1, 0)], arrivals=[("a", "x", 1, 20)])
    store.absorb()
    with duckdb.connect(str(store.directory / "store.duckdb")):  # somebody holds it for writing
        assert store.progress().next_example == 1
        assert json.loads((store.directory / "progress.json").read_text())["next_example"] == 1

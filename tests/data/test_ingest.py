"""From a source into the event log: nothing twice, nothing lost, nothing that would poison the flow."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ml_core.data.ingest import take_in, waits
from ml_core.data.store import FeatureStore
from ml_core.errors import SourceError, StoreBusyError
from ml_core.project import Flow

NOW = datetime(2024, 6, 1, tzinfo=UTC)
HEADER = "id;when;shop;days;late\n"


def flow(**source: Any) -> Flow:
    settings = {
        "path": "orders.csv",
        "event_time": "when",
        "time_format": "%d.%m.%Y %H:%M",
        "time_zone": "Europe/Berlin",
        "key": "id",
        "label": "late",
        "classes": ["no", "yes"],
        "label_delay": "2 hours",
        "delimiter": ";",
        "decimal": ",",
        "missing": ["", "n/a"],
        "columns": {"shop": "text", "days": "number"},
    }
    data = {
        "features": "features.sql",
        "entity": "requested",
        "key": "id",
        "request_time": "when",
        "label_fact": "outcome",
        "label": "late",
        "lookback": "1 day",
        "label_window": "3 days",
        "starts": "2024-05-01",
        "source": settings | source,
    }
    pipeline = {"stages": [{"stage": "hash", "columns": ["shop"]}], "estimator": {"name": "FTRLClassifier"}}
    return Flow.model_validate({"name": "orders", "data": data, "pipeline": pipeline})


class Orders:
    """A CSV file of orders and the store it is taken into."""

    def __init__(self, root: Path, orders: Flow) -> None:
        self.root, self.flow = root, orders
        (root / "features.sql").write_text(
            "select id as key, request_time, shop, days::float as days from requests", encoding="utf-8"
        )
        self.store = FeatureStore(orders, root=root, home=root / "home")

    def write(self, *lines: str) -> None:
        (self.root / "orders.csv").write_text(HEADER + "\n".join(lines) + "\n", encoding="utf-8")

    def take_in(self, now: datetime = NOW) -> tuple[int, int, int]:
        taken = take_in(self.flow, self.store, root=self.root, now=now)
        self.store.absorb()
        return taken.rows, taken.labels, taken.left_out

    def rows(self) -> list[dict[str, Any]]:
        return list(self.store.feature_rows(NOW - timedelta(days=99), NOW).to_pylist())

    def examples(self) -> list[tuple[str, float]]:
        table = self.store.examples(0, self.store.progress().next_example)
        return list(zip(table.column("key").to_pylist(), table.column("label").to_pylist(), strict=True))


@pytest.fixture
def orders(tmp_path: Path) -> Orders:
    return Orders(tmp_path, flow())


FIRST = ("a;01.05.2024 12:00;north;1,5;yes", "b;01.05.2024 13:00;n/a;;no", "c;01.05.2024 18:00;south;2;")


def test_texts_numbers_and_local_times_mean_what_was_declared(orders: Orders) -> None:
    """Noon in Berlin in May is ten o'clock; one and a half is written with a comma."""
    orders.write(*FIRST)
    assert orders.take_in() == (3, 2, 0)
    assert orders.rows()[0] == {
        "key": "a",
        "request_time": datetime(2024, 5, 1, 10, tzinfo=UTC),
        "shop": "north",
        "days": 1.5,
    }
    assert (orders.rows()[1]["shop"], orders.rows()[1]["days"]) == (None, None)
    assert orders.examples() == [("a", 1.0), ("b", 0.0)]


def test_taking_in_again_changes_nothing(orders: Orders) -> None:
    """Two runs at the same time, a retry, a backfill: all of them take in."""
    orders.write(*FIRST)
    orders.take_in()
    before = orders.store.log.newest()
    assert orders.take_in() == (0, 0, 0)
    assert orders.store.log.newest() == before


def test_new_rows_and_labels_that_came_later_are_taken_in_wherever_they_stand(orders: Orders) -> None:
    """An export is sorted anew every night, and its labels are filled in."""
    orders.write(*FIRST)
    orders.take_in()
    orders.write("d;02.05.2024 09:00;north;3;yes", "c;01.05.2024 18:00;south;2;yes", *FIRST[:2])
    assert orders.take_in() == (1, 2, 0)
    assert [row["key"] for row in orders.rows()] == ["a", "b", "c", "d"]
    assert sorted(orders.examples()) == [("a", 1.0), ("b", 0.0), ("c", 1.0)], "d's label is known two hours after d"


def test_a_late_row_is_asked_for_when_it_could_first_be_known(orders: Orders) -> None:
    """What was learned before it came must not depend on it."""
    orders.write(*FIRST)
    orders.take_in()
    orders.write(*FIRST, "x;01.05.2024 07:00;north;3;no", "y;03.05.2024 07:00;north;3;no")
    orders.take_in()
    asked = {row["key"]: row["request_time"] for row in orders.rows()}
    assert asked["x"] == asked["c"] + timedelta(microseconds=1)
    assert orders.store.progress().late_facts > 0


def test_rows_without_a_time_or_with_the_key_of_another_are_left_out_and_counted(orders: Orders) -> None:
    """They can never be asked for; a check shows how many there are."""
    orders.write(*FIRST, "e;;north;1;no", "a;05.05.2024 12:00;south;1;no")
    assert orders.take_in() == (3, 2, 2)


def test_a_finished_history_is_complete_through_its_last_label(tmp_path: Path) -> None:
    """Otherwise the last labels would wait for rows that never come."""
    data = flow().data.model_copy(update={"ends": datetime(2024, 5, 2, tzinfo=UTC).date()})
    finished = Orders(tmp_path, flow().model_copy(update={"data": data}))
    finished.write(*FIRST[:2], "c;01.05.2024 23:30;south;2;yes")
    finished.take_in()
    assert [key for key, _ in finished.examples()] == ["a", "b", "c"]
    assert finished.store.progress().clock == datetime(2024, 5, 2, tzinfo=UTC)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("d;01.13.2024 12:00;north;1;no", r"orders.csv, line 5, column \"when\": expected a time written as '%d.%m.%Y"),
        ("d;01.05.2024 12:00;north;one;no", r"line 5, column \"days\": expected a finite number.*found 'one'"),
        ("d;01.05.2024 12:00;north;inf;no", r"line 5, column \"days\": expected a finite number.*found 'inf'"),
        (
            "d;01.05.2024 12:00;north;1;no;no",
            r"orders.csv, line 5: expected 5 columns, as named in the first line, found 6",
        ),
        ("d;01.05.2024 12:00;north;1;maybe", r"line 5, column \"late\": expected one of the `classes`.*found 'maybe'"),
        ("d;01.05.2031 12:00;north;1;no", r"expected times up to now, 2024-06-01 00:00 UTC, found 1 rows after it"),
    ],
)
def test_what_does_not_fit_is_refused_whole_with_its_line(orders: Orders, line: str, message: str) -> None:
    """One bad night's export must not become part of the log; the model goes on with what it has."""
    orders.write(*FIRST)
    orders.take_in()
    before = orders.store.log.newest()
    orders.write(*FIRST, line)
    with pytest.raises(SourceError, match=message) as refused:
        orders.take_in()
    assert "flow orders" in str(refused.value)
    assert orders.store.log.newest() == before


def test_a_column_that_is_gone_is_named_with_the_nearest(orders: Orders, tmp_path: Path) -> None:
    """A schema changes upstream, in the middle of the week."""
    (tmp_path / "orders.csv").write_text("id;when;shops;days;late\na;01.05.2024 12:00;x;1;no\n", encoding="utf-8")
    with pytest.raises(SourceError, match=r"expected the column 'shop' that .*columns.shop.* did you mean 'shops'"):
        orders.take_in()


def test_a_column_that_is_new_in_the_project_file_does_not_reach_an_old_log(orders: Orders) -> None:
    """Facts of one kind have the same columns for ever; a segment that has others would stop the flow."""
    orders.write(*FIRST)
    orders.take_in()
    orders.flow = flow(columns={"shop": "text", "days": "text"}).model_copy()
    orders.take_in()  # the same columns
    orders.flow = flow(columns={"shop": "text"})
    with pytest.raises(SourceError, match="hold 'days' no longer and nothing newly; the columns of a flow's facts are"):
        orders.take_in()


def test_a_missing_file_is_named_with_the_key_that_names_it(orders: Orders) -> None:
    """The nightly export did not come."""
    with pytest.raises(SourceError, match=r"\[flows.orders.data.source\] `path` names, found no file at"):
        orders.take_in()


def test_a_source_waits_when_it_changed(orders: Orders) -> None:
    """A sensor looks at nothing else."""
    orders.write(*FIRST)
    assert waits(orders.flow, orders.store, orders.root) is not None
    orders.take_in()
    assert waits(orders.flow, orders.store, orders.root) is None
    orders.write(*FIRST, "d;02.05.2024 09:00;north;3;yes")
    assert waits(orders.flow, orders.store, orders.root) is not None


def test_one_process_at_a_time_takes_a_source_in(orders: Orders, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that look for what is new at the same time would both append it."""
    orders.write(*FIRST)
    inside: list[Callable[[], Any]] = [
        lambda: take_in(orders.flow, orders.store, root=orders.root, now=NOW, wait_s=0.01)
    ]
    real = orders.store.log.append

    def append(*arguments: Any, **named: Any) -> Any:
        with pytest.raises(StoreBusyError):
            inside[0]()
        return real(*arguments, **named)

    monkeypatch.setattr(orders.store.log, "append", append)
    assert orders.take_in() == (3, 2, 0)


def test_a_label_that_is_no_number_yet_is_joined_once_it_is_filled_in(tmp_path: Path) -> None:
    """Parquet files say NaN for missing; as a label it could not be learned, and would stay for good."""
    orders, later = Orders(tmp_path, flow(classes=[])), "z;01.05.2024 18:00;south;1;0"
    orders.write("a;01.05.2024 12:00;north;nan;nan", "b;01.05.2024 13:00;north;1;0", later)
    assert orders.take_in()[1] == 2
    assert orders.rows()[0]["days"] is None
    orders.write("a;01.05.2024 12:00;north;nan;1", "b;01.05.2024 13:00;north;1;0", later)
    orders.take_in()
    orders.write("a;01.05.2024 12:00;north;nan;1", "b;01.05.2024 13:00;north;1;0", later, "y;02.05.2024 18:00;s;1;1")
    orders.take_in()
    assert sorted(orders.examples()) == [("a", 1.0), ("b", 0.0), ("z", 0.0)]
    orders.write("a;01.05.2024 12:00;north;nan;1", "b;01.05.2024 13:00;north;1;inf")
    with pytest.raises(SourceError, match=r"expected a label that is a number or a boolean.*found 'inf'"):
        orders.take_in()


def test_a_key_that_is_called_like_a_column_is_refused(tmp_path: Path) -> None:
    """The column would be replaced by it without a word."""
    orders = Orders(tmp_path, flow(key=None, columns={"shop": "text", "id": "text"}))
    orders.write(*FIRST)
    with pytest.raises(SourceError, match="expected the key 'id' to be no feature, found a column of that name"):
        orders.take_in()

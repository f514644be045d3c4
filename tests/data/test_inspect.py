"""What is found in a table nobody described: each finding ends up in the project file, so a wrong one costs a model."""

from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pytest

from ml_core.data.inspect import Inspection, inspect_source
from ml_core.errors import SourceError
from tests.data.unseen import ZONE, unseen


def looked_into(folder: Path, text: str, **known: str | tuple[str, ...]) -> Inspection:
    file = folder / "table.csv"
    file.write_text(text, encoding="utf-8")
    return inspect_source(file, **known)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_a_table_of_random_names_is_understood(tmp_path: Path, seed: int) -> None:
    """Nothing may depend on what columns are called."""
    table = unseen(tmp_path, seed)
    names = table.columns
    found = inspect_source(table.path, event_time=names["time"], label=names["label"], time_zone=ZONE)
    kinds = {column.name: column.kind for column in found.columns}
    assert (found.rows, found.delimiter, found.decimal) == (3_000, ";", ",")
    assert found.time_format == "%d.%m.%Y %H:%M"
    assert found.label_found is not None
    assert (found.label_found.kind, found.label_found.classes) == ("binary", table.texts)
    assert kinds[names["group"]] == kinds[names["name"]] == "text"
    assert kinds[names["strength"]] == kinds[names["noise"]] == "number"
    assert found.candidates["key"] == [names["id"]]
    assert found.candidates["event_time"] == [names["time"]]
    assert set(found.suspects) == {names["leak"]}


@pytest.mark.parametrize(
    ("written", "time_format"),
    [
        (["2024-02-03 04:05", "2024-02-04 04:05"], None),
        (["2024-02-03T04:05:06Z", "2024-02-04T04:05:06Z"], None),
        (["03.02.2024 04:05", "04.02.2024 04:05"], "%d.%m.%Y %H:%M"),
        (["02/13/2024", "02/14/2024"], "%m/%d/%Y"),
        (["13/02/2024", "14/02/2024"], "%d/%m/%Y"),
        # in either reading a date; only one of them keeps the rows in order
        (["01/02/2024", "01/03/2024", "02/01/2024", "02/02/2024"], "%m/%d/%Y"),
        (["1700000000", "1700000600"], "epoch_s"),
        (["1700000000000", "1700000600000"], "epoch_ms"),
        (["20240203", "20240204"], "%Y%m%d"),
        (["3 Feb 2024 04:05", "4 Feb 2024 04:05"], "%d %b %Y %H:%M"),
    ],
)
def test_the_way_times_are_written_is_found(tmp_path: Path, written: list[str], time_format: str | None) -> None:
    """A day taken for a month makes a history of the wrong order, and nothing would fail."""
    lines = [f"{time},{number % 2}" for number, time in enumerate(written * 2)][: len(written)]
    found = looked_into(
        tmp_path, "t,y\n" + "\n".join([*lines, f"{written[-1]},1", f"{written[-1]},0"]), event_time="t", label="y"
    )
    assert found.time_format == time_format


def test_local_times_become_the_instants_they_mean(tmp_path: Path) -> None:
    """On the night the clocks change an hour is missing; the span must not shift with the season."""
    text = "t,y\n30.03.2024 12:00,0\n31.03.2024 12:00,1\n"
    found = looked_into(tmp_path, text, event_time="t", label="y", time_zone="Europe/Berlin")
    assert found.first == datetime(2024, 3, 30, 11, tzinfo=UTC)
    assert found.last == datetime(2024, 3, 31, 10, tzinfo=UTC)


@pytest.mark.parametrize(
    ("labels", "kind", "classes", "n_classes"),
    [
        (["0", "1"], "binary", (), 2),
        (["true", "false"], "binary", (), 2),
        (["no", "yes", "no"], "binary", ("no", "yes"), 2),
        (["a", "b", "c"], "multiclass", ("a", "b", "c"), 3),
        (["1.5", "2.5", "7"], "regression", (), 0),
        (["5", "9", "5"], "binary", ("5", "9"), 2),
        (["1.0", "0.0", "1.0"], "binary", (), 2),
        (["True", "False", "True"], "binary", (), 2),
        (["1", "nan", "0", "1"], "binary", (), 2),
        (["0.0", "1.0", "2.0"], "regression", (), 0),
    ],
)
def test_the_kind_of_label_is_found(
    tmp_path: Path, labels: list[str], kind: str, classes: tuple[str, ...], n_classes: int
) -> None:
    """It decides the learner."""
    lines = [f"2024-05-{day + 1:02d},{label}" for day, label in enumerate(labels * 3)]
    found = looked_into(tmp_path, "t,y\n" + "\n".join(lines), event_time="t", label="y").label_found
    assert found is not None
    assert (found.kind, found.classes, found.n_classes) == (kind, classes, n_classes)


def test_a_label_of_three_values_is_not_binary(tmp_path: Path) -> None:
    text = "t,y\n2024-05-01,a\n2024-05-02,b\n2024-05-03,c\n"
    with pytest.raises(SourceError, match="two values in the label 'y' of --kind binary, found 3: a, b, c"):
        looked_into(tmp_path, text, event_time="t", label="y", kind="binary")


def test_codes_with_leading_zeros_stay_texts(tmp_path: Path) -> None:
    """A postal code is no quantity."""
    found = looked_into(tmp_path, "t,code,y\n2024-05-01,00123,0\n2024-05-02,90210,1\n")
    assert {column.name: column.kind for column in found.columns} == {"t": "time", "code": "text", "y": "number"}


def test_texts_among_numbers_are_named_with_their_lines(tmp_path: Path) -> None:
    """Two of forty thousand make a number column one of texts, and nothing would fail."""
    values = [f"{number}.25" for number in range(100)]
    values[17], values[18], values[60] = "far", "far", "1.5x"
    lines = [f'2024-05-01,"{value}","several\nlines",{number % 2}' for number, value in enumerate(values)]
    found = looked_into(tmp_path, "t,km,note,y\n" + "\n".join(lines))
    strays = {column.name: column.strays for column in found.columns if column.strays}
    assert strays == {"km": "97 of 100 values are numbers, but line 36 has 'far' and line 122 '1.5x'"}
    cured = looked_into(tmp_path, "t,km,note,y\n" + "\n".join(lines), missing=("far", "1.5x"))
    assert {column.name: column.kind for column in cured.columns}["km"] == "number"
    assert set(cured.missing) == {"", "far", "1.5x"}


def test_a_column_of_many_texts_is_no_number_column_with_mistakes(tmp_path: Path) -> None:
    """Codes that are sometimes digits would be noted for ever."""
    lines = [f"2024-05-01,{number if number % 10 else 'A7'},{number % 2}" for number in range(100)]
    assert not any(column.strays for column in looked_into(tmp_path, "t,code,y\n" + "\n".join(lines)).columns)


def test_decimal_commas_are_found_beside_a_mistake(tmp_path: Path) -> None:
    """Otherwise every number of the column would seem to be the mistake."""
    values = ["far", *(f"{number},5" for number in range(99))]
    lines = [f"2024-05-01;{value};{number % 2}" for number, value in enumerate(values)]
    found = looked_into(tmp_path, "t;km;y\n" + "\n".join(lines))
    assert found.decimal == ","
    assert found.columns[1].strays == "99 of 100 values are numbers, but line 2 has 'far'"


def test_a_label_that_is_nearly_numbers_says_what_keeps_it_from_being_learned(tmp_path: Path) -> None:
    """`at most 30 classes` alone would send somebody looking for another label."""
    values = ["far", *(f"{number}.5" for number in range(99))]
    text = "t,km\n" + "\n".join(f"2024-05-01,{value}" for value in values)
    for known in ({}, {"kind": "regression"}):
        with pytest.raises(SourceError, match="99 of 100 values are numbers, but line 2 has 'far'; correct them, or"):
            looked_into(tmp_path, text, event_time="t", label="km", **known)


@pytest.mark.parametrize("value", ["1", "gift"])
def test_a_value_that_only_some_rows_have_is_a_category_and_may_know_the_label(tmp_path: Path, value: str) -> None:
    """That it is there says something, be it the truth that was to be predicted."""
    lines = [f"2024-05-01,{value * (n % 3 == 0)},{value * (n % 2)},{value},,{n % 2}" for n in range(100)]
    found = looked_into(tmp_path, "t,flag,leak,same,gone,y\n" + "\n".join(lines), event_time="t", label="y")
    assert {column.name: column.kind for column in found.columns}["flag"] == "text"
    assert [column.name for column in found.columns if column.constant] == ["t", "same", "gone"]
    assert set(found.suspects) == {"leak"}


def test_a_time_after_the_request_is_suspected(tmp_path: Path) -> None:
    """When the row says when it ended, it was written after it ended."""
    lines = [f"2024-05-{day:02d},2024-05-{day + 1:02d},2024-04-{day:02d},{day % 2}" for day in range(1, 29)]
    found = looked_into(tmp_path, "t,ended,born,y\n" + "\n".join(lines), event_time="t", label="y")
    assert found.suspects == {"ended": "lies after 't' in 100% of the rows"}


@pytest.mark.parametrize(
    ("known", "message"),
    [
        ({"label": "yy", "event_time": "t"}, "no column 'yy': did you mean 'y'"),
        ({"event_time": "word", "label": "y"}, "expected times in column 'word', found 'rather'; say how"),
        ({"event_time": "t", "label": "same"}, r"expected a label of at least two values in 'same', found \['1'\]"),
        ({"event_time": "t", "label": "gone"}, "column 'gone' is empty in every row; choose another --label"),
        ({"event_time": "t", "label": "y", "positive": "2"}, "is never '2'"),
    ],
)
def test_what_cannot_be_is_said_in_words(tmp_path: Path, known: dict[str, str], message: str) -> None:
    """It is the first minute somebody spends with the platform."""
    text = "t,word,same,gone,y\n2024-05-01,rather,1,,5\n2024-05-02,or not,1,,6\n"
    with pytest.raises(SourceError, match=message):
        looked_into(tmp_path, text, **known)


def test_parquet_and_duckdb_tables_are_read_by_their_types(tmp_path: Path) -> None:
    """Typed sources need no guessing."""
    with duckdb.connect(str(tmp_path / "shop.duckdb")) as connection:
        connection.execute(
            "create table orders as select timestamptz '2024-05-01 00:00+00' + to_hours(i) as at, i % 3 = 0 as late,"
            " i::decimal(9, 2) as price, 'shop ' || (i % 5)::varchar as shop from range(100) r(i)"
        )
        connection.execute(f"copy orders to '{tmp_path / 'orders.parquet'}'")
    for path, table in ((tmp_path / "shop.duckdb", "orders"), (tmp_path / "orders.parquet", None)):
        found = inspect_source(path, table=table, event_time="at", label="late")
        assert {c.name: c.kind for c in found.columns} == {
            "at": "time",
            "late": "text",
            "price": "number",
            "shop": "text",
        }
        assert found.label_found is not None
        assert (found.label_found.kind, found.time_format) == ("binary", None)

"""CSV files as people have them: read whole, or refused with the line that does not fit and what to do about it."""

import gzip
from pathlib import Path
from typing import Any

import duckdb
import pytest

from ml_core.data.sources import place, read_raw
from ml_core.errors import SourceError

SAMPLED = 20_480  # rows after which DuckDB has made up its mind how a file is written
LONG = SAMPLED + 500


def lines(rows: int, delimiter: str = ",", **odd: str) -> str:
    """Return a file of four columns, with other lines at the rows `at_<row>`, from 0."""
    written = [odd.get(f"at_{row}", f"{row},2024-05-01,plain,{row % 2}") for row in range(rows)]
    return "\n".join(["id,day,note,late", *written, ""]).replace(",", delimiter)


def read(path: Path, **how: Any) -> tuple[str | None, list[tuple[Any, ...]]]:
    """Return the delimiter that was found, and the rows."""
    with duckdb.connect() as connection:
        return read_raw(connection, path, **how), connection.execute("from source").fetchall()


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("rows", [20, LONG])
def test_the_first_quote_may_come_on_the_last_line(tmp_path: Path, delimiter: str, rows: int) -> None:
    """A comma in one note of forty thousand made a valid file unreadable."""
    file = tmp_path / "t.csv"
    odd = {f"at_{rows - 1}": 'z,2024-05-02,"say ""hi""; a,b|c\td,\nand more",1'}
    file.write_text(lines(rows, delimiter, **odd), encoding="utf-8")
    found, table = read(file)
    assert (found, len(table)) == (delimiter, rows)
    note = 'say "hi"; a,b|c\td,\nand more'.replace(",", delimiter)
    assert table[-1] == (rows, "z", "2024-05-02", note, "1")


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_a_file_without_a_quote_and_one_with_quotes_inside_words_are_read(tmp_path: Path, delimiter: str) -> None:
    """A quote opens a value only where the value begins: 5" is an inch."""
    file = tmp_path / "t.csv"
    for note in ("plain", 'pipe of 5" or so'):
        file.write_text(lines(30, delimiter, at_20=f"20,2024-05-01,{note},0"), encoding="utf-8")
        found, table = read(file)
        assert (found, len(table), table[20][3]) == (delimiter, 30, note)


@pytest.mark.parametrize("rows", [40, LONG])
@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "x,2024-05-01,a,b,c,1",
            r"expected 4 columns, as named in the first line, found 6: 'x,2024.*'; put a value that",
        ),
        (
            "x,2024-05-01",
            r"expected 4 columns, as named in the first line, found 2: 'x,2024-05-01'; complete the line or",
        ),
        ('x,2024-05-01,"5" pipe,1', r"expected a quoted value that ends before ',' or the end.*write a quote inside"),
        ('x,2024-05-01,"open,1', r"expected a quoted value that ends before .* found 'x,2024-05-01,\"open,1'; close"),
        ("x,2024-05-01,caf\xe9,1", r"expected text in UTF-8, found 'x,2024-05-01,caf.*'; save the file as UTF-8"),
    ],
)
def test_a_line_that_cannot_be_read_is_named_with_what_to_do(
    tmp_path: Path, rows: int, line: str, message: str
) -> None:
    """DuckDB's own words advise to ignore errors, which here means to lose rows; they are not for our users."""
    file = tmp_path / "t.csv"
    file.write_bytes(lines(rows, **{f"at_{rows - 10}": line}).encode("latin-1"))
    with pytest.raises(SourceError, match=rf"t\.csv, line {rows - 8}: {message}") as refused:
        read(file)
    assert "ignore" not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_no_line_is_passed_over(tmp_path: Path) -> None:
    """Values that begin with # are no comments, and a wide last line does not make the first ones a title."""
    file = tmp_path / "t.csv"
    file.write_text("id,late\n#1,0\n#2,1\n3,1\n", encoding="utf-8")
    assert [row[1] for row in read(file)[1]] == ["#1", "#2", "3"]
    file.write_text("id,late\n1,0\n2,1\n3,1,1\n", encoding="utf-8")
    with pytest.raises(SourceError, match="line 4: expected 2 columns, as named in the first line, found 3: '3,1,1'"):
        read(file)


def test_of_many_files_and_of_packed_ones_the_bad_one_is_named(tmp_path: Path) -> None:
    """A pattern takes in a file per night; one of them is broken."""
    (tmp_path / "1.csv.gz").write_bytes(gzip.compress(lines(40).encode()))
    (tmp_path / "2.csv.gz").write_bytes(gzip.compress(lines(40, at_3="x,y").encode()))
    with pytest.raises(SourceError, match=r"2\.csv\.gz, line 5: expected 4 columns"):
        read(tmp_path / "*.csv.gz")


def test_an_empty_file_is_said_to_have_no_columns(tmp_path: Path) -> None:
    """The export failed half-way."""
    (tmp_path / "t.csv").touch()
    with pytest.raises(SourceError, match="with the names of its columns in the first line, found none"):
        read(tmp_path / "t.csv")


def test_a_place_is_the_line_an_editor_shows(tmp_path: Path) -> None:
    """Quoted values may go over several lines, and the rows after them stand further down."""
    file = tmp_path / "t.csv"
    file.write_text(lines(5, at_1='1,2024-05-01,"over\nthree\nlines",0'), encoding="utf-8")
    with duckdb.connect() as connection:
        read_raw(connection, file)
        assert [place(connection, row, in_csv=True) for row in (1, 2, 3)] == ["line 2", "line 3", "line 6"]
        assert place(connection, 3, in_csv=False) == "row 3"


def test_lines_that_end_in_different_ways_are_told_of(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_bytes(b"id,when\r\n" + b"a,2024-05-01\n" * 20)
    with pytest.raises(SourceError, match=r"whose lines all end alike.*save it with one kind of line end") as refused:
        read(file)
    assert "strict mode" not in str(refused.value)

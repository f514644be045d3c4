"""CSV files as DuckDB reads them, told everything that a sample of them could get wrong; and why one cannot be read."""

import csv
from pathlib import Path

import duckdb

from ml_core.data.tables import Connection
from ml_core.errors import SourceError

CSV = (".csv", ".tsv", ".txt")
# What DuckDB must not find out from a sample: a file's first quote may come after it, a line that does not fit makes it
# skip the lines before, and values that begin with # make it drop their lines as comments.
DIALECT = """skip = 0, comment = '', quote = '"', escape = '"'"""
_SHOWN = 80  # characters of a line that a message repeats
_ENOUGH = 1_000  # bad lines to set aside


def delimiter_of(connection: Connection, path: Path) -> str:
    """Return what stands between the columns of a CSV file, of many files between those of the first."""
    file = next(iter(matching(path)), path)
    delimiter, columns = connection.execute(
        f"select Delimiter, Columns from sniff_csv('{escaped(file)}', all_varchar = true, header = true, {DIALECT})"
    ).fetchall()[0]
    # a line that does not fit makes DuckDB take each line for one column
    return str(delimiter) if len(columns) > 1 else likely_delimiter(columns[0]["name"]) or str(delimiter)


def likely_delimiter(header: str) -> str | None:
    """Return the sign that most often stands between the names of columns, None where there is no such sign."""
    return max((sign for sign in ",;\t|" if sign in header), key=header.count, default=None)


def unreadable(connection: Connection, path: Path, delimiter: str | None) -> SourceError:
    """Return the error that names the first line of a CSV file that cannot be read.

    Parameters
    ----------
    path : Path
        A file, or a pattern of several.
    delimiter : str or None
        What stands between the columns; None where that was not found either.
    """
    try:
        return _unreadable(connection, path, delimiter)
    except duckdb.Error as error:  # which it says of lines that end now in CR LF, now in LF
        return SourceError(
            f"{path}: expected a CSV file whose lines all end alike, found one that cannot be read"
            f" ({str(error).splitlines()[0]}); save it with one kind of line end"
        )


def _unreadable(connection: Connection, path: Path, delimiter: str | None) -> SourceError:
    header = _header(connection, path)
    delimiter = delimiter or likely_delimiter(header) or ","
    names = next(csv.reader([header], delimiter=delimiter)) if len(delimiter) == 1 else header.split(delimiter)
    if not names:
        return SourceError(f"{path}: expected a CSV file with the names of its columns in the first line, found none")
    columns = ", ".join(f"'{number}': 'varchar'" for number in range(len(names)))
    connection.execute(
        f"select count(columns(*)) from read_csv($path, auto_detect = false, header = true, delim = $delimiter,"
        f" {DIALECT}, columns = {{{columns}}}, store_rejects = true, rejects_limit = {_ENOUGH})",
        {"path": str(path), "delimiter": delimiter},
    ).fetchall()
    rejected = connection.execute(
        "select file_path, line, error_type::varchar, csv_line, min(column_idx), max(column_idx)"
        " from reject_errors join reject_scans using (scan_id, file_id) group by all order by file_path, line limit 1"
    ).fetchall()
    if not rejected:
        return SourceError(f"{path}: expected a CSV file with {delimiter!r} between its columns, found another kind")
    file, line, problem, text, first, last = rejected[0]
    found = repr(next(iter(text.splitlines()), "")[:_SHOWN])
    named = f"expected {len(names)} columns, as named in the first line, found"
    said = {
        "TOO MANY COLUMNS": f"{named} {last}: {found}; put a value that holds {delimiter!r} between double quotes",
        "MISSING COLUMNS": f"{named} {first}: {found}; complete the line or remove it",
        "UNQUOTED VALUE": f"expected a quoted value that ends before {delimiter!r} or the end of the line, found"
        f" {found}; close its quote, and write a quote inside a quoted value twice",
        "INVALID ENCODING": f"expected text in UTF-8, found {found}; save the file as UTF-8",
    }
    return SourceError(f"{file}, line {line}: {said.get(problem, f'cannot be read ({problem.lower()}): {found}')}")


def _header(connection: Connection, path: Path) -> str:
    """Return the first line of a file, "" where there is none."""
    lines = connection.execute(
        "from read_csv($path, auto_detect = false, header = false, delim = chr(1), quote = '', ignore_errors = true,"
        " columns = {'line': 'varchar'}) limit 1",
        {"path": str(path)},
    ).fetchall()
    return str(lines[0][0]) if lines else ""


def matching(path: Path) -> list[Path]:
    """Return the files that a path, or a pattern of paths, names."""
    return sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))


def escaped(text: Path | str) -> str:
    """Return a text to stand between single quotes in SQL."""
    return str(text).replace("'", "''")

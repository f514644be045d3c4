"""A flat table as facts: one fact per row that asks for a prediction, and one that carries its label.

`[flows.<flow>.data.source]` says what the columns mean; this module reads them accordingly or says which line does not
fit. A value is never guessed at: a text that is no number in a column of numbers is an error, not a missing value.

partition           columns
------------------  ----------------------------------------------------------------------------------------------
the entity's        `event_time`, `known_at` (both the row's time), the key, the request time, the declared columns
the label fact's    `event_time`, `known_at` (the row's time + `label_delay`), the key, the label
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import duckdb

from ml_core.data.csv_files import CSV, DIALECT, delimiter_of, escaped, matching, unreadable
from ml_core.data.tables import Connection, quoted
from ml_core.errors import SourceError, nearest
from ml_core.project import Flow, SourceSettings

PARQUET = (".parquet", ".pq")
DUCKDB = (".duckdb", ".ddb", ".db")
LINE = "source line"
_RESERVED = ("event_time", "known_at", "log_offset", "key", "request_time", "labelled_at", "label", "offset")
_TYPES = {"text": "varchar", "number": "double", "time": "timestamptz"}


@dataclass(frozen=True, slots=True)
class Stamp:
    """What changes when a source's files do; cheap enough for a sensor's tick.

    Attributes
    ----------
    files, size : int
        How many files, and their bytes in all.
    modified_ns : int
        When the newest of them was last written.
    """

    files: int
    size: int
    modified_ns: int

    def __str__(self) -> str:
        return f"{self.files}:{self.size}:{self.modified_ns}"


def fact_column(name: str) -> str:
    """Return what a source's column is called in facts and features: its own name unless the tables use that."""
    return f"{name}_" if name.lower() in _RESERVED else name


def source_of(flow: Flow) -> SourceSettings:
    """Return a flow's source; raise SourceError when it declares none."""
    if flow.data.source is None:
        raise SourceError(f"flow {flow.name}: expected a table [flows.{flow.name}.data.source], found none")
    return flow.data.source


def stamp(flow: Flow, root: Path) -> Stamp:
    """Return the present stamp of a flow's source; raise SourceError when there is no file."""
    states = [file.stat() for file in _files(flow, source_of(flow), root)]
    return Stamp(len(states), sum(s.st_size for s in states), max(s.st_mtime_ns for s in states))


@contextmanager
def opened(flow: Flow, root: Path, *, limit: int | None = None) -> Iterator[Connection]:
    """Open a session in which the flow's source stands as tables named like its two kinds of fact.

    Parameters
    ----------
    root : Path
        The project's root, from which the source's path starts.
    limit : int, optional
        Read at most so many rows, the first ones.

    Raises
    ------
    SourceError
        A file or column is missing, or a value does not fit what was declared; the message names file, line and column.
    """
    source = source_of(flow)
    with duckdb.connect() as connection:
        connection.execute("set enable_progress_bar = false")
        connection.execute(f"set TimeZone = '{source.time_zone}'")  # texts without a zone are read in it
        try:
            _read(connection, flow, source, root, limit)
            _Facts(connection, flow, source, root).make()
        except duckdb.Error as error:
            raise SourceError(f"flow {flow.name}: {source.path}: {error}") from error
        connection.execute("set TimeZone = 'UTC'")
        yield connection


def read_raw(
    connection: Connection,
    path: Path,
    *,
    table: str | None = None,
    delimiter: str | None = None,
    missing: tuple[str, ...] = ("",),
    limit: int | None = None,
) -> str | None:
    """Make the temporary table `source`: every column as it comes, CSV ones as text, and `source line`, from 1.

    Returns
    -------
    str or None
        The delimiter of a CSV file.

    Raises
    ------
    SourceError
        The kind of file is not known, or a line of a CSV file cannot be read.
    """
    suffix = data_suffix(path)
    if suffix in DUCKDB:
        if table is None:
            raise SourceError(f"{path}: expected the name of a table of this DuckDB file; set `table` (--table)")
        connection.execute(f"attach '{escaped(path)}' as attached (read_only)")
        _make_source(connection, f"attached.{'.'.join(quoted(part) for part in table.split('.'))}", limit)
        connection.execute("detach attached")
        return None
    if suffix in PARQUET:
        _make_source(connection, f"read_parquet('{escaped(path)}', union_by_name = true)", limit)
        return None
    if suffix not in CSV:
        raise SourceError(f"{path}: expected a file that ends in {', '.join(CSV + PARQUET + DUCKDB)}")
    nulls = ", ".join(f"'{escaped(text)}'" for text in missing)
    try:
        delimiter = delimiter or delimiter_of(connection, path)
        read = f"all_varchar = true, header = true, nullstr = [{nulls}], delim = '{escaped(delimiter)}', {DIALECT}"
        _make_source(connection, f"read_csv('{escaped(path)}', {read})", limit)
    except duckdb.InvalidInputException as error:
        raise unreadable(connection, path, delimiter) from error
    return delimiter


def place(connection: Connection, row: int, *, in_csv: bool) -> str:
    """Say where a row of `source` stands: of a CSV file its line, which a quoted value before may have moved."""
    if not in_csv:
        return f"row {row}"
    texts = [quoted(name) for name, kind in described(connection).items() if kind == "VARCHAR"]
    breaks = " + ".join(f"coalesce(len({text}) - len(replace({text}, chr(10), '')), 0)" for text in texts)
    moved = connection.execute(f"select sum({breaks}) from source where {quoted(LINE)} < {row}").fetchall()[0][0]
    return f"line {row + 1 + int(moved or 0)}"


def data_suffix(path: Path) -> str:
    """Return the ending that tells the kind of a source, whatever it is compressed with."""
    return path.with_suffix("").suffix.lower() if path.suffix.lower() in {".gz", ".zst"} else path.suffix.lower()


def as_number(column: str, decimal: str) -> str:
    """Return the SQL that reads a column as a number, NaN among them; null where it is none, or infinite."""
    text = f"{column}::varchar"
    number = f"try_cast({f'''replace({text}, ',', '.')''' if decimal == ',' else text} as double)"
    return f"case when not isinf({number}) then {number} end"


def _known(number: str) -> str:
    """Return the SQL of a number with null for NaN, which is how some files say that it is missing."""
    return f"nullif({number}, 'nan'::double)"


def as_time(column: str, kind: str, time_format: str | None, zone: str) -> str:
    """Return the SQL that reads a column of a DuckDB type as an instant; null where it is none.

    The session's time zone must be `zone`: the cast of a text without a zone reads it there.
    """
    if time_format in {"epoch_s", "epoch_ms"}:
        factor = 1_000_000 if time_format == "epoch_s" else 1_000
        return f"make_timestamptz((try_cast({column} as double) * {factor})::bigint)"
    if kind == "VARCHAR" or time_format is not None:
        if time_format is None:
            return f"try_cast({column} as timestamptz)"
        read = f"try_strptime({column}::varchar, '{escaped(time_format)}')"
        return read if "%z" in time_format else f"timezone('{zone}', {read})"
    return (
        f"{column}::timestamptz" if kind == "TIMESTAMP WITH TIME ZONE" else f"timezone('{zone}', {column}::timestamp)"
    )


def described(connection: Connection) -> dict[str, str]:
    """Return the source's columns and their DuckDB types."""
    columns = {row[0]: row[1] for row in connection.execute("describe source").fetchall()}
    del columns[LINE]
    return columns


class _Facts:
    """Makes the two tables of facts out of `source`."""

    def __init__(self, connection: Connection, flow: Flow, source: SourceSettings, root: Path) -> None:
        self._connection = connection
        self._data = flow.data
        self._source = source
        self._types = described(connection)
        self._where = f"flow {flow.name}: {source.path}"
        self._in_file = f"[flows.{flow.name}.data.source]"
        self._csv = data_suffix(root / source.path) in CSV

    def make(self) -> None:
        source, data = self._source, self._data
        time = self._time(source.event_time, source.time_format, "event_time")
        numbered = f"printf('%012d', {quoted(LINE)})"
        named = numbered if source.key is None else f"{self._column(source.key, 'key')}::varchar"
        declared = {fact_column(name): self._value(name, kind) for name, kind in source.columns.items()}
        taken = {fact_column(name).lower() for name in source.columns if name != source.key}
        if data.key.lower() in taken:
            raise SourceError(
                f"{self._where}: expected the key {data.key!r} to be no feature, found a column of that name; call the"
                " key something else, in the project file and in features.sql"
            )
        declared |= {data.key: named, data.request_time: time}
        selected = ", ".join(f"{value} as {quoted(name)}" for name, value in declared.items())
        # a row without a time asks for nothing; of rows with one key the first counts
        rows = f"""
            from source where {time} is not null and {named} is not null
            qualify row_number() over (partition by {named} order by {quoted(LINE)}) = 1 order by {quoted(LINE)}"""
        delay = f"to_microseconds({source.label_delay // timedelta(microseconds=1)})"
        self._connection.execute(
            f"create temp table {quoted(data.entity)} as"
            f" select {time} as event_time, {time} as known_at, {selected} {rows}"
        )
        self._connection.execute(
            f"create temp table {quoted(data.label_fact)} as select {time} + {delay} as event_time,"
            f" {time} + {delay} as known_at, {named} as {quoted(data.key)},"
            f" {self._label()} as {quoted(data.label)} {rows}"
        )

    def _column(self, name: str, setting: str) -> str:
        if name not in self._types:
            raise SourceError(
                f"{self._where}: expected the column {name!r} that {self._in_file} `{setting}` names, found none:"
                f" {nearest(name, self._types)}"
            )
        return quoted(name)

    def _value(self, name: str, kind: str) -> str:
        column = self._column(name, f"columns.{name}")
        if kind == "time":
            time_format = self._source.time_format if self._types.get(name) == "VARCHAR" else None
            return self._time(name, time_format, f"columns.{name}")
        if kind == "number":
            read = as_number(column, self._source.decimal)
            self._refuse(column, read, f"a finite number, as {self._in_file} `columns` says")
            return _known(read)
        return f"{column}::{_TYPES[kind]}"

    def _time(self, name: str, time_format: str | None, setting: str) -> str:
        column = self._column(name, setting)
        read = as_time(column, self._types[name], time_format, self._source.time_zone)
        wanted = f"a time written as {time_format!r}" if time_format else "a time in ISO 8601"
        self._refuse(column, read, f"{wanted}, as {self._in_file} `{setting}` says")
        return read

    def _label(self) -> str:
        column = self._column(self._source.label, "label")
        if not self._source.classes:
            number = as_number(column, self._source.decimal)
            read = f"coalesce({number}, try_cast({column}::varchar as boolean)::double)"
            self._refuse(
                column, read, f"a label that is a number or a boolean; for texts set `classes` in {self._in_file}"
            )
            return _known(read)
        names = ", ".join(f"'{escaped(name)}'" for name in self._source.classes)
        read = f"nullif(list_position([{names}], {column}::varchar), 0) - 1"
        self._refuse(column, read, f"one of the `classes` of {self._in_file}: {', '.join(self._source.classes)}")
        return f"({read})::double"

    def _refuse(self, column: str, read: str, wanted: str) -> None:
        """Raise SourceError for the first value that is there but cannot be read."""
        found = self._connection.execute(
            f"select {quoted(LINE)}, {column}::varchar, count(*) over () from source"
            f" where {column} is not null and ({read}) is null order by 1 limit 1"
        ).fetchall()
        if found:
            line, value, count = found[0]
            where = f"{self._where}, {place(self._connection, line, in_csv=self._csv)}, column {column}"
            more = f" ({count} rows in all)" if count > 1 else ""
            raise SourceError(f"{where}: expected {wanted}, found {value!r}{more}")


def _read(connection: Connection, flow: Flow, source: SourceSettings, root: Path, limit: int | None) -> None:
    _files(flow, source, root)
    try:
        read_raw(
            connection, root / source.path, table=source.table, delimiter=source.delimiter, missing=source.missing,
            limit=limit,
        )  # fmt: skip
    except SourceError as error:
        raise SourceError(f"flow {flow.name}: {error}") from error
    if data_suffix(source.path) in CSV:
        return
    for name in (name for name, kind in described(connection).items() if kind == "VARCHAR"):
        connection.execute(
            f"update source set {quoted(name)} = null where {quoted(name)} in $texts",
            {"texts": list(source.missing)},
        )


def _make_source(connection: Connection, origin: str, limit: int | None) -> None:
    most = "" if limit is None else f" limit {limit}"
    connection.execute(
        f"create or replace temp table source as select row_number() over () as {quoted(LINE)}, * from {origin}{most}"
    )


def _files(flow: Flow, source: SourceSettings, root: Path) -> list[Path]:
    path = root / source.path
    found = matching(path)
    if not found:
        raise SourceError(
            f"flow {flow.name}: expected what [flows.{flow.name}.data.source] `path` names, found no file at {path}"
        )
    return found

"""Which columns hold times, how they are written, and the span of the one that says when a row is asked for."""

from datetime import datetime

from ml_core.data.inspect.table import SourceTable
from ml_core.data.sources import LINE, as_number, as_time
from ml_core.data.tables import quoted
from ml_core.data.times import equally_steady, formats_of
from ml_core.errors import SourceError


def time_formats(source: SourceTable) -> dict[str, str]:
    """Return the columns of times with how they are written, "" for a time type or ISO 8601."""
    formats = {name: _time_format(source, name) for name in source.types}
    return {name: written for name, written in formats.items() if written is not None}


def event_format(source: SourceTable, name: str, times: dict[str, str]) -> str | None:
    """Return how the event time is written, which may also be numbers; None for a time type or ISO 8601.

    Raises
    ------
    SourceError
        The column holds no times.
    """
    if name in times:
        return times[name] or None
    column = quoted(name)
    if source.all_readable(name, as_number(column, ".")):
        largest = float(source.connection.execute(f"select max({as_number(column, '.')}) from source").fetchall()[0][0])
        for time_format, low, high in (("%Y", 1500, 2200), ("%Y%m%d", 15e6, 22e6), ("epoch_s", 1e8, 1e10),
                                       ("epoch_ms", 1e11, 1e13)):  # fmt: skip
            if low < largest < high:
                return time_format
    value = source.connection.execute(
        f"select {column}::varchar from source where {column} is not null limit 1"
    ).fetchall()
    raise SourceError(
        f"{source.path}: expected times in column {name!r}, found {value[0][0] if value else 'nothing'!r}; say how"
        " they are written with --time-format, e.g. '%d.%m.%Y %H:%M'"
    )


def span(source: SourceTable, name: str, time_format: str | None) -> tuple[datetime, datetime]:
    """Return the first and the last time of a column; raise SourceError where none can be read."""
    read = as_time(quoted(name), source.types[name], time_format, source.zone)
    first, last = source.connection.execute(f"select min({read}), max({read}) from source").fetchall()[0]
    if first is None:
        raise SourceError(f"{source.path}: no time of column {name!r} can be read as {time_format or 'ISO 8601'}")
    return first, last


def _time_format(source: SourceTable, name: str) -> str | None:
    """Return how a column's times are written, "" for a time type or ISO 8601; None where they are none."""
    column, kind = quoted(name), source.types[name]
    if kind.startswith("TIMESTAMP") or kind == "DATE":
        return ""
    if kind != "VARCHAR" or source.all_readable(name, as_number(column, ".")):
        return None
    iso = f"regexp_matches({column}, '^[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}')"
    if source.all_readable(name, f"case when {iso} then {as_time(column, kind, None, source.zone)} end"):
        return ""
    return _read_by(source, name)


def _read_by(source: SourceTable, name: str) -> str | None:
    """Return the format that reads every text of a column, and note where another would do as well."""
    digits = f"case when regexp_matches({quoted(name)}, '[0-9]') then 1 end"
    fits = formats_of(source.connection, name, position=LINE) if source.all_readable(name, digits) else []
    if len(fits) > 1 and equally_steady(source.connection, name, *fits[:2], position=LINE):
        source.notes.append(f"{name!r} could be read as {fits[0]} or as {fits[1]}; took {fits[0]}")
    return fits[0] if fits else None

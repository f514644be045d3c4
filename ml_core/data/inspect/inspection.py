"""One look into a table, from its file to its suspects."""

from collections.abc import Sequence
from pathlib import Path

import duckdb

from ml_core.data.inspect.columns import candidates, column
from ml_core.data.inspect.findings import Inspection
from ml_core.data.inspect.label import label_of
from ml_core.data.inspect.suspects import suspects
from ml_core.data.inspect.table import SourceTable
from ml_core.data.inspect.times import event_format, span, time_formats
from ml_core.errors import SourceError, nearest


def inspect_source(  # noqa: PLR0913 - what a person may know, by name
    path: Path,
    *,
    table: str | None = None,
    event_time: str | None = None,
    time_format: str | None = None,
    time_zone: str = "UTC",
    label: str | None = None,
    kind: str | None = None,
    positive: str | None = None,
    missing: Sequence[str] = (),
) -> Inspection:
    """Look into a table.

    Parameters
    ----------
    path, table : Path, str
        As in `[flows.<flow>.data.source]`.
    event_time, label : str, optional
        What is known already; without them only candidates are named.
    time_format, kind, positive : str, optional
        Overrule what would be found: how times are written, the kind of label, the class whose probability is wanted.
    missing : sequence of str
        Texts that stand for a missing value, beside those that are found.

    Raises
    ------
    SourceError
        The file cannot be read, is empty, or has no such column, or the time column holds no times.
    """
    with duckdb.connect() as connection:
        connection.execute("set enable_progress_bar = false")
        connection.execute(f"set TimeZone = '{time_zone}'")
        try:
            source = SourceTable(connection, path, table, time_zone, missing=missing)
            for name in (event_time, label):
                if name is not None and name not in source.types:
                    raise SourceError(f"{path}: no column {name!r}: {nearest(name, source.types)}")
            return _inspection(source, event_time, time_format, label, kind=kind, positive=positive)
        except duckdb.Error as error:
            raise SourceError(f"{path}: {error}") from error


def _inspection(
    source: SourceTable,
    event_time: str | None,
    time_format: str | None,
    label: str | None,
    *,
    kind: str | None,
    positive: str | None,
) -> Inspection:
    times = time_formats(source)
    first = last = None
    if event_time is not None:
        time_format = time_format or event_format(source, event_time, times)
        first, last = span(source, event_time, time_format)
    columns = tuple(column(source, name, times, time_format) for name in source.types)
    possible = candidates(source, columns, times)
    found = None if label is None else label_of(source, next(c for c in columns if c.name == label), kind, positive)
    suspected = {}
    if label is not None and found is not None and event_time is not None:
        others = [column for column in columns if column.name not in {label, event_time}]
        suspected = suspects(source, others, label=label, found=found, event_time=event_time, time_format=time_format)
    return Inspection(
        rows=source.rows, delimiter=source.delimiter, missing=source.missing, decimal=source.decimal, columns=columns,
        event_time=event_time, time_format=time_format or None, label=label, first=first, last=last,
        label_found=found, candidates=possible, suspects=suspected, notes=source.notes,
    )  # fmt: skip

"""What each column holds, and which could be the event time, the label or the key."""

from collections.abc import Sequence

from ml_core.data.inspect.findings import Column
from ml_core.data.inspect.label import MOST_CLASSES
from ml_core.data.inspect.table import NEARLY, SourceTable
from ml_core.data.sources import LINE, as_number
from ml_core.data.tables import quoted

_SHOWN = 40  # characters of a value that a message repeats


def column(source: SourceTable, name: str, times: dict[str, str], event_format: str | None) -> Column:
    """Return what a column holds; `times` are the columns of times, as `time_formats` finds them."""
    written = quoted(name)
    distinct, present = source.connection.execute(
        f"select count(distinct {written}), count({written}) from source"
    ).fetchall()[0]
    missing = source.rows - int(present)
    if not present:
        return Column(name, "empty", int(distinct), missing)
    if name in times and times[name] in {"", event_format}:  # one source has one way to write its times
        return Column(name, "time", int(distinct), missing)
    number = as_number(written, source.decimal)
    codes = source.types[name] == "VARCHAR" and source.count(
        f"select count(*) from source where regexp_matches({written}, '^0[0-9]+$')"
    )
    flag = distinct == 1 and missing > 0  # there or not: a category, whatever the value
    if name in times or codes or flag or not source.all_readable(name, number):
        words = source.connection.execute(
            f"select avg(len(string_split(trim({written}::varchar), ' '))) from source"
        ).fetchall()[0][0]
        strays = "" if name in times or codes or flag else _strays(source, name, number)
        return Column(name, "text", int(distinct), missing, words=float(words or 1.0), strays=strays)
    cuts = source.connection.execute(
        f"select quantile_disc({number}, [.1, .2, .3, .4, .5, .6, .7, .8, .9]) from source"
    ).fetchall()[0][0]
    quantiles = tuple(dict.fromkeys(float(f"{cut:.6g}") for cut in cuts))
    return Column(name, "number", int(distinct), missing, quantiles)


def candidates(source: SourceTable, columns: Sequence[Column], times: dict[str, str]) -> dict[str, list[str]]:
    """Return the columns that could be the `event_time`, the `label` or the `key`, best first."""
    labels = [c for c in columns if 2 <= c.distinct <= MOST_CLASSES and c.name not in times]  # noqa: PLR2004
    return {
        "event_time": [name for name in source.types if name in times],
        "label": [c.name for c in sorted(labels, key=lambda c: (c.distinct, -list(source.types).index(c.name)))],
        "key": [c.name for c in columns if c.distinct == source.rows and c.kind != "time" and _is_name(source, c)],
    }


def _strays(source: SourceTable, name: str, number: str) -> str:
    """Say which few texts keep a column from being numbers, "" where they are not few; `number` is SQL."""
    present, readable = source.readable(name, number)
    if readable < NEARLY * present:
        return ""
    first = source.connection.execute(
        f"select min({quoted(LINE)}), {quoted(name)}::varchar as text from source"
        f" where {quoted(name)} is not null and {number} is null group by text order by 1 limit 2"
    ).fetchall()
    found = [f"{source.place(row)} {'has ' if not at else ''}{text[:_SHOWN]!r}" for at, (row, text) in enumerate(first)]
    return f"{readable:,} of {present:,} values are numbers, but {' and '.join(found)}"


def _is_name(source: SourceTable, column: Column) -> bool:
    """Say whether a column of different values could be a key: texts of one word, or whole numbers."""
    if column.kind == "text":
        return column.words < 1.5  # noqa: PLR2004 - names are short
    number = as_number(quoted(column.name), source.decimal)
    return not source.count(f"select count(*) from source where {number} <> floor({number})")

"""The ways people write times, and how to tell which of them a column uses."""

import itertools

import duckdb

from ml_core.data.tables import quoted

_DATES = [
    f"{order[0]}{sign}{order[1]}{sign}{order[2]}"
    for sign in ".-/"
    for order in (("%Y", "%m", "%d"), ("%d", "%m", "%Y"), ("%m", "%d", "%Y"), ("%d", "%m", "%y"), ("%m", "%d", "%y"))
]
_DATES += ["%d %b %Y", "%d %B %Y", "%b %d, %Y", "%B %d, %Y", "%d-%b-%Y", "%Y%m%d"]
_TIMES = [
    "",
    " %H:%M",
    " %H:%M:%S",
    " %H:%M:%S.%f",
    "T%H:%M:%S",
    " %H:%M:%S%z",
    " %I:%M %p",
    " %I:%M:%S %p",
    ", %H:%M",
    " %H.%M",
]
FORMATS = [day + clock for day, clock in itertools.product(_DATES, _TIMES)]


def formats_of(connection: duckdb.DuckDBPyConnection, name: str, *, position: str) -> list[str]:
    """Return the formats that read every text of a column of the table `source`, the likeliest first.

    Of several the one comes first whose times go up most steadily over `position`: a day that is read as a month jumps.
    Of equals the one with the day before the month.
    """
    column = quoted(name)
    tried = ", ".join(f"count(try_strptime({column}, '{each}'))" for each in FORMATS)
    some = f"(select {column} from source where {column} is not null limit 200)"
    counts = connection.execute(f"select count(*), {tried} from {some}").fetchall()[0]
    fits = [each for each, count in zip(FORMATS, counts[1:], strict=True) if count == counts[0] > 0]
    steps = {each: _steps(connection, column, each, position) for each in fits}
    fits = [each for each in fits if steps[each] is not None]
    return sorted(fits, key=lambda each: steps[each] or 0)


def equally_steady(connection: duckdb.DuckDBPyConnection, name: str, first: str, second: str, *, position: str) -> bool:
    """Say whether two formats cannot be told apart by the order of the rows."""
    column = quoted(name)
    return _steps(connection, column, first, position) == _steps(connection, column, second, position)


def _steps(connection: duckdb.DuckDBPyConnection, column: str, time_format: str, position: str) -> int | None:
    """Count how often time goes back from one row to the next; None where a text cannot be read."""
    read = f"try_strptime({column}, '{time_format}')"
    unread, back = connection.execute(
        f"select count(*) filter (written is not null and moment is null), count(*) filter (moment < before)"
        f" from (select {column} as written, {read} as moment, lag({read}) over (order by {quoted(position)}) as before"
        " from source)"
    ).fetchall()[0]
    return None if unread else int(back)

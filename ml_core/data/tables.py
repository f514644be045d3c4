"""The SQL of the feature store: what its tables hold and how they grow.

facts in `facts.<partition>` : the log's columns, `known_at` no earlier than the clock they came in at
`features`                   : `key`, `request_time`, then what features.sql selects; a row per entity
`examples`, `words`          : `ml_core.data.examples`, `ml_core.data.words`
`progress`                   : one row, the same as progress.json

All functions run inside the owner's transaction or a reader's session; none opens or commits anything.
"""

from collections.abc import Collection, Sequence, Set
from datetime import UTC, datetime, timedelta
from typing import Protocol

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from ml_core.data.log import OFFSET, Segment
from ml_core.data.progress import Progress, as_text, progress_of
from ml_core.errors import FeatureError, SegmentError
from ml_core.places import sql_line
from ml_core.project import DataSettings

Connection = duckdb.DuckDBPyConnection

NUMERIC = "FLOAT"
_CATEGORICAL = "VARCHAR"
_BEGINNING = datetime(1, 1, 1, tzinfo=UTC)
_INSTANT = timedelta(microseconds=1)
_EXAMPLE_COLUMNS = {"offset", "labelled_at", "label"}


def quoted(name: str) -> str:
    """Return `name` as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def read_progress(connection: Connection) -> Progress:
    """Return the progress the tables stand at."""
    connection.execute("create schema if not exists facts")
    connection.execute("create table if not exists progress (content json)")
    rows = connection.execute("select content from progress").fetchall()
    if not rows:
        return Progress(offsets={})
    return progress_of(rows[0][0], "the feature store's table `progress`")


def write_progress(connection: Connection, progress: Progress) -> None:
    """Replace the progress, in the same transaction as what it speaks of."""
    connection.execute("delete from progress")
    connection.execute("insert into progress values (?)", [as_text(progress)])


def append_facts(
    connection: Connection, partition: str, segments: Sequence[Segment], *, clock: datetime | None, first_ever: bool
) -> int:
    """Append the facts of `segments`, the partition's first ever or not; return how many of them were late."""
    table = f"facts.{quoted(partition)}"
    first_file = str(segments[0].path) if segments else ""
    files = [str(segment.path) for segment in segments if segment.next > segment.first]
    try:
        if first_ever:
            connection.execute(f"create table {table} as from read_parquet($file) limit 0", {"file": first_file})
        if not files:
            return 0
        footers = [pq.read_metadata(file) for file in files]
        if not first_ever:
            _add_columns(connection, table, files, {name for footer in footers for name in footer.schema.names})
        floor = clock + _INSTANT if clock is not None and min(map(_first_known, footers)) <= clock else None
        stamped = "known_at" if floor is None else "greatest(known_at, $floor)"
        values = {"files": files} | ({} if floor is None else {"floor": floor})
        source = "read_parquet($files, union_by_name = true)"
        facts = f"select * replace ({stamped} as known_at) from {source} order by known_at, {OFFSET}"  # noqa: S608 - identifiers are quoted
        connection.execute(f"insert into {table} by name {facts}", values)
        if floor is None:
            return 0
        count = "select count(*) from read_parquet($files) where known_at < $floor"
        return int(connection.execute(count, values).fetchall()[0][0])
    except (duckdb.Error, pa.ArrowException, OSError) as error:
        raise SegmentError(
            f"partition {partition!r}: expected whole segments with the columns of the facts before them, from"
            f" {first_file} on, found: {error}"
        ) from error


def _add_columns(connection: Connection, table: str, files: Sequence[str], names: Set[str]) -> None:
    """Give the table the columns its producer has added; facts before them have none, and a dropped one stays null."""
    held = {row[0] for row in connection.execute(f"describe {table}").fetchall()}
    if names <= held:
        return
    query = "describe from read_parquet($files, union_by_name = true)"
    for name, kind, *_ in connection.execute(query, {"files": list(files)}).fetchall():
        if name not in held:
            connection.execute(f"alter table {table} add column {quoted(name)} {kind}")


def _first_known(footer: pq.FileMetaData) -> datetime:
    """Return the earliest `known_at` of a segment, from its footer."""
    column = footer.schema.names.index("known_at")
    groups = (footer.row_group(group).column(column).statistics for group in range(footer.num_row_groups))
    first: datetime = min(statistics.min for statistics in groups)
    return first.astimezone(UTC)


class Engine(Protocol):
    """What runs features.sql: it makes the temporary table `built` from `requests` and the facts of `partitions`.

    Facts known by `since`, where it is not None, are older than any feature of these requests may look.
    """

    def __call__(
        self,
        connection: Connection,
        data: DataSettings,
        sql: str,
        *,
        partitions: Collection[str],
        since: datetime | None,
    ) -> None:
        """Make `built`; raise FeatureError where the definition fails."""


def duckdb_engine(
    connection: Connection, data: DataSettings, sql: str, *, partitions: Collection[str], since: datetime | None
) -> None:
    """Make `built` in DuckDB itself."""
    del partitions, since  # the relations stand there by name
    try:
        found = [statement.type for statement in duckdb.extract_statements(sql)]
        if found != [duckdb.StatementType.SELECT]:
            kinds = ", ".join(each.name.lower() for each in found) or "none"
            raise FeatureError(f"{data.features}: expected one statement, a select, found {kinds}")
        connection.execute(f"create or replace temp table built as {sql.rstrip().rstrip(';')}")
    except duckdb.Error as error:
        line = sql_line(str(error))
        raise FeatureError(f"{data.features}{f', line {line}' if line else ''}: {error}") from error


def build_features(
    connection: Connection,
    data: DataSettings,
    sql: str,
    *,
    partitions: Collection[str],
    after: datetime | None,
    until: datetime,
    engine: Engine = duckdb_engine,
) -> int:
    """Append the rows requested in (after, until] by running features.sql over what was known; return their number.

    features.sql sees `requests`, the entity facts with their `request_time`, and each partition's facts from
    `lookback` before the first possible request up to `until`.
    """
    _collect_requests(connection, data, after=after, until=until)
    requested = int(connection.execute("select count(*) from requests").fetchall()[0][0])
    copies = "select table_name from duckdb_tables() where temporary"
    copied = {name for (name,) in connection.execute(copies).fetchall()}
    for partition in partitions:
        _refresh_recent(connection, data, partition, copied=partition in copied, after=after, until=until)
    if requested == 0 and after is not None:
        connection.execute("create or replace temp table built as from features limit 0")
        return 0
    engine(connection, data, sql, partitions=partitions, since=None if after is None else after - data.lookback)
    if after is None:
        _check_contract(connection, data)
        connection.execute("create table features as from built limit 0")
    counted = connection.execute("select count(*), count(distinct key) from built").fetchall()[0]
    if counted != (requested, requested):
        raise FeatureError(
            f"{data.features}: expected one row for each of {requested} requests, found {counted[0]} rows with"
            f" {counted[1]} keys; a join repeats or drops rows"
        )
    connection.execute("insert into features by name from built order by request_time, key")
    return requested


def _refresh_recent(
    connection: Connection,
    data: DataSettings,
    partition: str,
    *,
    copied: bool,
    after: datetime | None,
    until: datetime,
) -> None:
    """Bring the relation that features.sql reads a partition by up to `until`.

    It is a view of the partition while the whole history is built, and a copy of what is recent afterwards: few
    rows, read several times. An owner that keeps its session only adds what became known since `after`; that the
    copy then reaches back further than the look-back changes no row, because no feature may look that far.
    """
    name, facts = quoted(partition), f"from facts.{quoted(partition)} where known_at <= $until"
    if after is None:
        instant = f"timestamptz '{until.isoformat()}'"
        connection.execute(f"drop table if exists temp.{name}")
        connection.execute(f"create or replace temp view {name} as {facts.replace('$until', instant)}")
        return
    if copied:
        values = {"until": until, "start": after}
        connection.execute(f"insert into temp.{name} {facts} and known_at > $start", values)
    else:
        values = {"until": until, "start": after - data.lookback}
        connection.execute(f"drop view if exists temp.{name}")
        connection.execute(f"create temp table {name} as {facts} and known_at > $start", values)


def _collect_requests(connection: Connection, data: DataSettings, *, after: datetime | None, until: datetime) -> None:
    """Collect the entities asked about in (after, until]; one that became known late is asked about then."""
    facts = f"from facts.{quoted(data.entity)} where known_at <= $until and"
    asked = quoted(data.request_time)
    # two ranges rather than one `greatest`, so that each is found by the tables' min-max indexes
    connection.execute(
        f"create or replace temp table requests as select *, {asked} as request_time"
        f" {facts} {asked} > $after and {asked} <= $until and {asked} >= known_at"
        f" union all select *, known_at {facts} known_at > $after and {asked} < known_at",
        {"after": after or _BEGINNING, "until": until},
    )


def read_features(connection: Connection, start: datetime, end: datetime) -> pa.Table:
    """Return the feature rows requested in [start, end), in the order of their requests."""
    return connection.sql(
        "from features where request_time >= $start and request_time < $end order by request_time, key",
        params={"start": start, "end": end},
    ).to_arrow_table()


def feature_schema(connection: Connection) -> dict[str, str]:
    """Return the feature columns by name, each ``string`` or ``float``."""
    if not exists(connection, "features"):
        raise FeatureError("expected a feature table, found none; ingest facts of every partition first")
    described = connection.execute("describe features").fetchall()
    kinds = {_CATEGORICAL: "string", NUMERIC: "float"}
    return {row[0]: kinds[row[1]] for row in described if row[0] not in {"key", "request_time"}}


def count_between(connection: Connection, partitions: Sequence[str], start: datetime, end: datetime) -> dict[str, int]:
    """Count the facts known, the rows requested and the examples labelled in [start, end)."""
    counts = {}
    for name, table, column in [
        *((partition, f"facts.{quoted(partition)}", "known_at") for partition in partitions),
        ("feature_rows", "features", "request_time"),
        ("examples", "examples", "labelled_at"),
    ]:
        query = f"select count(*) from {table} where {column} >= ? and {column} < ?"  # noqa: S608 - identifiers are quoted
        counts[name] = int(connection.execute(query, [start, end]).fetchall()[0][0])
    return counts


def exists(connection: Connection, table: str) -> bool:
    """Say whether a table is there."""
    query = """
        select count(*) from duckdb_tables()
        where database_name = current_database() and schema_name = 'main' and table_name = ? and not temporary
        """
    return bool(connection.execute(query, [table]).fetchall()[0][0])


def _check_contract(connection: Connection, data: DataSettings) -> None:
    """Hold the first result of features.sql against what a feature table is."""
    described = {row[0]: row[1] for row in connection.execute("describe built").fetchall()}
    if list(described)[:2] != ["key", "request_time"]:
        raise FeatureError(f"{data.features}: expected `key` and `request_time` first, found {list(described)[:2]}")
    for name, kind in list(described.items())[2:]:
        if name.lower() in _EXAMPLE_COLUMNS:
            raise FeatureError(f"{data.features}: a feature cannot be called {name!r}, examples have that; rename it")
        if kind not in {_CATEGORICAL, NUMERIC}:
            raise FeatureError(
                f"{data.features}: expected feature {name!r} as {_CATEGORICAL} or {NUMERIC}, found {kind}; cast it"
            )

"""The SQL of the feature store: what its tables hold and how they grow.

facts in `facts.<partition>` : the log's columns, `known_at` no earlier than the clock they came in at
`features`                   : `key`, `request_time`, then what features.sql selects; a row per entity
`examples`                   : `"offset"`, `labelled_at`, `key`, `request_time`, `label`, then the features of that row,
                               strings as codes of `words`; dense from 0, stored in order of (`labelled_at`, `key`)
`words`                      : the strings those codes stand for (`ml_core.data.words`)
`progress`                   : one row, the same as progress.json

All functions run inside the owner's transaction or a reader's session; none opens or commits anything.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from datetime import UTC, datetime, timedelta
from typing import Protocol

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ml_core.data import words
from ml_core.data.attached import beside
from ml_core.data.log import OFFSET, Segment
from ml_core.data.progress import Progress, as_text, progress_of
from ml_core.errors import FeatureError, SegmentError
from ml_core.places import sql_line
from ml_core.project import DataSettings

Connection = duckdb.DuckDBPyConnection

_NUMERIC = "FLOAT"
_CATEGORICAL = "VARCHAR"
_BEGINNING = datetime(1, 1, 1, tzinfo=UTC)
_INSTANT = timedelta(microseconds=1)
_EXAMPLE_COLUMNS = {"offset", "labelled_at", "label"}
_INSERTED_ROWS = 262_144


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


def append_examples(
    connection: Connection, data: DataSettings, first: int, *, after: datetime | None, until: datetime
) -> tuple[int, int, datetime | None]:
    """Append the examples that became known in (after, until]; return how many, how many were too late, and the last.

    An example becomes known with its label, but not before its features are asked for. An entity's first label
    counts. One that comes after the label window is counted, not joined.
    """
    _create_examples(connection)
    key, label = quoted(data.key), quoted(data.label)
    labels = f"from facts.{quoted(data.label_fact)} where {label} is not null"
    connection.execute(
        f"""
        create or replace temp table labelled as
        with labels as (  -- those that came now, and those that waited for rows built now
            select {key} as key, known_at, {label}::float as label, {OFFSET} as log_offset
            {labels} and known_at > $after and known_at <= $until
            union all
            select {key}, known_at, {label}::float, {OFFSET}
            {labels} and known_at > $after - $window and known_at <= $after
            and {key} in (select key from features where request_time > $after)
        ),
        rows as (  -- an older row's label would be too late; the same span again, so that it can be counted as such
            select key, request_time from features where request_time > $after - 2 * $window
        ),
        seen as (select key from examples where labelled_at > $after - 2 * $window)
        select key, request_time, label, greatest(known_at, request_time) as labelled_at,
               known_at > request_time + $window as too_late
        from labels
        join rows using (key)
        anti join seen using (key)
        qualify row_number() over (partition by key order by known_at, log_offset) = 1
        """,  # noqa: S608 - identifiers are quoted, the rest is ours
        {"after": after or datetime(1900, 1, 1, tzinfo=UTC), "until": until, "window": data.label_window},
    )
    connection.execute(
        "create or replace temp table fresh as select $first + row_number() over (order by labelled_at, key) - 1"
        ' as "offset", labelled_at, key, request_time, label from labelled where not too_late',
        {"first": first},
    )
    _insert_fresh(connection)
    appended, too_late, last = connection.execute(
        "select count(*) filter (not too_late), count(*) filter (too_late),"
        " max(labelled_at) filter (not too_late) from labelled"
    ).fetchall()[0]
    return int(appended), int(too_late), last and last.astimezone(UTC)


def rebuild_examples(connection: Connection) -> None:
    """Store the examples again, beside the features as they are now."""
    if not _exists(connection, "examples"):
        return
    connection.execute(
        'create or replace temp table fresh as select "offset", labelled_at, key, request_time, label from examples'
    )
    connection.execute("drop table examples")
    connection.execute("drop table if exists words")
    _create_examples(connection)
    _insert_fresh(connection)


def read_examples(
    connection: Connection, first: int, stop: int, *, named: Sequence[str], rows: int
) -> Iterator[pa.RecordBatch]:
    """Yield examples [first, stop) in order, in batches of `rows`, their strings as Arrow dictionaries.

    Where there are none, one batch without rows.
    Columns: `offset`, those of `named`, `label`, then the features.
    """
    schema = feature_schema(connection)
    dictionaries = words.Dictionaries(connection, _texts(schema), stop - first)
    columns = ", ".join(map(quoted, ("offset", *named, "label", *schema)))
    # stored in this order and read back in it; sorting again costs as much as reading
    query = f'select {columns} from examples where "offset" >= $first and "offset" < $stop'  # noqa: S608 - identifiers are quoted
    at = first
    with beside(connection) as scan:  # so that a dictionary can be asked for meanwhile
        reader = scan.sql(query, params={"first": at, "stop": stop}).to_arrow_reader(rows)
        for batch in reader:
            if not np.array_equal(batch.column("offset"), np.arange(at, at + batch.num_rows)):
                break
            yield dictionaries.attach(batch)
            at += batch.num_rows
        else:
            if at == first:
                yield dictionaries.attach(pa.RecordBatch.from_pylist([], reader.schema))
            return
        reader = scan.sql(f'{query} order by "offset"', params={"first": at, "stop": stop}).to_arrow_reader(rows)
        yield from map(dictionaries.attach, reader)


def _create_examples(connection: Connection) -> None:
    if _exists(connection, "examples"):
        return
    kinds = {"string": words.CODE, "float": _NUMERIC}
    features = "".join(f", {quoted(name)} {kinds[kind]}" for name, kind in feature_schema(connection).items())
    connection.execute(
        'create table examples ("offset" bigint, labelled_at timestamptz, key varchar, request_time timestamptz,'
        f" label float{features})"
    )


def _insert_fresh(connection: Connection) -> None:
    """Append the examples of `fresh` with their features, so many at a time."""
    schema = feature_schema(connection)
    columns = ", ".join(map(quoted, schema))
    first, stop = connection.execute('select min("offset"), max("offset") + 1 from fresh').fetchall()[0]
    for start in range(first or 0, stop or 0, _INSERTED_ROWS):
        chosen = connection.sql(
            f"""
            with chosen as (from fresh where "offset" >= $start and "offset" < $start + {_INSERTED_ROWS}),
            bounds as (select min(request_time) as earliest, max(request_time) as latest from chosen)
            select chosen.*, {columns}
            from chosen
            join (select key, {columns} from features where request_time >= (select earliest from bounds)
                  and request_time <= (select latest from bounds)) as features using (key)
            order by "offset"
            """,  # noqa: S608 - identifiers are quoted
            params={"start": start},
        ).to_arrow_table()
        connection.register("encoded", words.encode(connection, chosen, _texts(schema)))
        connection.execute('insert into examples by name from encoded order by "offset"')
        connection.unregister("encoded")


def _texts(schema: Mapping[str, str]) -> list[str]:
    return [name for name, kind in schema.items() if kind == "string"]


def read_features(connection: Connection, start: datetime, end: datetime) -> pa.Table:
    """Return the feature rows requested in [start, end), in the order of their requests."""
    return connection.sql(
        "from features where request_time >= $start and request_time < $end order by request_time, key",
        params={"start": start, "end": end},
    ).to_arrow_table()


def feature_schema(connection: Connection) -> dict[str, str]:
    """Return the feature columns by name, each ``string`` or ``float``."""
    if not _exists(connection, "features"):
        raise FeatureError("expected a feature table, found none; ingest facts of every partition first")
    described = connection.execute("describe features").fetchall()
    kinds = {_CATEGORICAL: "string", _NUMERIC: "float"}
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


def _exists(connection: Connection, table: str) -> bool:
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
        if kind not in {_CATEGORICAL, _NUMERIC}:
            raise FeatureError(
                f"{data.features}: expected feature {name!r} as {_CATEGORICAL} or {_NUMERIC}, found {kind}; cast it"
            )

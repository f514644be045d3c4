"""The examples of the feature store: rows with their labels, in one total order, as training reads them.

`examples` holds `"offset"`, `labelled_at`, `key`, `request_time`, `label`, then the features of that row, strings as
codes of `words` (`ml_core.data.words`); dense from 0, stored in order of (`labelled_at`, `key`), and never changed but
with the definition of the features. Like `ml_core.data.tables`, nothing here opens or commits anything.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa

from ml_core.data import words
from ml_core.data.attached import beside
from ml_core.data.log import OFFSET
from ml_core.data.tables import NUMERIC, Connection, exists, feature_schema, quoted
from ml_core.project import DataSettings

_INSERTED_ROWS = 262_144


def append(
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


def rebuild(connection: Connection) -> None:
    """Store the examples again, beside the features as they are now."""
    if not exists(connection, "examples"):
        return
    connection.execute(
        'create or replace temp table fresh as select "offset", labelled_at, key, request_time, label from examples'
    )
    connection.execute("drop table examples")
    connection.execute("drop table if exists words")
    _create_examples(connection)
    _insert_fresh(connection)


def read(connection: Connection, first: int, stop: int, *, named: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
    """Yield examples [first, stop) in order, in batches of `rows`, their strings as Arrow dictionaries.

    Where there are none, one batch without rows.
    Columns: `offset`, those of `named`, `label`, then the features.
    """
    schema = feature_schema(connection)
    columns = ", ".join(map(quoted, ("offset", *named, "label", *schema)))
    # stored in this order and read back in it; sorting again costs as much as reading
    query = f'select {columns} from examples where "offset" >= $first and "offset" < $stop'  # noqa: S608 - identifiers are quoted
    at = first
    with ThreadPoolExecutor(1, thread_name_prefix="words") as pool, beside(connection) as scan:
        # while the first rows are read
        coming = pool.submit(words.Dictionaries, connection, _texts(schema), stop - first)
        with scan.sql(query, params={"first": at, "stop": stop}).to_arrow_reader(rows) as reader:
            for batch in reader:
                if not np.array_equal(batch.column("offset"), np.arange(at, at + batch.num_rows)):
                    break
                yield coming.result().attach(batch)
                at += batch.num_rows
            else:
                if at == first:
                    yield coming.result().attach(pa.RecordBatch.from_pylist([], reader.schema))
                return
        in_order = f'{query} order by "offset"'
        with scan.sql(in_order, params={"first": at, "stop": stop}).to_arrow_reader(rows) as reader:
            yield from map(coming.result().attach, reader)


def _create_examples(connection: Connection) -> None:
    if exists(connection, "examples"):
        return
    kinds = {"string": words.CODE, "float": NUMERIC}
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

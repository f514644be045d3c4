"""From a flow's source into its event log: what the log does not hold yet, and nothing twice.

A fact is known by its key. Rows may be added anywhere and a missing label may be filled in later; the row is then
asked for, and the label joined, from the first instant they could be known. A row that was taken in is never taken
back: a source that changed it afterwards is not looked at again.

One process at a time takes a flow's source in. A crash between the two kinds of fact is healed by the next call.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from ml_core.clock import as_utc
from ml_core.data.lock import locked
from ml_core.data.log import ARCHIVE, OFFSET
from ml_core.data.replay import Replay, load_facts
from ml_core.data.sources import Stamp, opened, stamp
from ml_core.data.store import FeatureStore
from ml_core.data.tables import quoted
from ml_core.disk import room_for
from ml_core.errors import SourceError
from ml_core.project import Flow, day_start

_STAMP = "taken_in"


@dataclass(frozen=True, slots=True)
class TakenIn:
    """What one call brought into the log.

    Attributes
    ----------
    rows, labels : int
        New facts of either kind.
    left_out : int
        Rows of the source without a time or a key, or with the key of an earlier row.
    through : datetime
        The instant the log is complete through now.
    """

    rows: int
    labels: int
    left_out: int
    through: datetime


def take_in(flow: Flow, store: FeatureStore, *, root: Path, now: datetime, wait_s: float = 60.0) -> TakenIn:
    """Append what is new in the flow's source to its event log.

    The log is then complete through the time of the newest row, as the source cannot hold what happens after it; where
    `ends` has passed, through the last label of the finished history.

    Parameters
    ----------
    root : Path
        The project's root.
    now : datetime
        No row may be later.

    Raises
    ------
    SourceError
        The source is missing, does not fit its declaration, is empty, or holds a time after `now`. Nothing is taken in.
    """
    now = as_utc(now)
    folder = _folder(store)
    with room_for("what is taken in", folder), _held(folder, wait_s):
        seen = stamp(flow, root)  # before reading: what is written meanwhile is for the next call
        with opened(flow, root) as connection:
            through = _complete_through(connection, flow, now)
            taken = {name: _append_new(connection, flow, store, name, through) for name in _kinds(flow)}
            rows, labels = (taken[name] for name in _kinds(flow))
            left_out = _count(connection, "source") - _count(connection, quoted(flow.data.entity))
        (folder / _STAMP).write_text(str(seen), encoding="utf-8")
    return TakenIn(rows, labels, left_out, through)


@contextmanager
def _held(folder: Path, wait_s: float) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder, exclusive=True, wait_s=wait_s):
        yield


def waits(flow: Flow, store: FeatureStore, root: Path) -> Stamp | None:
    """Return the stamp of a source that changed since it was last taken in, None when it did not."""
    now, file = stamp(flow, root), _folder(store) / _STAMP
    return None if file.exists() and file.read_text(encoding="utf-8") == str(now) else now


def take_in_all(flow: Flow, store: FeatureStore, *, root: Path, home: Path, now: datetime) -> None:
    """Bring whatever a flow's source or loader holds into the log, and absorb it.

    A loader's facts are only played into an empty log: one that holds some is somebody else's to feed.
    """
    if flow.data.source is not None:
        take_in(flow, store, root=root, now=now)
    elif flow.data.loader is not None and store.log.last(flow.data.entity) is None:
        replay = Replay(load_facts(flow, home))
        replay.ingest(store.log, replay.end)
    store.absorb()


def _kinds(flow: Flow) -> tuple[str, str]:
    return flow.data.entity, flow.data.label_fact


def _folder(store: FeatureStore) -> Path:
    return store.directory / "source"


def _complete_through(connection: duckdb.DuckDBPyConnection, flow: Flow, now: datetime) -> datetime:
    """Return the instant through which the source tells everything; raise SourceError when it has none or is ahead."""
    entity, label = map(quoted, _kinds(flow))
    newest: datetime | None = connection.execute(f"select max(known_at) from {entity}").fetchall()[0][0]
    if newest is None:
        raise SourceError(f"flow {flow.name}: expected rows with a time in its source, found none")
    if newest > now:
        time, source = quoted(flow.data.request_time), flow.data.source
        count, key = connection.execute(
            f"select count(*), min({quoted(flow.data.key)}) from {entity} where {time} > $now", {"now": now}
        ).fetchall()[0]
        raise SourceError(
            f"flow {flow.name}: {source and source.path}: expected times up to now, {now:%Y-%m-%d %H:%M} UTC, found"
            f" {count} rows after it, up to {newest:%Y-%m-%d %H:%M}, among them {flow.data.key} {key!r}. Correct them,"
            f" or check time_format and time_zone in [flows.{flow.name}.data.source]: day and month may have swapped"
        )
    if flow.data.ends is not None and day_start(flow.data.ends) <= now:
        last: datetime = connection.execute(f"select max(known_at) from {label}").fetchall()[0][0]
        return max(min(last, now), day_start(flow.data.ends), newest)
    return newest


def _append_new(
    connection: duckdb.DuckDBPyConnection, flow: Flow, store: FeatureStore, kind: str, through: datetime
) -> int:
    """Append the facts of one kind that the log does not hold; a label that is missing is no fact yet."""
    key, folder = quoted(flow.data.key), store.log.directory / kind
    files = [str(file) for place in (folder, folder / ARCHIVE) for file in place.glob("*.parquet")]
    present = f"where {quoted(flow.data.label)} is not null" if kind == flow.data.label_fact else ""
    query = f"from {quoted(kind)} {present}"
    values: dict[str, object] = {}
    if files:
        query = f"from ({query}) anti join (select {key} from read_parquet($files, union_by_name = true)) using ({key})"
        values["files"] = files
    facts: pa.Table = connection.sql(f"{query} order by known_at, {key}", params=values).to_arrow_table()
    last = store.log.last(kind)
    through = max(through, last.through) if last else through
    if last is not None:
        _same_columns(flow, kind, before=pq.read_schema(last.path), now=facts.schema)
    if facts.num_rows or last is None or through > last.through:
        store.log.append(kind, facts, through=through)
    return int(facts.num_rows)


def _same_columns(flow: Flow, kind: str, *, before: pa.Schema, now: pa.Schema) -> None:
    """Raise SourceError where facts would not fit those already in the log: a segment there is for ever."""
    old, new = set(before.names) - {OFFSET}, set(now.names)
    if old != new:
        raise SourceError(
            f"flow {flow.name}: `{kind}` facts hold {_listed(old - new)} no longer and {_listed(new - old)} newly; the"
            f" columns of a flow's facts are fixed. Restore [flows.{flow.name}.data.source], or give the changed flow"
            " another name"
        )


def _listed(names: set[str]) -> str:
    return ", ".join(map(repr, sorted(names))) or "nothing"


def _count(connection: duckdb.DuckDBPyConnection, table: str) -> int:
    return int(connection.execute(f"select count(*) from {table}").fetchall()[0][0])

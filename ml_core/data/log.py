"""The event log: facts in immutable Parquet segments, one folder per kind of fact.

A producer never touches DuckDB. It writes a segment under a temporary name, syncs it and renames it, so a reader sees
it whole or not at all. A segment's name says everything a sensor needs: the dense offsets [first, next) it holds and
the instant it is complete *through*: the partition will deliver no other fact known by then. A segment without facts
only moves that instant on.

Every fact has `event_time`, when it happened, and `known_at`, when it could first be known; both are UTC instants.
"""

import fcntl
import itertools
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ml_core.clock import as_utc
from ml_core.disk import room_for
from ml_core.errors import SegmentError

_NAME = re.compile(r"(?P<first>\d{20})-(?P<next>\d{20})-(?P<through>\d{8}T\d{12}Z)\.parquet")
_INSTANT = "%Y%m%dT%H%M%S%f"
_UTC_MICROS = pa.timestamp("us", tz="UTC")
REQUIRED = ("event_time", "known_at")
OFFSET = "log_offset"
ARCHIVE = "absorbed"
_SOURCE = b"modelflow.source"


@dataclass(frozen=True, slots=True, order=True)
class Segment:
    """One immutable file of the log: the facts at offsets [first, next) of a partition, complete through `through`."""

    first: int
    next: int
    through: datetime
    path: Path

    @classmethod
    def parse(cls, path: Path) -> "Segment":
        """Read a segment's name; raise SegmentError when it is not one."""
        match = _NAME.fullmatch(path.name)
        if match is None:
            raise SegmentError(f"{path}: expected <first>-<next>-<through>.parquet, found {path.name!r}; move it away")
        through = datetime.strptime(match["through"][:-1], _INSTANT).replace(tzinfo=UTC)
        return cls(int(match["first"]), int(match["next"]), through, path)


class EventLog:
    """The producers' face of a flow's data.

    Parameters
    ----------
    directory : Path
        Holds one folder per partition; made when the first segment is written.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._last: dict[str, Segment] = {}

    def append(
        self, partition: str, facts: pa.Table, *, through: datetime, source: Mapping[str, Any] | None = None
    ) -> Segment:
        """Write `facts` as the partition's next segment.

        Parameters
        ----------
        partition : str
            The kind of fact.
        facts : pyarrow.Table
            Holds `event_time` and `known_at`, timestamps with a zone, and the columns of this kind.
        through : datetime
            No other fact of this partition will be known by this instant.
        source : mapping, optional
            Where the producer stands in its own source after these facts, as JSON values. It becomes visible with the
            facts or not at all, so a producer that goes on from `source_of` the last segment repeats and loses nothing.

        Raises
        ------
        SegmentError
            A required column is missing or is not an instant, or `through` lies before that of the last segment.
        """
        for name in REQUIRED:
            if name not in facts.column_names or not pa.types.is_timestamp(facts.schema.field(name).type):
                raise SegmentError(f"{partition}: expected facts with a timestamp {name!r}, found {facts.column_names}")
            if facts.schema.field(name).type.tz is None:
                raise SegmentError(f"{partition}: expected {name!r} with a time zone, found none; make it UTC")
        folder = self.directory / partition
        with room_for(f"a segment of {partition!r}", folder), _one_producer(folder):
            last = self.last(partition)
            first, through = (last.next if last else 0), as_utc(through)
            if last is not None and through < last.through:
                raise SegmentError(
                    f"{partition}: complete through {last.through} already, asked to go back to {through}"
                )
            name = f"{first:020d}-{first + facts.num_rows:020d}-{through.strftime(_INSTANT)}Z.parquet"
            _write_whole(folder / name, _numbered(facts, first), source)
            segment = Segment(first, first + facts.num_rows, through, folder / name)
        self._last[partition] = segment
        return segment

    def last(self, partition: str) -> Segment | None:
        """Return the newest segment of a partition."""
        known = self._last.get(partition)
        if known is not None and known.path.exists() and not self._grew_past(known):
            return known
        segments = self.segments(partition)
        return segments[-1] if segments else None

    def segments(self, partition: str) -> tuple[Segment, ...]:
        """Return a partition's segments in order; raise SegmentError on a gap or an overlap."""
        paths = (self.directory / partition).glob("*.parquet")
        segments = tuple(sorted(Segment.parse(path) for path in paths))
        for before, after in itertools.pairwise(segments):
            if after.first != before.next:
                raise SegmentError(
                    f"{after.path}: expected a segment that starts at offset {before.next}, found {after.first};"
                    " a segment was lost or put there by hand"
                )
        return segments

    def archive(self, partition: str, absorbed: int) -> None:
        """Move the segments below offset `absorbed` aside, all but the newest, so that the folder stays short.

        Their content does not change, and `absorbed/` keeps them for a rebuild from the very beginning.
        """
        aside = self.directory / partition / ARCHIVE
        for segment in self.segments(partition)[:-1]:
            if segment.next <= absorbed:
                aside.mkdir(exist_ok=True)
                segment.path.rename(aside / segment.path.name)

    def partitions(self) -> tuple[str, ...]:
        """Return the kinds of facts the log holds, sorted."""
        if not self.directory.is_dir():
            return ()
        return tuple(sorted({segment.parent.name for segment in self.directory.glob("*/*.parquet")}))

    def newest(self) -> tuple[Segment, ...]:
        """Return the newest segment of each partition that has one."""
        found = (self.last(partition) for partition in self.partitions())
        return tuple(segment for segment in found if segment is not None)

    def _grew_past(self, segment: Segment) -> bool:
        """Say whether another producer wrote after `segment`: the folder changed since."""
        return segment.path.parent.stat().st_mtime_ns > segment.path.stat().st_ctime_ns


def _numbered(facts: pa.Table, first: int) -> pa.Table:
    """Put the offsets first and every instant into UTC microseconds."""
    columns = {OFFSET: pa.array(range(first, first + facts.num_rows), pa.int64())}
    for name in facts.column_names:
        column = facts.column(name)
        columns[name] = column.cast(_UTC_MICROS) if pa.types.is_timestamp(column.type) and column.type.tz else column
    return pa.table(columns)


def source_of(segment: Segment) -> dict[str, Any] | None:
    """Return where the producer of a segment stood after it; None where it did not say."""
    try:
        metadata = pq.read_schema(segment.path).metadata or {}
    except (OSError, pa.ArrowException) as error:
        raise SegmentError(f"{segment.path}: expected a whole Parquet file, found {error}") from error
    return json.loads(metadata[_SOURCE]) if _SOURCE in metadata else None


def _write_whole(path: Path, table: pa.Table, source: Mapping[str, Any] | None) -> None:
    part = path.with_suffix(".part")
    if source is not None:
        table = table.replace_schema_metadata({_SOURCE: json.dumps(source)})
    try:
        with part.open("wb") as file:
            pq.write_table(table, file, compression="zstd")
            file.flush()
            os.fsync(file.fileno())
        part.rename(path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def _one_producer(folder: Path) -> Iterator[None]:
    """Let one producer at a time choose the next offset; what a killed one left half-written is removed."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".producer").open("a+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for part in folder.glob("*.part"):
            part.unlink()
        yield

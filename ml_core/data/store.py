"""The feature store: facts absorbed into DuckDB, a point-in-time feature row per entity, examples in one total order.

One process at a time owns the DuckDB file (`ml_core.data.file`), for as long as a short transaction takes. `absorb` is
that transaction: it takes in every whole segment of the log, builds the rows whose request time the flow's clock has
reached, and appends the examples whose label became known, all or nothing. Readers share the file; sensors read
`progress.json` and never the file.

The flow's *clock* is the instant through which every partition is complete. A fact that comes in late, known at or
before a clock that has already passed, is stamped with the first instant after it: rows requested earlier cannot
change, and a rebuild from the log's facts gives the same rows.
"""

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from datetime import date, datetime
from functools import partial
from pathlib import Path

import duckdb
import pyarrow as pa

from ml_core.clock import as_utc
from ml_core.data import examples, tables
from ml_core.data.ahead import Batches, ahead, slices
from ml_core.data.file import StoreFile
from ml_core.data.log import EventLog, Segment
from ml_core.data.progress import Progress, ProgressFile
from ml_core.data.words import decoded
from ml_core.errors import FeatureError
from ml_core.project import Flow, day_start

_BATCH_ROWS = 32_768


@dataclass(frozen=True, slots=True)
class Absorbed:
    """What one `absorb` took in."""

    facts: int = 0
    feature_rows: int = 0
    examples: int = 0
    late_facts: int = 0


class FeatureStore:
    """The data of one flow.

    Parameters
    ----------
    flow : Flow
    root : Path
        The project's root; `features.sql` is found from it.
    home : Path
        Where state lives; the store is `flows/<flow>` under it.
    wait_s : float
        How long to wait for the file's owner before StoreBusyError.

    Attributes
    ----------
    spark_folder : Path
        Where Parquet files for Spark go; on a cluster every worker has it under this path.
    """

    def __init__(self, flow: Flow, *, root: Path, home: Path, wait_s: float = 60.0) -> None:
        self.home = home
        self.directory = home / "flows" / flow.name
        self.log = EventLog(self.directory / "log")
        self.spark_folder = home / flow.data.spark_folder if flow.data.spark_folder else self.directory / "spark"
        self._flow = flow
        self._features = root / flow.data.features
        self._progress = ProgressFile(self.directory / "progress.json")
        self._engine = self._engine_of(flow.data.engine)
        seen = [self.log.directory]
        if flow.serving.prediction_log is not None:
            seen.append(home / flow.serving.prediction_log)
        if flow.data.engine == "spark":
            seen.append(self.spark_folder.resolve())
        self._file = StoreFile(self.directory / "store.duckdb", log=self.log.directory, seen=seen, wait_s=wait_s)

    # -- what sensors read ---------------------------------------------------------------------------------------

    def progress(self) -> Progress:
        """Return how far the data has come, without opening the DuckDB file."""
        return self._progress.read()

    @property
    def waited_s(self) -> float:
        """For how long sessions of this object waited for the file."""
        return self._file.waited_s

    # -- what the owner does -------------------------------------------------------------------------------------

    @contextmanager
    def session(self) -> Iterator[None]:
        """Own the DuckDB file over several calls, as a replay does; `absorb` and reads then cost no opening."""
        with self._file.owner():
            yield

    def standing_still(self) -> AbstractContextManager[None]:
        """Keep everybody else out; meanwhile the file is whole on disk, with nothing beside it, and may be copied."""
        return self._file.standing_still()

    def wanted(self) -> bool:
        """Say whether another process waits for the file; a resident owner then ends its session."""
        return self._file.wanted()

    def absorb(self, *, join_labels: bool = True) -> Absorbed:
        """Take in every pending segment in one transaction; nothing pending is no work.

        Where `features.sql` changed since, the whole feature table is built by the new one, and the examples'
        features from it.

        Parameters
        ----------
        join_labels : bool
            Whether labels become examples now. An owner that asks for features many times before anybody learns may
            leave them to a later call: the examples and their order are the same.

        Raises
        ------
        SegmentError
            A segment is missing, damaged, or has other columns than its partition.
        FeatureError
            `features.sql` failed or broke its contract. Nothing was taken in.
        StoreBusyError
            Another process kept the file for too long.
        """
        with self._file.owner() as connection:
            before = tables.read_progress(connection)
            # a step of a few hundred facts is all planning, which more threads only hold up
            connection.execute("reset threads" if before.clock is None else "set threads = 1")
            connection.execute("begin")
            try:
                absorbed, after = self._absorb(connection, before, join_labels=join_labels)
            except Exception:
                connection.execute("rollback")
                raise
            connection.execute("commit")
            if not self._progress.says(after):  # also what an earlier owner took in and could not tell of any more
                self._progress.write(after)
                for partition, offset in (after.offsets or {}).items():
                    self.log.archive(partition, offset)
        return absorbed

    def rebuild(self) -> None:
        """Build the whole feature table again from the absorbed facts, and the examples' features from it.

        The same rows as they grew by.
        """
        with self._file.owner() as connection:
            progress = tables.read_progress(connection)
            if progress.clock is None:
                return
            after = replace(progress, features=self.fingerprint())
            connection.execute("begin")
            self._rebuild(connection, progress.offsets or {}, progress.clock)
            tables.write_progress(connection, after)
            connection.execute("commit")
        self._progress.write(after)

    # -- what readers ask ----------------------------------------------------------------------------------------

    def examples(self, first: int, stop: int) -> pa.Table:
        """Return the examples at offsets [first, stop), in order.

        Columns: `offset`, `key`, `request_time`, `labelled_at`, `label` (float32, 0 or 1), then the features.
        """
        batches = self._slice(first, stop, rows=_BATCH_ROWS, named=("key", "request_time", "labelled_at"))
        return decoded(pa.Table.from_batches(batches))

    def example_batches(self, first: int, stop: int, *, rows: int = _BATCH_ROWS) -> Iterator[pa.RecordBatch]:
        """Yield the examples at offsets [first, stop) in batches of at most `rows`, in order.

        Columns: `offset`, `labelled_at`, `label`, then the features, strings as Arrow dictionaries. Keys and request
        times stay behind: learning has no use for them, and reading them costs about as much as reading the rest.
        Slices of several batches are read in a thread of their own, each without a pause and the next one ahead: the
        file is held while a slice is read, never for as long as its consumer learns, and a session for each batch
        would cost several times what reading it does.
        """
        alone = not self._file.owned
        read = partial(self._slice, rows=rows, named=("labelled_at",), alone=alone)
        if alone:
            yield from ahead(slices(read, first, stop))
        else:  # the file is held anyway, by this thread
            for part in slices(read, first, stop):
                yield from list(part())

    def _slice(self, first: int, stop: int, *, rows: int, named: Sequence[str], alone: bool = False) -> Batches:
        with self._file.shared() if alone else self._file.reader() as connection:
            yield from examples.read(connection, first, stop, named=named, rows=rows)

    def offset_at(self, instant: datetime) -> int:
        """Return the offset of the first example that became known at or after `instant`."""
        with self._file.reader() as connection:
            query = "select count(*) from examples where labelled_at < ?"
            return int(connection.execute(query, [as_utc(instant)]).fetchall()[0][0])

    def feature_rows(self, start: datetime, end: datetime) -> pa.Table:
        """Return the rows requested in [start, end): `key`, `request_time`, then the features a caller sends."""
        with self._file.reader() as connection:
            return tables.read_features(connection, as_utc(start), as_utc(end))

    def reading(self) -> AbstractContextManager[duckdb.DuckDBPyConnection]:
        """Open a reader's session over several questions, for what sums over the tables rather than takes rows out."""
        return self._file.reader(with_all_cores=True)

    def schema(self) -> dict[str, str]:
        """Return the feature columns, each ``string`` or ``float``; raise FeatureError before the first row."""
        with self._file.reader() as connection:
            return tables.feature_schema(connection)

    def counts_between(self, first: date, end: date) -> dict[str, int]:
        """Count what belongs to the UTC days [first, end): facts by partition, feature rows by request, examples."""
        with self._file.reader() as connection:
            return tables.count_between(connection, self.log.partitions(), day_start(first), day_start(end))

    def fingerprint(self) -> str:
        """Return a sha256 over the feature definition: a version trained under another cannot be continued."""
        return hashlib.sha256(self._sql().encode()).hexdigest()

    def built_by(self) -> str:
        """Return the fingerprint of the definition that the stored rows were built by, which may be edited since."""
        return self.progress().features or self.fingerprint()

    # -- inside --------------------------------------------------------------------------------------------------

    def _rebuild(self, connection: duckdb.DuckDBPyConnection, partitions: Collection[str], until: datetime) -> None:
        connection.execute("drop table features")
        tables.build_features(
            connection,
            self._flow.data,
            self._sql(),
            partitions=partitions,
            after=None,
            until=until,
            engine=self._engine,
        )
        examples.rebuild(connection)

    def _absorb(
        self, connection: duckdb.DuckDBPyConnection, before: Progress, *, join_labels: bool
    ) -> tuple[Absorbed, Progress]:
        waiting = {partition: self.log.segments(partition) for partition in self.log.partitions()}
        clock = self._clock(waiting, before.clock)
        if clock is None:
            return Absorbed(), before
        offsets = dict(before.offsets or {})
        facts = late = 0
        for partition, segments in waiting.items():
            fresh = [segment for segment in segments if segment.first >= offsets.get(partition, 0)]
            late += tables.append_facts(
                connection, partition, fresh, clock=before.clock, first_ever=partition not in offsets
            )
            facts += sum(segment.next - segment.first for segment in fresh)
            offsets[partition] = max(offsets.get(partition, 0), segments[-1].next)
        joined = before.joined_through or before.clock
        definition = self.fingerprint()
        changed = before.features not in {"", definition}
        if clock == before.clock and not facts and not changed and (joined == clock or not join_labels):
            return Absorbed(), before
        if changed and before.clock is not None:
            self._rebuild(connection, offsets, before.clock)
        rows = tables.build_features(
            connection,
            self._flow.data,
            self._sql(),
            partitions=offsets,
            after=before.clock,
            until=clock,
            engine=self._engine,
        )
        labelled, late_labels, labelled_through = 0, 0, None
        if join_labels or before.clock is None:
            labelled, late_labels, labelled_through = examples.append(
                connection, self._flow.data, before.next_example, after=joined, until=clock
            )
            joined = clock
        after = replace(
            before,
            clock=clock,
            offsets=offsets,
            next_example=before.next_example + labelled,
            labelled_through=labelled_through or before.labelled_through,
            late_facts=before.late_facts + late,
            late_labels=before.late_labels + late_labels,
            joined_through=None if joined == clock else joined,
            features=definition,
        )
        tables.write_progress(connection, after)
        return Absorbed(facts, rows, labelled, late), after

    def _clock(self, waiting: Mapping[str, Sequence[Segment]], before: datetime | None) -> datetime | None:
        """Return the instant every partition is complete through; None before all that the flow needs are there."""
        needed = {self._flow.data.entity, self._flow.data.label_fact}
        if before is None:  # what comes over Kafka comes kind by kind, and features.sql may speak of any of them
            needed |= set(self._flow.stream.facts)
        if not needed <= set(waiting):
            return before
        complete = min(segments[-1].through for segments in waiting.values())
        return complete if before is None else max(before, complete)

    def _engine_of(self, name: str) -> tables.Engine:
        if name == "duckdb":
            return tables.duckdb_engine
        from ml_core.data.spark.engine import SparkEngine

        return SparkEngine(self.spark_folder)

    def _sql(self) -> str:
        try:
            return self._features.read_text(encoding="utf-8")
        except OSError as error:
            raise FeatureError(
                f"{self._flow.name}: expected the feature definition at {self._features}: {error}"
            ) from error

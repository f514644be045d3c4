"""The prediction log: what was asked and answered, as Parquet files that rotate within a bounded folder.

A request adds one reference to a bounded queue; a thread of its own turns rows into columns and writes them, and lets
the challenger score the rows it shadows. A file is renamed into place when it is whole, and holds rows of one version.
Where the queue is full or the disk is, rows are dropped and counted: a log never costs an answer.
"""

import contextlib
import logging
import os
import random
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import count, groupby
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
from numpy.typing import NDArray

from ml_core.clock import Clock, SystemClock
from ml_core.flow.logged import LIVE, SERVED, SHADOW, STREAMED, SUFFIX
from serving.challenger import Challenger
from serving.keys import keys_of
from serving.model import ServedModel
from serving.packing import NUMBERS, STRINGS
from serving.rows import Feed
from serving.wire import Rows, feed_of, scored_by

_LOG = logging.getLogger("modelflow.serving")


@dataclass(frozen=True, slots=True)
class LogSettings:
    """How predictions are logged.

    Attributes
    ----------
    folder : Path
        A folder of its own; several workers share it.
    share : float
        The share of requests that are logged, chosen by lot.
    most_bytes : int
        The oldest files are removed beyond it.
    file_rows, file_s : int, float
        A file is written when so many rows wait, or so many seconds have passed.
    queue_rows : int
        Rows that may wait; what comes on top is dropped and counted.
    key : str
        The column by which a row's label is found later; callers send it beside the features (`serving.keys`).
    """

    folder: Path
    share: float = 1.0
    most_bytes: int = 1024 * 1024 * 1024
    file_rows: int = 50_000
    file_s: float = 10.0
    queue_rows: int = 200_000
    key: str = "key"


@dataclass(frozen=True, slots=True)
class _Entry:
    at: datetime
    request_id: str
    model: ServedModel
    rows: Rows
    scores: NDArray[np.float32]
    role: str
    shadow: ServedModel | None = None


class PredictionLog:
    """Logs what is scored; `add` may be called from any thread.

    Attributes
    ----------
    written, dropped : int
        Rows; what a challenger could not score in the shadow is among those dropped.
    """

    def __init__(
        self, settings: LogSettings, *, clock: Clock | None = None, challenger: Challenger | None = None
    ) -> None:
        self.settings = settings
        self._challenger = challenger
        self.written = self.dropped = 0
        self._clock = clock or SystemClock()
        self._waiting: deque[_Entry] = deque()
        self._rows_waiting = 0
        self._counts = threading.Lock()  # of `_rows_waiting` and `dropped`, which several threads change
        self._files = count()
        self._wake, self._closing = threading.Event(), False
        settings.folder.mkdir(parents=True, exist_ok=True)
        self._thread = threading.Thread(target=self._write_on, name="prediction-log", daemon=True)
        self._thread.start()

    def add(
        self, model: ServedModel, rows: Rows, scores: NDArray[np.float32], request_id: str, *, role: str = SERVED
    ) -> None:
        """Log one request, if its lot says so or it has a shadow, and if there is room.

        Parameters
        ----------
        role : {"served", "canary"}
            As what `model` answered.
        """
        shadow = self._challenger.shadow(model) if self._challenger is not None and role == SERVED else None
        if shadow is None and self.settings.share < 1 and random.random() >= self.settings.share:  # noqa: S311 - a sample
            return
        count = len(scores)
        entry = _Entry(self._clock.now(), request_id, model, rows, scores, role, shadow)
        with self._counts:
            waiting = self._rows_waiting + count
            if waiting > self.settings.queue_rows:
                self.dropped += count
                return
            self._rows_waiting = waiting
            self._waiting.append(entry)
        if waiting >= self.settings.file_rows:
            self._wake.set()

    def live(self) -> Any:
        """Return how versions did by the labels known so far, as far as somebody has written it beside the log."""
        try:
            return orjson.loads((self.settings.folder / LIVE).read_bytes())
        except (OSError, ValueError):  # nobody has joined any labels yet
            return None

    def close(self) -> None:
        """Write what waits and end."""
        self._closing = True
        self._wake.set()
        self._thread.join(timeout=10)

    def _write_on(self) -> None:
        while not self._closing:
            self._wake.wait(self.settings.file_s)
            self._wake.clear()
            self._write_waiting()
        self._write_waiting()

    def _write_waiting(self) -> None:
        entries = [self._waiting.popleft() for _ in range(len(self._waiting))]
        taken = sum(len(entry.scores) for entry in entries)
        with self._counts:
            self._rows_waiting -= taken
        entries += self._shadows(entries)
        for _, same in groupby(sorted(entries, key=_served), key=_served):
            part = list(same)
            rows = sum(len(entry.scores) for entry in part)
            try:
                self._write(part)
                self.written += rows
            except Exception:  # a thread of its own is a process boundary  # noqa: BLE001
                self._drop(rows)
                _LOG.exception("%s rows could not be logged in %s", rows, self.settings.folder)
        if entries:
            self._trim()

    def _drop(self, rows: int) -> None:
        with self._counts:
            self.dropped += rows

    def _shadows(self, entries: Sequence[_Entry]) -> list[_Entry]:
        """Return what the challenger says of the rows it shadows; what it cannot score is dropped and counted."""
        made = []
        for entry in entries:
            if entry.shadow is not None:
                try:
                    scores = scored_by(entry.shadow, entry.model, entry.rows)
                except Exception:  # whatever a second version does, the log of the first goes on  # noqa: BLE001
                    self._drop(len(entry.scores))
                    _LOG.exception("version %s could not score rows in the shadow", entry.shadow.version)
                    continue
                made.append(replace(entry, model=entry.shadow, scores=scores, role=SHADOW, shadow=None))
        return made

    def _write(self, entries: Sequence[_Entry]) -> None:
        import pyarrow.parquet as pq  # here, because a sidecar without a log needs none of it

        folder, last = self.settings.folder, entries[-1]
        name = f"{last.at:%Y%m%dT%H%M%S%f}-v{last.model.version}-{os.getpid()}-{next(self._files)}"
        fresh = folder / f".{name}"
        try:
            tables = [_table(entry, self.settings.key) for entry in entries]
            pq.write_table(pa.concat_tables(tables), fresh, compression="zstd")
            fresh.replace(folder / f"{name}{SUFFIX}")
        finally:
            fresh.unlink(missing_ok=True)

    def _trim(self) -> None:
        """Keep the folder within its bound; where that fails, what was written stays written."""
        try:
            self._remove_oldest()
        except OSError as error:
            _LOG.warning(
                "%s could not be kept within %s bytes: %s", self.settings.folder, self.settings.most_bytes, error
            )

    def _remove_oldest(self) -> None:
        """Remove the oldest files beyond the bound; another worker may remove any of them first."""
        sizes = {}
        for file in sorted(self.settings.folder.glob(f"*{SUFFIX}")):
            with contextlib.suppress(FileNotFoundError):
                sizes[file] = file.stat().st_size
        total = sum(sizes.values())
        for file, size in sizes.items():
            if total <= self.settings.most_bytes:
                return
            file.unlink(missing_ok=True)
            total -= size


def _served(entry: _Entry) -> tuple[int, str]:
    return _version(entry.model), entry.model.ref.manifest_sha256 or ""


def _version(model: ServedModel) -> int:
    """Return the registry's number: of a streamed model that of the version its learner started from."""
    return model.version if model.parameters is None else int(model.ref.tags["parent"])


def _table(entry: _Entry, key: str) -> pa.Table:
    """Return the rows of one request, as the model read them."""
    rows = len(entry.scores)
    feed: Feed = feed_of(entry.model, entry.rows)
    reader = entry.model.rows
    read = dict(zip(reader.strings, feed.get(STRINGS, ()), strict=False)) | dict(
        zip(reader.numbers, feed.get(NUMBERS, ()), strict=False)
    )
    features: list[Any] = [
        pa.array(read[name], pa.string() if kind == "string" else pa.float32())
        for name, kind in reader.signature.items()
    ]
    wide = entry.scores.ndim > 1
    scores = pa.array(entry.scores.tolist(), pa.list_(pa.float32()) if wide else pa.float32())
    return pa.table(
        {
            "at": pa.array([entry.at] * rows, pa.timestamp("us", "UTC")),
            "request_id": pa.array([entry.request_id] * rows, pa.string()),
            "row": pa.array(range(rows), pa.int32()),
            "key": keys_of(entry.rows, key, rows),
            "role": pa.array([entry.role if entry.model.parameters is None else STREAMED] * rows, pa.string()),
            "version": pa.array([_version(entry.model)] * rows, pa.int64()),
            "manifest_sha256": pa.array([entry.model.ref.manifest_sha256] * rows, pa.string()),
            "score": scores,
            "features": pa.StructArray.from_arrays(features, list(reader.signature)),
        }
    )

"""`modelflow rescore`: rows of a topic scored as by predictors that take up a streamed model more or less often.

The protocol is that of Monolith (Liu et al. 2022, arXiv 2209.07663): one stream of models, and followers that look at
it at other intervals. Time is the rows' own. At a sync a follower takes the newest publication that had learned nothing
known after it; it scores every row asked about until the next sync with that. So nobody knows an outcome early, however
fast the topics are read. The first publication is where all of them start, and all that `never` has.
"""

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import typer
from numpy.typing import NDArray

from ml_core.clock import SystemClock, as_interval
from ml_core.errors import StreamError
from ml_core.flow.topic import ModelReader, StreamedModel
from ml_core.streaming.broker import Broker
from serving.bound import Binder
from serving.rows import Feed, RowReader
from serving.settings import kafka_bootstrap, kafka_environment
from serving.topic import TopicAddress

_INTERVALS: Final = ("never", "7 days", "1 day", "1 hour", "0 hours")
_END: Final = np.iinfo(np.int64).max
_READ_ROWS: Final = 5_000


def rescored(broker: Broker, address: TopicAddress, source: str, every: Mapping[str, timedelta | None]) -> pa.Table:
    """Score the rows of `source` at each of several sync intervals.

    Parameters
    ----------
    broker : Broker
        Both topics are on it.
    address : TopicAddress
        The model topic; nothing of it may have been compacted away.
    source : str
        A topic of JSON objects with `key`, `request_time` and the model's columns.
    every : mapping of str to timedelta or None
        The intervals by name; 0 for each publication at once, None for never.

    Returns
    -------
    pyarrow.Table
        `key`, `request_time`, and per interval its scores; the rows asked about since the first publication, in time.

    Raises
    ------
    StreamError
        A topic holds nothing, or the model topic lacks a publication.
    PackageError
        A publication does not score its golden rows as the learner did.
    """
    published = _publications(broker, address.topic)
    first = next(published, None)
    if first is None:
        raise StreamError(f"{address.topic}: expected publications of a learner, found none; see `modelflow learn`")
    binder = Binder(address.flow, address.topic)
    keys, asked, feed = _rows(broker, source, first, start=_through(first))
    looked = {name: _looked(asked, _through(first), interval) for name, interval in every.items()}
    scores: dict[str, list[NDArray[np.float32]]] = {name: [] for name in every}
    for model, until in _with_end(itertools.chain([first], published)):
        known = _through(model)
        spans = {name: np.searchsorted(looks, [known, until]) for name, looks in looked.items()}
        if any(start < stop for start, stop in spans.values()):
            served = binder.proved(model, loaded_at=SystemClock().now())
            for name, (start, stop) in spans.items():
                if start < stop:
                    scores[name].append(served.score({part: rows[:, start:stop] for part, rows in feed.items()}))
    columns = {name: pa.array(np.concatenate(parts).tolist(), pa.float64()) for name, parts in scores.items()}
    return pa.table({"key": keys, "request_time": pa.array(asked, pa.timestamp("us", "UTC")), **columns})


def _looked(asked: NDArray[np.int64], start: int, every: timedelta | None) -> NDArray[np.int64]:
    """Return when a follower had looked last, by the time of each row, in microseconds since 1970."""
    if every is None:
        return np.full(asked.size, start)
    step = every // timedelta(microseconds=1)
    return asked if not step else start + (asked - start) // step * step


def _through(model: StreamedModel) -> int:
    """Return the microsecond through which a publication has learned."""
    return int(pa.scalar(datetime.fromisoformat(model.described["trained_through"]), pa.timestamp("us", "UTC")).value)


def _with_end(published: Iterable[StreamedModel]) -> Iterator[tuple[StreamedModel, int]]:
    """Yield each publication with the microsecond from which on there is a newer one."""
    before: StreamedModel | None = None
    for model in published:
        if before is not None:
            if _through(model) < _through(before):
                raise StreamError(
                    f"publication {model.sequence}: expected it to have learned as far as the one before it, found a"
                    " learner that began again at an earlier place; nothing can be said of both its pasts"
                )
            yield before, _through(model)
        before = model
    if before is not None:
        yield before, _END


def _publications(broker: Broker, topic: str) -> Iterator[StreamedModel]:
    """Yield every publication of a model topic, in order."""
    reader = ModelReader()
    expected: int | None = None
    for record in broker.records(topic):
        model = reader.read(record.value, dict(record.headers))
        if reader.problem is not None and expected is not None:
            raise StreamError(f"{topic}: expected publication {expected}, found that {reader.problem}")
        if model is None:
            continue
        if expected not in {None, model.sequence}:
            raise StreamError(
                f"{topic}: expected publication {expected}, found {model.sequence}; the broker compacted away what lies"
                " between, so nothing can be said of the past"
            )
        expected = model.sequence + 1
        yield model


def _rows(
    broker: Broker, source: str, model: StreamedModel, *, start: int
) -> tuple[list[str], NDArray[np.int64], Feed]:
    """Return the rows asked about from `start` on, in time: keys, microseconds, and what the graph takes."""
    rows = RowReader(model.described["signature"])
    keys: list[str] = []
    asked: list[int] = []
    feeds: list[Feed] = []
    records = (_row(record, rows) for record in broker.records(source) if record.value)
    while batch := list(itertools.islice(records, _READ_ROWS)):
        keys += [row["key"] for row in batch]
        asked += (
            pa.array([row["request_time"] for row in batch], pa.timestamp("us", "UTC")).cast(pa.int64()).to_pylist()
        )
        feeds.append(rows.columns({name: [row[name] for row in batch] for name in rows.signature}))
    if not feeds:
        raise StreamError(f"{source}: expected feature rows, found none; see `modelflow ingest`")
    times = np.array(asked, np.int64)
    order = np.argsort(times, kind="stable")
    order = order[times[order] >= start]
    if not order.size:
        raise StreamError(
            f"{source}: expected rows asked about since the first publication, found {times.size} asked about before it"
        )
    feed = {part: np.concatenate([each[part] for each in feeds], axis=1)[:, order] for part in feeds[0]}
    return [keys[place] for place in order], times[order], feed


def _row(record: Any, rows: RowReader) -> dict[str, Any]:
    """Return a feature row; raise StreamError where a record is none."""
    try:
        row: dict[str, Any] = orjson.loads(record.value)
        taken = {name: row[name] for name in ("key", *rows.signature)}
        return taken | {"request_time": datetime.fromisoformat(row["request_time"])}
    except (ValueError, TypeError, KeyError) as error:
        raise StreamError(
            f"{record.topic}, partition {record.partition}, offset {record.offset}: expected a JSON object with key,"
            f" request_time and the model's columns, found {error!r}; name the topic of feature rows with --from"
        ) from error


def rescore(
    flow: Annotated[str, typer.Argument(help="the flow, by its name in dagster_project.toml")],
    target: Annotated[Path, typer.Option("--to", help="the Parquet file to write")],
    source: Annotated[str | None, typer.Option("--from", help="the topic of rows; default: <flow>.features")] = None,
    model: Annotated[str | None, typer.Option(help="the model topic; default: <flow>.model")] = None,
    every: Annotated[
        list[str] | None,
        typer.Option(help="a sync interval such as '1 day', 'never', or '0 hours' for at once; may be repeated"),
    ] = None,
) -> None:
    """Score the rows of a topic as if predictors had refreshed a streamed model more or less often."""
    if not target.parent.is_dir():
        raise typer.BadParameter(f"expected --to in a folder that exists, found {target.parent}")
    broker = Broker.from_environment(kafka_environment(), default=kafka_bootstrap())
    address = TopicAddress(broker.bootstrap_servers, model or f"{flow}.model")
    try:
        intervals = {text: as_interval(text) for text in every or _INTERVALS}
    except ValueError as error:
        raise typer.BadParameter(f"expected --every '1 day', '0 hours' or never: {error}") from error
    table = rescored(broker, address, source or f"{flow}.features", intervals)
    part = target.with_suffix(".part")
    pq.write_table(table, part)
    part.replace(target)
    typer.echo(json.dumps({"rows": table.num_rows, "columns": table.column_names}))

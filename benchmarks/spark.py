"""`make bench-spark`: the feature rows of a year of flights on Spark in this process, beside DuckDB.

A quarter, a half and the whole of the year, each built once to warm up and then timed: facts handed over, the query,
rows taken back. Both engines have the same cores. From the three sizes follows what each engine pays per row and what
it pays at once; the last row of features says on how many times DuckDB's cores Spark would have to run for the same
time per row. Then the examples of half the year and of all of it are learned: averaged and in sequence on Spark, each
the second time, when its workers are warm, beside the same rows learned in this process.
"""

import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.report import Row, bound, less, write
from flows.flight_delays.load import facts
from ml_core.data.replay import Replay
from ml_core.data.spark.session import session
from ml_core.data.store import FeatureStore
from ml_core.project import Flow, SparkTrainingSettings, load_project
from ml_core.training import passes
from ml_core.training.evaluation import row_log_loss

_ROOT = Path(__file__).resolve().parent.parent
_SHARES = (0.25, 0.5, 1.0)
_MASTER = f"local[{len(os.sched_getaffinity(0))}]"


def rows() -> Iterator[Row]:
    """Measure both engines at three sizes and yield the rows of `var/bench/spark.json`."""
    flow = load_project(_ROOT).flow("flight_delays")
    began = time.perf_counter()
    session(_MASTER, {})
    yield bound("starting Spark in this process", time.perf_counter() - began, "s", None)
    with tempfile.TemporaryDirectory(prefix="bench-spark-") as folder:
        year = facts(Path(folder))
        timed: dict[str, list[float]] = {"duckdb": [], "spark": []}
        counts = []
        for share in _SHARES:
            part = _first(year, share)
            counts.append(part["scheduled"].num_rows)
            for engine, times in timed.items():
                times.append(_built(flow, engine, part, Path(folder, f"{engine}-{share}")))
            yield less(f"feature rows of {counts[-1]:,} flights", timed["spark"][-1], timed["duckdb"][-1], "s")
    per_row = {engine: float(np.polyfit(counts, times, 1)[0]) * 1e6 for engine, times in timed.items()}
    yield less(
        "seconds for a million more rows, by the line through the three", per_row["spark"], per_row["duckdb"], "s"
    )


def training() -> Iterator[Row]:
    """Measure full training over two sizes, its hand-over of rows included."""
    flow = load_project(_ROOT).flow("flight_delays")
    flow = flow.model_copy(update={"data": flow.data.model_copy(update={"spark_master": _MASTER})})
    with tempfile.TemporaryDirectory(prefix="bench-spark-") as folder:
        store = FeatureStore(flow, root=_ROOT, home=Path(folder))
        replay = Replay(facts(Path(folder)))
        replay.ingest(store.log, replay.end)
        store.absorb()
        examples = store.progress().next_example
        for stop in (examples // 2, examples):
            here, plain = _learned(flow, store, stop)
            for mode in ("average", "sequential"):
                on_spark = SparkTrainingSettings(mode=mode, shards=4, shard_rows=32_768)
                seconds, loss = _learned(flow.model_copy(update={"spark_training": on_spark}), store, stop)
                yield less(f"learning {stop:,} examples, {mode}, beside this process", seconds, here, "s")
                if mode == "average":  # it held the newest rows back, and they are the same
                    more = 100 * (loss / plain - 1)
                    yield bound("how much more log loss the newest 20,000 of them have", more, "%", None)


def _learned(flow: Flow, store: FeatureStore, stop: int) -> tuple[float, float]:
    """Return the seconds of a training, the second one, and what the newest rows lost before they were learned."""
    for _ in range(2):
        model = passes.build(flow, store)
        began = time.perf_counter()
        _, said = passes.begin(flow, model, store, 0, stop)
        seconds = time.perf_counter() - began
    newest = said.last(flow.gate.max_rows)
    return seconds, float(row_log_loss(newest.labels, newest.scores).mean())


def _first(year: Mapping[str, pa.Table], share: float) -> dict[str, pa.Table]:
    """Return what was known by the time so large a share of the flights was scheduled."""
    known = year["scheduled"].column("known_at")
    until = known[int((len(known) - 1) * share)]
    return {kind: table.filter(pc.less_equal(table.column("known_at"), until)) for kind, table in year.items()}


def _built(flow: Flow, engine: str, year: Mapping[str, pa.Table], home: Path) -> float:
    """Return the seconds of a build of the whole feature table, the second one."""
    data = flow.data.model_copy(update={"engine": engine, "spark_master": _MASTER})
    store = FeatureStore(flow.model_copy(update={"data": data}), root=_ROOT, home=home)
    replay = Replay(dict(year))
    replay.ingest(store.log, replay.end)
    store.absorb(join_labels=False)
    began = time.perf_counter()
    store.rebuild()
    return time.perf_counter() - began


if __name__ == "__main__":
    write("spark", [*rows(), *training()])

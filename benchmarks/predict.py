"""`make bench-predict`: the embedded predictor, row by row and in batches, beside scikit-learn and Alink's own figures.

One process, one thread, one real registry. Flights of a year: 11 columns of strings, 9 of numbers. The models are the
seed pipeline (standardise, one-hot, logistic regression) and the same with hashing. A row is a dict as a caller has it;
the peer's figures for Alink's Java LocalPredictor (rows prebuilt as objects) are those measured once and quoted in
benchmarks/README.md, scikit-learn runs here.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from benchmarks.flights import NUMBERS, SCHEMA, STRINGS, wide_flights
from benchmarks.model import FLOW, HASHED, SEED, free_port, mlflow_server, publish, running, trained
from benchmarks.report import Row, bound, less, more, write
from ml_core.pipeline import PipelineModel
from ml_core.project import PipelineSettings
from serving import LocalPredictor

ALINK_ROW_US: Final = 3.5
ALINK_ROW_P99_US: Final = 9.0
ALINK_ROWS_PER_S: Final = 340_000
_TRAINED_ROWS, _ASKED_ROWS, _BATCH_ROWS = 100_000, 20_000, 1_000
_FITTED_ROWS = 20_000
_REPEATS = 5


def rows() -> list[Row]:
    """Measure everything and return it as rows of `var/bench/serve.json`."""
    table = wide_flights(_TRAINED_ROWS + _ASKED_ROWS)
    known, asked = table.slice(0, _TRAINED_ROWS), table.slice(_TRAINED_ROWS)
    measured: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="bench-predict-") as folder:
        home, port = Path(folder), free_port()
        uri = f"http://127.0.0.1:{port}"
        with running(mlflow_server(home, port), port, "/health", home / "mlflow.log"):
            peer_us = _scikit_learn_us(known, asked)
            for name, model in (
                ("seed", trained(SEED, known)),
                ("scikit-learn's seed", _of_their_parts(known)),
                ("hashed", trained(HASHED, known)),
            ):
                version = publish(uri, model, known, home / name)
                with LocalPredictor(f"models:/{FLOW}/{version}", tracking_uri=uri) as predictor:
                    if "seed" in name:
                        ours, _ = _percentiles_us(predictor.predict, _parts(asked.select(list(SCHEMA)).to_pylist()))
                        what = f"{name} pipeline, one row, beside scikit-learn's predict_proba: p50"
                        measured.append(less(what, ours, peer_us, "us", at_least=200))
                    if name != "scikit-learn's seed":
                        measured += _single(name, predictor, asked)
                    if name == "hashed":
                        measured += _batches(predictor, asked)
    return measured


def _of_their_parts(known: pa.Table) -> PipelineModel:
    """Return a pipeline of scikit-learn's scaler, encoder and regression, fitted as the peer's is."""
    stages = (
        {"stage": "sklearn.preprocessing.StandardScaler", "columns": list(NUMBERS)},
        {"stage": "sklearn.preprocessing.OneHotEncoder", "columns": list(STRINGS)},
    )
    estimator = {"name": "sklearn.linear_model.LogisticRegression", "max_iter": 50, "tol": 1e-2}
    few = known.slice(0, _FITTED_ROWS)
    model = PipelineModel.build(PipelineSettings(stages=stages, estimator=estimator), SCHEMA)
    return model.fit(few, few.column("late").to_numpy())


def _single(name: str, predictor: LocalPredictor, asked: pa.Table) -> list[Row]:
    """Return what a row costs: when its values are known, in a real stream, and when it brings values never seen."""
    stream = asked.select(list(SCHEMA)).to_pylist()
    known = stream[:200] * 25
    for row in known:
        predictor.predict(row)
    # what a hostile stream looks like: a new identifier and new readings in every row
    fresh = [
        {**row, "tailnum": f"N{n}", "temp": row["distance"] + n / 7, "pressure": 1000 + n / 99.0}
        for n, row in enumerate(stream)
    ]
    made = []
    for case, runs, target in (
        ("values known", [known] * _REPEATS, 5.0),
        ("a stream of new flights", _parts(stream), 5.0),
        ("3 of 20 values never seen", _parts(fresh), None),
    ):
        p50, p99 = _percentiles_us(predictor.predict, runs)
        made.append(bound(f"{name} pipeline, one row, {case}: p50", p50, "us", target, peer=ALINK_ROW_US))
        made.append(bound(f"{name} pipeline, one row, {case}: p99", p99, "us", None, peer=ALINK_ROW_P99_US))
    return made


def _parts(stream: list[Any]) -> list[list[Any]]:
    """Cut a stream into one part a run, so that no run sees a row again."""
    size = len(stream) // _REPEATS
    return [stream[start : start + size] for start in range(0, size * _REPEATS, size)]


def _scikit_learn_us(known: pa.Table, asked: pa.Table) -> float:
    """Return what one row as a frame costs scikit-learn."""
    pipeline = Pipeline(
        [
            (
                "columns",
                ColumnTransformer(
                    [
                        ("numbers", Pipeline([("fill", SimpleImputer()), ("scale", StandardScaler())]), list(NUMBERS)),
                        ("strings", OneHotEncoder(handle_unknown="ignore"), list(STRINGS)),
                    ]
                ),
            ),
            ("regression", LogisticRegression(max_iter=50, tol=1e-2)),
        ]
    )
    few = known.slice(0, _FITTED_ROWS)
    pipeline.fit(few.select(list(SCHEMA)).to_pandas(), few.column("late").to_numpy())
    frames = [pd.DataFrame([row]) for row in asked.select(list(SCHEMA)).slice(0, 100).to_pylist()]
    theirs, _ = _percentiles_us(pipeline.predict_proba, [frames] * 3)
    return theirs


def _batches(predictor: LocalPredictor, asked: pa.Table) -> list[Row]:
    """Return rows per second in batches of prebuilt columns, by what holds them; every batch is another."""
    table = asked.select(list(SCHEMA)).combine_chunks()
    plain = {name: table.column(name).combine_chunks() for name in SCHEMA}
    shared = {name: plain[name].dictionary_encode() if SCHEMA[name] == "string" else plain[name] for name in SCHEMA}
    starts = range(0, _ASKED_ROWS, _BATCH_ROWS)
    strings = [{name: column.slice(start, _BATCH_ROWS) for name, column in plain.items()} for start in starts]
    forms = {
        "Arrow dictionaries of one table": [
            {name: column.slice(start, _BATCH_ROWS) for name, column in shared.items()} for start in starts
        ],
        "Arrow strings": strings,
        "Python lists": [{name: column.to_pylist() for name, column in batch.items()} for batch in strings],
    }
    made = []
    for form, batches in forms.items():
        per_s = statistics.median(_rows_per_s(predictor.predict_batch, batches) for _ in range(_REPEATS))
        name = f"hashed pipeline, {_BATCH_ROWS} rows as {form}"
        made.append(more(name, per_s, ALINK_ROWS_PER_S, "rows/s", at_least=5))
    return made


def _percentiles_us(predict: Callable[[Any], Any], runs: Sequence[Sequence[Any]]) -> tuple[float, float]:
    """Return the median over runs of p50 and p99; the clock's own cost is taken off."""
    clock = time.perf_counter_ns
    found = []
    for given in runs:
        spent = np.empty(len(given))
        for index, row in enumerate(given):
            started = clock()
            predict(row)
            spent[index] = clock() - started
        empty = np.array([-(clock() - clock()) for _ in range(1000)])
        found.append((np.percentile(spent, (50, 99)) - np.median(empty)) / 1e3)
    p50, p99 = np.median(found, axis=0)
    return float(p50), float(p99)


def _rows_per_s(predict: Callable[[Any], Any], batches: Sequence[Any]) -> float:
    started, calls = time.perf_counter(), 0
    while time.perf_counter() - started < 0.5:
        for batch in batches:
            predict(batch)
        calls += len(batches)
    return calls * _BATCH_ROWS / (time.perf_counter() - started)


def main() -> None:
    """Print the table and write `var/bench/predict.json`."""
    write("predict", rows())


if __name__ == "__main__":
    main()

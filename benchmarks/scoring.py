"""The exported graph beside scikit-learn: one raw row of the seed pipeline, and batches of a hashed one.

The seed pipeline is scikit-learn's own parts on both sides: StandardScaler, OneHotEncoder, LogisticRegression. Ours is
the ONNX graph under ONNX Runtime with one thread: as it is served, its columns packed into two inputs, and as it was
exported, with an input a column. A row is a dict of raw values, and making the graph's inputs of it is part of the
time. The peer is asked with a one-row frame made before. Both sides have to agree on what they score.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import onnxruntime
import pandas as pd
import pyarrow as pa
from sklearn.compose import make_column_transformer
from sklearn.feature_extraction import FeatureHasher
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

from benchmarks.flights import NUMBERS, SCHEMA, STRINGS
from benchmarks.report import Row, less, more
from ml_core.flow.package import as_feed
from ml_core.pipeline import PipelineModel
from ml_core.project import PipelineSettings
from serving.packing import open_session, packed_graph
from serving.rows import RowReader

_TRAINED, _ASKED, _BATCH, _REPEATS = 20_000, 500, 1_000, 3
_LOGISTIC: Final[dict[str, Any]] = {"max_iter": 1000, "tol": 1e-6}
_HASHER = FeatureHasher(2**18, input_type="string", alternate_sign=False)
_SEED = (
    {"stage": "sklearn.preprocessing.StandardScaler", "columns": list(NUMBERS)},
    {"stage": "sklearn.preprocessing.OneHotEncoder", "columns": list(STRINGS)},
)
_OWN_SEED = (
    {"stage": "standardise", "columns": list(NUMBERS)},
    {"stage": "onehot", "columns": list(STRINGS)},
)
_HASHED = (
    {"stage": "hash", "columns": list(STRINGS), "bits": 18},
    {"stage": "standardise", "columns": list(NUMBERS)},
)


def rows(flights: pa.Table) -> list[Row]:
    """Measure on flights without missing values, which scikit-learn's LogisticRegression refuses."""
    whole = pa.Table.from_pandas(flights.to_pandas().dropna(), preserve_index=False).select([*SCHEMA, "late"])
    known, asked = whole.slice(0, _TRAINED), whole.slice(_TRAINED, _BATCH * 20)
    return [*_one_row(known, asked.slice(0, _ASKED)), _batches(known, asked)]


def _one_row(known: pa.Table, asked: pa.Table) -> list[Row]:
    dicts = asked.select(list(SCHEMA)).to_pylist()
    frames = [pd.DataFrame([row]) for row in dicts]
    theirs = _fitted(OneHotEncoder(handle_unknown="ignore"), known)
    copied, same = _scorers(_SEED, known)
    own, _ = _scorers(_OWN_SEED, known)
    apart = np.abs(same.predict(asked) - theirs.predict_proba(asked.to_pandas())[:, 1]).max()
    if apart > 1e-3:
        raise SystemExit(f"expected both seed pipelines to agree, found them {apart} apart")
    *ours, peer = _per_item([*((score, dicts) for score in (*own, *copied)), (theirs.predict_proba, frames)])
    names = [f"{name}, one raw row through the graph as {form}: p50"
             for name in ("seed pipeline", "seed pipeline of scikit-learn's parts")
             for form in ("served", "exported")]  # fmt: skip
    return [
        less(name, 1e6 * seconds, 1e6 * peer, "us", at_least=200) for name, seconds in zip(names, ours, strict=True)
    ]


def _scorers(
    stages: Sequence[Mapping[str, Any]], known: pa.Table
) -> tuple[tuple[Callable[[dict[str, Any]], Any], ...], PipelineModel]:
    """Return what scores a raw row through the graph of a seed pipeline, as served and as exported, and the model."""
    estimator = {"name": "sklearn.linear_model.LogisticRegression", **_LOGISTIC}
    model = PipelineModel.build(PipelineSettings(stages=tuple(stages), estimator=estimator), SCHEMA)
    exported = _session(model.fit(known, known.column("late").to_numpy()).to_onnx())
    served, reader = open_session(packed_graph(model.to_onnx(), model.signature)), RowReader(model.signature)

    def by_column(row: dict[str, Any]) -> Any:
        return exported.run(["score"], as_feed({name: [value] for name, value in row.items()}, model.signature))[0]

    return (lambda row: served.run(["score"], reader.records((row,)))[0], by_column), model


def _fitted(strings: Any, known: pa.Table) -> Any:
    """Return scikit-learn's pipeline with `strings` for the columns of strings."""
    columns = make_column_transformer((StandardScaler(), list(NUMBERS)), (strings, list(STRINGS)))
    pipeline = make_pipeline(columns, LogisticRegression(**_LOGISTIC))
    return pipeline.fit(known.select(list(SCHEMA)).to_pandas(), known.column("late").to_numpy())


def _batches(known: pa.Table, asked: pa.Table) -> Row:
    """Compare batches of raw columns that are ready as arrays; the peer has FeatureHasher and frames."""
    model = PipelineModel.build(PipelineSettings(stages=_HASHED, estimator={"name": "FTRLClassifier"}), SCHEMA)
    model.learn(known, known.column("late").to_numpy())
    session = _session(model.to_onnx())
    parts = [asked.slice(start, _BATCH) for start in range(0, asked.num_rows, _BATCH)]
    fed = [as_feed({name: part.column(name).to_pylist() for name in SCHEMA}, SCHEMA) for part in parts]
    theirs = _fitted(make_pipeline(FunctionTransformer(_named), _HASHER), known)
    frames = [part.select(list(SCHEMA)).to_pandas() for part in parts]
    np.testing.assert_allclose(session.run(["score"], fed[0])[0], model.predict(parts[0]), rtol=0, atol=1e-6)
    ours, peer = _per_item([(lambda batch: session.run(["score"], batch), fed), (theirs.predict_proba, frames)])
    name = f"hashed pipeline, batches of {_BATCH} rows through the graph"
    return more(name, _BATCH / ours, _BATCH / peer, "rows/s") | {"target": 1e6, "holds": _BATCH / ours >= 1e6}


def _named(frame: Any) -> list[list[str]]:
    return [[f"{name}={value}" for name, value in zip(STRINGS, row, strict=True)] for row in frame.to_numpy()]


def _session(graph: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _per_item(sides: Sequence[tuple[Callable[[Any], Any], Sequence[Any]]]) -> list[float]:
    """Return the median over rounds of each side's median seconds an item; the sides take turns."""
    found: list[list[float]] = [[] for _ in sides]
    for _ in range(_REPEATS):
        for (ask, items), medians in zip(sides, found, strict=True):
            spent = []
            for item in items:
                started = time.perf_counter()
                ask(item)
                spent.append(time.perf_counter() - started)
            medians.append(statistics.median(spent))
    return [statistics.median(medians) for medians in found]

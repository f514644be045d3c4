"""One small pipeline over every stage, rows to feed it, and a way to score its graph."""

import numpy as np
import onnxruntime as ort
import pyarrow as pa

from ml_core.project import PipelineSettings

SCHEMA = {"carrier": "string", "tail": "string", "delay": "float", "seats": "float", "unused": "float"}
STAGES = (
    {"stage": "hash", "columns": ["carrier", "tail"], "bits": 10},
    {"stage": "onehot", "columns": ["tail", "carrier"], "min_count": 2, "cap": 8},
    {"stage": "cross", "pairs": [["carrier", "tail"]], "bits": 8},
    {"stage": "bucketize", "boundaries": {"delay": [-5.0, 0.0, 15.0], "seats": [100]}},
    {"stage": "clip", "columns": ["delay"], "low": {"delay": -20.0}, "high": {"delay": 120.0}},
    {"stage": "log1p", "columns": ["delay"]},
    {"stage": "standardise", "columns": ["delay", "seats"]},
    {"stage": "impute", "columns": ["seats"]},
    {"stage": "standardise", "columns": ["seats"], "policy": "frozen", "rows": 60},
)
ESTIMATORS = (
    {"name": "FTRLClassifier", "alpha": 0.3, "l1": 0.01},
    {"name": "FTRLClassifier", "alpha": 0.1, "optimizer": "adagrad"},
    {"name": "FTRLClassifier", "alpha": 0.3, "n_classes": 3},
    {"name": "FTRLRegressor", "alpha": 0.1},
    {"name": "FMClassifier", "n_factors": 4, "factor_init": 0.3},
)


def pipeline(estimator=ESTIMATORS[0], stages=STAGES):
    """Return the settings of a pipeline."""
    return PipelineSettings(stages=stages, estimator=estimator)


def rows(count=400, seed=0):
    """Return raw rows with nulls, rare values and odd strings among them."""
    draw = np.random.default_rng(seed)
    tails = np.array([None, "", "N1", "N2", "Zürich ✈", "日本", "N3", "N4", "N5", "N6", "N7", "N8", "N9"], object)
    numbers = draw.normal(10, 40, (count, 2)).astype(np.float32)
    numbers[draw.random((count, 2)) < 0.2] = np.nan
    return pa.table(
        {
            "unused": np.zeros(count, np.float32),
            "tail": pa.array(draw.choice(tails, count), pa.string()),
            "delay": numbers[:, 0],
            "carrier": pa.array(draw.choice(["UA", "AA", "B6"], count), pa.string()),
            "seats": numbers[:, 1],
        }
    )


def labels(count=400, seed=0, classes=2):
    """Return labels that depend on the rows `rows` gives."""
    delay = np.nan_to_num(rows(count, seed).column("delay").to_numpy())
    return (delay + np.random.default_rng(seed).normal(0, 10, count) > 15).astype(np.float32) * (classes - 1)


def onnx_scores(graph, table, signature):
    """Score raw rows through a serialised graph: a missing string as "", a missing number as NaN."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(graph, options)
    assert {node.name for node in session.get_inputs()} == set(signature)
    feed = {}
    for name, kind in signature.items():
        column = table.column(name).to_pylist()
        if kind == "string":
            feed[name] = np.array([value or "" for value in column], object)
        else:
            feed[name] = np.array([np.nan if value is None else value for value in column], np.float32)
    return session.run(["score"], feed)[0]

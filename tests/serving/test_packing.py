"""The packed graph is the published one, fed in two pieces."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from ml_core.pipeline import PipelineModel
from ml_core.project import PipelineSettings
from serving.packing import NUMBERS, STRINGS, open_session, packed_graph

SCHEMA = {"a": "string", "x": "float", "b": "string", "y": "float", "c": "string", "z": "float"}
ESTIMATOR = {"name": "FTRLClassifier", "alpha": 0.5, "beta": 1.0, "l1": 0.0, "l2": 0.1}


def columns_of(signature: Mapping[str, str], rows: int) -> dict[str, Any]:
    """Return odd and ordinary values of every column."""
    texts, numbers = ["UA", "", "ünïcode", "x\0y"], [1.5, np.nan, -1e6, 0.0]
    return {
        name: np.roll(np.resize(texts, rows).astype(object), place)
        if kind == "string"
        else np.roll(np.resize(numbers, rows), place).astype(np.float32)
        for place, (name, kind) in enumerate(signature.items())
    }


def assert_same_scores(graph: bytes, signature: Mapping[str, str]) -> None:
    for rows in (1, 3, 64):
        columns = columns_of(signature, rows)
        expected = onnxruntime.InferenceSession(graph).run(None, columns)[0]
        feed = {
            matrix: np.stack([columns[name] for name, of in signature.items() if of == kind])
            for matrix, kind in ((STRINGS, "string"), (NUMBERS, "float"))
            if kind in signature.values()
        }
        assert open_session(packed_graph(graph, signature)).run(None, feed)[0].tolist() == expected.tolist()


@pytest.mark.parametrize(
    "stages",
    [
        [{"stage": "hash", "columns": ["a", "b", "c"], "bits": 8}],
        [{"stage": "hash", "columns": ["b"], "bits": 8}],
        [{"stage": "hash", "columns": ["a"], "bits": 8}, {"stage": "onehot", "columns": ["b"]}],
        [{"stage": "onehot", "columns": ["c"]}, {"stage": "hash", "columns": ["b", "a"], "bits": 8}],
        [{"stage": "standardise", "columns": ["x"]}, {"stage": "passthrough", "columns": ["y"]}],
        [{"stage": "hash", "columns": ["a"], "bits": 8}, {"stage": "cross", "pairs": [["b", "c"]], "bits": 8}],
        [{"stage": "standardise", "columns": ["x", "y", "z"]}],
        [{"stage": "standardise", "columns": ["y"]}],
        [
            {"stage": "hash", "columns": ["a", "c"], "bits": 8},
            {"stage": "cross", "pairs": [["a", "b"], ["b", "c"]], "bits": 8},
            {"stage": "standardise", "columns": ["z", "x"]},
        ],
    ],
)
def test_every_pipelines_packed_graph_gives_the_same_bits(stages: list[dict[str, Any]]) -> None:
    """What is verified must be what is served."""
    import pyarrow as pa

    model = PipelineModel.build(PipelineSettings(stages=tuple(stages), estimator=ESTIMATOR), SCHEMA)
    columns = columns_of(SCHEMA, 64)
    model.learn(pa.table({name: pa.array(values) for name, values in columns.items()}), np.resize([0, 1, 1], 64))
    assert_same_scores(model.to_onnx(), model.signature)


def test_a_graph_that_asks_for_its_columns_one_by_one_is_packed_too(make_graph: Any) -> None:
    """A stage of tomorrow may not stack its columns."""
    for alone in ({"carrier": "string"}, {"delay": "float"}):
        assert_same_scores(make_graph(0.5, alone), alone)
    assert_same_scores(make_graph(0.5), {"carrier": "string", "origin": "string", "delay": "float", "hour": "float"})


def test_a_stack_in_another_order_is_not_taken_for_the_matrix() -> None:
    """It would score every column as its neighbour, and nobody would see it."""
    nodes = [
        helper.make_node("Concat", ["y", "x"], ["joined"], axis=0),
        helper.make_node("Reshape", ["joined", "shape"], ["stack"]),
        helper.make_node("Gather", ["stack", "first"], ["score"], axis=0),
    ]
    constants = [
        helper.make_tensor("shape", TensorProto.INT64, [2], [2, -1]),
        helper.make_tensor("first", TensorProto.INT64, [], [0]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in ("x", "y")],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["n"])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    session = open_session(packed_graph(model.SerializeToString(), {"x": "float", "y": "float"}))
    assert session.run(None, {NUMBERS: np.array([[1.0], [2.0]], np.float32)})[0].tolist() == [2.0]


def test_packing_leaves_no_column_behind() -> None:
    """The pipelines' own graphs need no rows of the matrix, so a row costs two inputs and no more nodes."""
    settings = PipelineSettings(
        stages=({"stage": "hash", "columns": ["a", "b"], "bits": 8}, {"stage": "standardise", "columns": ["x", "y"]}),
        estimator=ESTIMATOR,
    )
    model = PipelineModel.build(settings, SCHEMA)
    before = onnx.load_model_from_string(model.to_onnx())
    packed = onnx.load_model_from_string(packed_graph(model.to_onnx(), model.signature))
    assert [entry.name for entry in packed.graph.input] == [STRINGS, NUMBERS]
    assert len(packed.graph.node) == len(before.graph.node) - 4

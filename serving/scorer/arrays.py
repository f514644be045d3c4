"""What each operator does where a value is an array, one entry a row, or `Words`."""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper

from serving.scorer.expression import Table
from serving.scorer.terms import SCALARS, Term, applied
from serving.scorer.words import Words


@cache
def _hasher() -> onnxruntime.InferenceSession:
    """Return onnxruntime's own hash, which is the one in the graph."""
    graph = helper.make_graph(
        [
            helper.make_node("MurmurHash3", ["texts"], ["hashed"], domain="com.microsoft", positive=1, seed=0),
            helper.make_node("Cast", ["hashed"], ["hashes"], to=TensorProto.INT64),
        ],
        "hash",
        [helper.make_tensor_value_info("texts", TensorProto.STRING, ["n"])],
        [helper.make_tensor_value_info("hashes", TensorProto.INT64, ["n"])],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _hashes(words: Words) -> NDArray[Any]:
    return words.spread(_hashes, lambda strings: _hasher().run(None, {"texts": strings})[0])


def _encoded(encoder: tuple[Mapping[str, int], int], text: Term) -> Term:
    places, absent = encoder
    return lambda columns: text(columns).spread(
        id(places), lambda strings: np.array([places.get(word, absent) for word in strings], np.int64)
    )


def _gather(table: Table, slots: Term) -> Term:
    return lambda columns: table.take(slots(columns))


def _cast(kind: type, given: Term) -> Term:
    dtype = {float: np.float64, int: np.int64, bool: np.bool_}[kind]
    return lambda columns: given(columns).astype(dtype)


ARRAYS: Mapping[str, Callable[..., Term]] = {
    **SCALARS,
    "IsNaN": applied(np.isnan),
    "Log": applied(np.log),
    "Sign": applied(np.sign),
    "Clip": applied(np.clip),
    "Where": applied(np.where),
    "Cast": _cast,
    "Gather": _gather,
    "MurmurHash3": applied(_hashes),
    "LabelEncoder": _encoded,
}

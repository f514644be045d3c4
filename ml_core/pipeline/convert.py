"""Fitted parts of other libraries as pieces of an ONNX graph: scikit-learn's by skl2onnx, boosters by onnxmltools.

The invariant: everything is computed in double where the library itself does, and a comparison in a tree falls as it
does in Python. A booster's leaves are added in double (`ai.onnx.ml` 3), not in float32 as its converter would have it.
"""

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from sklearn.base import is_classifier
from sklearn.preprocessing import Binarizer, Normalizer

from ml_core.errors import ExportError
from ml_core.pipeline.graph import OPSETS, GraphWriter
from ml_core.pipeline.library import import_library

_OPSET = {"": OPSETS[""], "ai.onnx.ml": OPSETS["ai.onnx.ml"]}
# the newest ONNX that onnxmltools writes
_BOOSTER_OPSET = 15
_TENSORS = {
    "nodes_values": "nodes_values_as_tensor",
    "class_weights": "class_weights_as_tensor",
    "target_weights": "target_weights_as_tensor",
    "base_values": "base_values_as_tensor",
}


def write_transformer(graph: GraphWriter, fitted: Any, tensor: str, *, width: int, strings: bool) -> str:
    """Add a fitted transformer; `tensor` is [n, width], strings or doubles; return a double tensor [n, n_made]."""
    from skl2onnx.common.data_types import DoubleTensorType, StringTensorType

    if not strings and (made := _written(graph, fitted, tensor)) is not None:
        return made
    kind = StringTensorType if strings else DoubleTensorType
    model = _converted(fitted, kind([None, width]), None)
    return graph.cast(graph.splice(model, tensor, model.graph.output[0].name), np.float64)


def write_estimator(graph: GraphWriter, fitted: Any, tensor: str, *, width: int, single: bool) -> str:
    """Add a fitted estimator of scikit-learn's; `tensor` is [n, width] in double.

    With `single` the estimator rounds its input to float32, and so does the graph.

    Returns
    -------
    str
        Probabilities, a double tensor [n, n_classes], or of a regressor what it predicts, [n, 1].
    """
    from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType

    shares = is_classifier(fitted)
    kind = FloatTensorType if single else DoubleTensorType
    model = _converted(fitted, kind([None, width]), {id(fitted): {"zipmap": False}} if shares else None)
    given = graph.cast(tensor, np.float32) if single else tensor
    return graph.cast(graph.splice(model, given, model.graph.output[1 if shares else 0].name), np.float64)


def write_booster(graph: GraphWriter, converter: str, fitted: Any, tensor: str, *, width: int) -> str:
    """Add a booster; `converter` is ``convert_lightgbm`` or ``convert_xgboost``; return its last output in double."""
    onnxmltools = import_library("onnxmltools", "pipeline.estimator")
    types = import_library("onnxmltools.convert.common.data_types", "pipeline.estimator")
    convert: Callable[..., onnx.ModelProto] = getattr(onnxmltools, converter)
    options = {"zipmap": False} if converter == "convert_lightgbm" else {}
    shape = [("X", types.FloatTensorType([None, width]))]
    try:
        model = convert(fitted, initial_types=shape, target_opset=_BOOSTER_OPSET, **options)
    except Exception as error:  # each converter raises classes of its own
        raise ExportError(f"{type(fitted).__name__}: onnxmltools cannot write it: {error}") from error
    _in_double(model)
    return graph.cast(graph.splice(model, tensor, model.graph.output[-1].name), np.float64)


def _written(graph: GraphWriter, fitted: Any, tensor: str) -> str | None:
    """Write what skl2onnx writes otherwise than scikit-learn computes it; return None for everything else."""
    if hasattr(fitted, "get_support"):
        # where only the first column is chosen it writes zeros
        return graph.add("Gather", tensor, graph.constant(fitted.get_support(indices=True).astype(np.int64)), axis=1)
    if isinstance(fitted, Binarizer):
        # it lets numbers just above the threshold fall below
        return graph.cast(graph.add("Greater", tensor, graph.constant(np.float64(fitted.threshold))), np.float64)
    if isinstance(fitted, Normalizer):
        # it divides by norms of almost nothing, too
        along = graph.constant(np.array([1], np.int64))
        if fitted.norm == "l2":
            norm = graph.add("Sqrt", graph.add("ReduceSumSquare", tensor, along))
        else:
            norm = graph.add("ReduceSum" if fitted.norm == "l1" else "ReduceMax", graph.add("Abs", tensor), along)
        least = graph.constant(np.float64(10 * np.finfo(np.float64).eps))
        divisor = graph.add("Where", graph.add("Less", norm, least), graph.constant(np.float64(1)), norm)
        return graph.add("Div", tensor, divisor)
    return None


def _converted(fitted: Any, kind: Any, options: Any) -> onnx.ModelProto:
    from skl2onnx import convert_sklearn

    logging.getLogger("skl2onnx").setLevel(logging.ERROR)
    try:
        model: onnx.ModelProto = convert_sklearn(
            fitted, initial_types=[("X", kind)], target_opset=_OPSET, options=options
        )
    except Exception as error:  # skl2onnx raises a dozen unrelated classes here
        raise ExportError(f"{type(fitted).__name__}: skl2onnx cannot write it: {_first_line(error)}") from error
    return model


def _in_double(model: onnx.ModelProto) -> None:
    """Let tree ensembles hold and add doubles, and compare doubles; what comes out is float32 as before."""
    for node in model.graph.node:
        if not node.op_type.startswith("TreeEnsemble"):
            continue
        kept = [each for each in node.attribute if each.name not in _TENSORS and each.name != "nodes_hitrates"]
        for each in node.attribute:
            if each.name in _TENSORS:
                values = numpy_helper.from_array(np.array(each.floats, np.float64), _TENSORS[each.name])
                kept.append(helper.make_attribute(_TENSORS[each.name], values))
        del node.attribute[:]
        node.attribute.extend(kept)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__

"""The Open Inference Protocol, version 2, over JSON: tensors by name in, the tensor `score` out.

A model takes one 1-D tensor per raw column, ``BYTES`` or ``FP32``; other numeric datatypes are read as the numbers they
are, and a shape of ``[n, 1]`` as ``[n]``. Tensors in binary form are not spoken, and asking for them is an error.
"""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from ml_core.errors import InputError
from serving.model import ServedModel
from serving.rows import Feed, RowReader
from serving.wire import check_rows

OUTPUT: Final = "score"
_DATATYPES: Final = {"string": "BYTES", "float": "FP32"}
_NUMBERS: Final = {"FP16", "FP32", "FP64"} | {f"{sign}INT{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)}
_LONGEST_ID: Final = 200


def read_inference(content: Mapping[str, Any], rows: RowReader, *, most_rows: int) -> Feed:
    """Read the tensors of a request.

    Raises
    ------
    InputError, LimitError
    """
    tensors = content.get("inputs")
    if not isinstance(tensors, list) or not all(isinstance(tensor, dict) for tensor in tensors):
        raise InputError("expected `inputs`, a list of tensors with name, shape, datatype and data")
    for output in content.get("outputs") or ():
        if not isinstance(output, dict) or output.get("name") != OUTPUT:
            raise InputError(f"expected outputs to name {OUTPUT!r}, the one there is")
    columns: dict[str, list[Any]] = {}
    for tensor in tensors:
        name = tensor.get("name")
        if not isinstance(name, str) or name in columns:
            raise InputError("expected every input to have a name of its own")
        columns[name] = _data(name, tensor)
        check_rows(len(columns[name]), most_rows)
        kind = rows.signature.get(name)
        if kind is not None and (tensor.get("datatype") == "BYTES") != (kind == "string"):
            found = ascii(tensor.get("datatype"))[:40]
            raise InputError(f"input {name!r}: expected datatype {_DATATYPES[kind]}, found {found}", column=name)
    return rows.columns(columns)


def write_inference(scores: NDArray[np.float32], model: ServedModel, content: Mapping[str, Any]) -> bytes:
    """Return the answer to a request."""
    answer: dict[str, Any] = {
        "model_name": model.ref.flow,
        "model_version": str(model.version),
        "outputs": [{"name": OUTPUT, "datatype": "FP32", "shape": scores.shape, "data": scores.ravel().tolist()}],
    }
    identity = content.get("id")
    if isinstance(identity, str):
        answer["id"] = identity[:_LONGEST_ID]
    return orjson.dumps(answer)


def metadata(model: ServedModel) -> bytes:
    """Return the model's metadata."""
    inputs = [{"name": name, "datatype": _DATATYPES[kind], "shape": [-1]} for name, kind in model.signature.items()]
    return orjson.dumps(
        {
            "name": model.ref.flow,
            "versions": [str(model.version)],
            "platform": "onnxruntime_onnx",
            "inputs": inputs,
            "outputs": [{"name": OUTPUT, "datatype": "FP32", "shape": [-1]}],
        }
    )


def _data(name: str, tensor: Mapping[str, Any]) -> list[Any]:
    data, shape, datatype = tensor.get("data"), tensor.get("shape"), tensor.get("datatype")
    if not isinstance(data, list):
        raise InputError(f"input {name!r:.80}: expected a list `data`; tensors in binary form are not taken")
    if datatype != "BYTES" and datatype not in _NUMBERS:
        raise InputError(f"input {name!r:.80}: expected datatype BYTES or a number's, found {ascii(datatype)[:40]}")
    if data and all(isinstance(value, list) and len(value) == 1 for value in data):
        data = [value[0] for value in data]
    if shape not in ([len(data)], [len(data), 1]):
        raise InputError(f"input {name!r:.80}: expected shape [{len(data)}], as its data, found {ascii(shape)[:40]}")
    return data

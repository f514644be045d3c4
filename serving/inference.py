"""The Open Inference Protocol, version 2: tensors by name in, the tensor `score` out, as JSON or in binary form.

A model takes one 1-D tensor per raw column, ``BYTES`` or ``FP32``; other numeric datatypes are read as the numbers they
are, and a shape of ``[n, 1]`` as ``[n]``. In binary form (the protocol's extension of that name) the body is the JSON,
as long as the header ``Inference-Header-Content-Length`` says, and then the tensors' bytes in its order.
"""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from ml_core.errors import InputError
from serving.model import ServedModel
from serving.rows import RowReader
from serving.wire import Codec, Rows, Written, check_json, check_rows, columns_read, read_json

OUTPUT: Final = "score"
JSON_LENGTH: Final = b"inference-header-content-length"
SERVER: Final = orjson.dumps({"name": "modelflow", "version": "2", "extensions": ["binary_tensor_data"]})
_DATATYPES: Final = {"string": "BYTES", "float": "FP32"}
_NUMBERS: Final = {f"FP{bits}": f"<f{bits // 8}" for bits in (16, 32, 64)} | {
    f"{sign}INT{bits}": f"<{kind}{bits // 8}" for sign, kind in (("", "i"), ("U", "u")) for bits in (8, 16, 32, 64)
}
_LONGEST_ID: Final = 200


def codec(head: Mapping[bytes, bytes]) -> Codec:
    """Return the protocol's codec; raise MediaTypeError when the body is announced as something else."""
    if JSON_LENGTH not in head:
        check_json(head)
    return _CODEC


def _read(
    body: bytes, head: Mapping[bytes, bytes], model: ServedModel, most_rows: int
) -> tuple[Mapping[str, Any], Rows]:
    length = head.get(JSON_LENGTH)
    if length is None:
        content, binary = read_json(body), b""
    else:
        if not length.isdigit() or len(length) > 12 or int(length) > len(body):  # noqa: PLR2004 - more is no length
            raise InputError("expected Inference-Header-Content-Length to be the length of the JSON in the body")
        content, binary = read_json(body[: int(length)]), body[int(length) :]
    return content, read_inference(content, model.rows, most_rows=most_rows, binary=binary)


def _write(
    scores: NDArray[np.float32], model: ServedModel, content: Mapping[str, Any], _: Mapping[bytes, bytes]
) -> Written:
    if not _wants_binary(content):
        return write_inference(scores, model, content), b"application/json", ()
    raw = np.ascontiguousarray(scores, "<f4").tobytes()
    answer = write_inference(scores, model, content, binary_size=len(raw))
    return answer + raw, b"application/octet-stream", ((JSON_LENGTH, b"%d" % len(answer)),)


_CODEC: Final = Codec(_read, _write)


def read_inference(content: Mapping[str, Any], rows: RowReader, *, most_rows: int, binary: bytes = b"") -> Rows:
    """Read the tensors of a request; those without data of their own are the next bytes of `binary`.

    Raises
    ------
    InputError, LimitError
    """
    tensors = content.get("inputs")
    if not isinstance(tensors, list) or not all(isinstance(tensor, dict) for tensor in tensors):
        raise InputError("expected `inputs`, a list of tensors with name, shape, datatype and data")
    outputs = content.get("outputs") or []
    if not isinstance(outputs, list) or any(not isinstance(out, dict) or out.get("name") != OUTPUT for out in outputs):
        raise InputError(f"expected outputs to name {OUTPUT!r}, the one there is")
    columns: dict[str, Any] = {}
    taken = 0
    for tensor in tensors:
        name = tensor.get("name")
        if not isinstance(name, str) or name in columns:
            raise InputError("expected every input to have a name of its own")
        size = _parameters(tensor).get("binary_data_size")
        if size is None:
            columns[name] = _data(name, tensor)
        else:
            if type(size) is not int or not 0 <= size <= len(binary) - taken:
                raise InputError(f"input {name!r:.80}: expected binary_data_size bytes after the JSON", column=name)
            columns[name] = _binary(name, tensor, binary[taken : taken + size])
            taken += size
        check_rows(len(columns[name]), most_rows)
        kind = rows.signature.get(name)
        if kind is not None and (tensor.get("datatype") == "BYTES") != (kind == "string"):
            found = ascii(tensor.get("datatype"))[:40]
            raise InputError(f"input {name!r}: expected datatype {_DATATYPES[kind]}, found {found}", column=name)
    if taken != len(binary):
        raise InputError(f"expected {taken} bytes after the JSON, as its inputs say, found {len(binary)}")
    return columns_read(columns)


def write_inference(
    scores: NDArray[np.float32], model: ServedModel, content: Mapping[str, Any], *, binary_size: int | None = None
) -> bytes:
    """Return the answer to a request; with a `binary_size` its scores follow elsewhere, in that many bytes."""
    output: dict[str, Any] = {"name": OUTPUT, "datatype": "FP32", "shape": scores.shape}
    if binary_size is None:
        output["data"] = scores.ravel().tolist()
    else:
        output["parameters"] = {"binary_data_size": binary_size}
    answer: dict[str, Any] = {
        "model_name": model.ref.flow,
        "model_version": str(model.version),
        "outputs": [output],
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
        raise InputError(f"input {name!r:.80}: expected a list `data`, or its binary_data_size")
    if datatype != "BYTES" and datatype not in _NUMBERS:
        raise InputError(f"input {name!r:.80}: expected datatype BYTES or a number's, found {ascii(datatype)[:40]}")
    if data and all(isinstance(value, list) and len(value) == 1 for value in data):
        data = [value[0] for value in data]
    if shape not in ([len(data)], [len(data), 1]):
        raise InputError(f"input {name!r:.80}: expected shape [{len(data)}], as its data, found {ascii(shape)[:40]}")
    return data


def _binary(name: str, tensor: Mapping[str, Any], raw: bytes) -> Any:
    """Read a tensor's bytes: numbers little-endian, strings each after its length in four bytes."""
    shape, datatype = tensor.get("shape"), tensor.get("datatype")
    values: Any
    if datatype == "BYTES":
        values = _strings(name, raw)
    elif isinstance(datatype, str) and datatype in _NUMBERS:
        kind = np.dtype(_NUMBERS[datatype])
        if len(raw) % kind.itemsize:
            raise InputError(f"input {name!r:.80}: expected whole numbers of {kind.itemsize} bytes", column=name)
        numbers = np.frombuffer(raw, kind)
        values = numbers if kind.kind == "f" else numbers.tolist()  # integers are looked at one by one
    else:
        raise InputError(f"input {name!r:.80}: expected datatype BYTES or a number's, found {ascii(datatype)[:40]}")
    if shape not in ([len(values)], [len(values), 1]):
        raise InputError(f"input {name!r:.80}: expected shape [{len(values)}], as its data, found {ascii(shape)[:40]}")
    return values


def _strings(name: str, raw: bytes) -> list[str]:
    strings, at = [], 0
    while at < len(raw):
        start = at + 4
        at = start + int.from_bytes(raw[at:start], "little")
        if at > len(raw):
            raise InputError(f"input {name!r:.80}: its strings end before their lengths say", column=name)
        try:
            strings.append(raw[start:at].decode())
        except UnicodeDecodeError as error:
            raise InputError(f"input {name!r:.80}: expected strings in UTF-8", column=name, row=len(strings)) from error
    return strings


def _wants_binary(content: Mapping[str, Any]) -> bool:
    """Say whether the scores are asked for in binary form: by the output's own word, or else by the request's."""
    asked: Mapping[str, Any] = next(iter(content.get("outputs") or ()), {})
    return _parameters(asked).get("binary_data", _parameters(content).get("binary_data_output")) is True


def _parameters(of: Mapping[str, Any]) -> Mapping[str, Any]:
    parameters = of.get("parameters")
    return parameters if isinstance(parameters, dict) else {}

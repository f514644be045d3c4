"""Bodies: MLflow's scoring protocol and the Open Inference Protocol, read into columns and written from scores.

This is the one table of errors to statuses, too. What a client reads is short and typed and never an internal path.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from ml_core import errors
from ml_core.errors import InputError
from serving.rows import Columns, columns_of

STATUS: Mapping[type[errors.ModelFlowError], int] = {
    errors.InputError: 400,
    errors.NotReadyError: 503,
    errors.RegistryDownError: 503,
    errors.VersionNotFoundError: 503,
    errors.StoreBusyError: 503,
    errors.PackageError: 503,
    # the rest cannot arise from a request; were one to, it is ours
    errors.ProjectError: 500,
    errors.SegmentError: 500,
    errors.FeatureError: 500,
    errors.StateError: 500,
    errors.ExportError: 500,
    errors.HeadMovedError: 500,
    errors.PromotionError: 500,
    errors.PlatformError: 500,
}

_CODES = {400: "BAD_REQUEST", 404: "NOT_FOUND", 405: "METHOD_NOT_ALLOWED", 413: "TOO_LARGE", 503: "NOT_READY"}
_MLFLOW_BODIES = ("dataframe_split", "dataframe_records", "inputs", "instances")


@dataclass(frozen=True, slots=True)
class RequestRefusedError(Exception):
    """A request that never reaches the model, with the status it is answered with."""

    status: int
    message: str


def status_of(error: errors.ModelFlowError) -> int:
    """Return the status an error is answered with."""
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), 500)


def error_body(status: int, message: str) -> bytes:
    """Return a short typed error, in the shape MLflow's clients expect."""
    return orjson.dumps({"error_code": _CODES.get(status, "INTERNAL_ERROR"), "message": message})


def read_invocation(body: bytes) -> Columns:
    """Read an MLflow scoring body: dataframe_split, dataframe_records, inputs or instances."""
    content = _object(body)
    given = [name for name in _MLFLOW_BODIES if name in content]
    if len(given) != 1:
        raise InputError(f"expected exactly one of {', '.join(_MLFLOW_BODIES)}, found {given or 'none'}")
    rows = content[given[0]]
    if given[0] == "dataframe_split":
        return _split(rows)
    if isinstance(rows, dict) and given[0] != "dataframe_records":
        return _mapping(rows)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{given[0]}: expected a list of objects, one per row")
    return columns_of(rows)


def write_invocation(scores: NDArray[np.float32]) -> bytes:
    """Return MLflow's answer."""
    return orjson.dumps({"predictions": scores.tolist()})


def read_inference(body: bytes) -> tuple[Columns, str | None]:
    """Read an Open Inference Protocol request: its columns, and its id."""
    content = _object(body)
    inputs = content.get("inputs")
    if not isinstance(inputs, list) or not all(isinstance(tensor, dict) for tensor in inputs):
        raise InputError("expected `inputs`, a list of tensors")
    columns: dict[str, Sequence[Any]] = {}
    for tensor in inputs:
        name, data = tensor.get("name"), tensor.get("data")
        if not isinstance(name, str) or not isinstance(data, list):
            raise InputError("every input needs a `name` and a list `data`")
        columns[name] = [value[0] if isinstance(value, list) and len(value) == 1 else value for value in data]
    identity = content.get("id")
    return columns, identity if isinstance(identity, str) else None


def write_inference(scores: NDArray[np.float32], *, flow: str, version: int, identity: str | None) -> bytes:
    """Return the Open Inference Protocol answer."""
    output = {"name": "score", "datatype": "FP32", "shape": [len(scores)], "data": scores.tolist()}
    answer: dict[str, Any] = {"model_name": flow, "model_version": str(version), "outputs": [output]}
    return orjson.dumps(answer | ({"id": identity} if identity else {}))


def _object(body: bytes) -> dict[str, Any]:
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InputError(f"expected a JSON object: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"expected a JSON object, found {type(content).__name__}")
    return content


def _split(rows: Any) -> Columns:
    if (
        not isinstance(rows, dict)
        or not isinstance(rows.get("columns"), list)
        or not isinstance(rows.get("data"), list)
    ):
        raise InputError("dataframe_split: expected an object with lists `columns` and `data`")
    names, data = rows["columns"], rows["data"]
    for index, row in enumerate(data):
        if not isinstance(row, list) or len(row) != len(names):
            raise InputError(f"dataframe_split: row {index}: expected a list of {len(names)} values")
    if len(data) == 1:
        return {name: (value,) for name, value in zip(names, data[0], strict=True)} if _hashable(names) else {}
    return (
        dict(zip(names, zip(*data, strict=True), strict=True))
        if data and _hashable(names)
        else dict.fromkeys(names, ())
    )


def _hashable(names: list[Any]) -> bool:
    if not all(isinstance(name, str) for name in names):
        raise InputError("dataframe_split: expected the names of columns to be strings")
    return True


def _mapping(columns: dict[str, Any]) -> Columns:
    return {name: values if isinstance(values, list) else [values] for name, values in columns.items()}

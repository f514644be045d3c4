"""What goes over the wire: MLflow's scoring bodies, errors, and the one table of errors to statuses.

What a client reads about its own mistake is short, typed and names the place; what went wrong on our side is told in
the log and nowhere else.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import numpy as np
import orjson
from numpy.typing import NDArray

from ml_core import errors
from ml_core.errors import InputError, LimitError, MediaTypeError, ModelFlowError
from serving.model import ServedModel
from serving.rows import Feed, RowReader
from serving.split import read_split

# rows that have been read, and how a model scores them: all in one call, by that model alone
Rows = tuple[Callable[[ServedModel, Any], NDArray[np.float32]], Any]
Written = tuple[bytes, bytes, tuple[tuple[bytes, bytes], ...]]

# error → status, and the code clients see. Every leaf of the tree stands here; a test sees to it.
STATUS: Final[Mapping[type[ModelFlowError], tuple[int, str]]] = {
    errors.InputError: (400, "BAD_REQUEST"),
    errors.UnauthorizedError: (401, "UNAUTHORIZED"),
    errors.MediaTypeError: (415, "UNSUPPORTED_MEDIA_TYPE"),
    errors.LateRequestError: (408, "REQUEST_TIMEOUT"),
    errors.LimitError: (413, "TOO_LARGE"),
    errors.OverloadedError: (429, "OVERLOADED"),
    errors.NotReadyError: (503, "NOT_READY"),
    errors.RegistryDownError: (503, "NOT_READY"),
    errors.VersionNotFoundError: (503, "NOT_READY"),
    errors.PackageError: (503, "NOT_READY"),
    errors.StoreBusyError: (503, "NOT_READY"),
    errors.BrokerDownError: (503, "NOT_READY"),
    # the rest cannot arise from a request; were one to, it is ours
    errors.ProjectError: (500, "INTERNAL_ERROR"),
    errors.SegmentError: (500, "INTERNAL_ERROR"),
    errors.FeatureError: (500, "INTERNAL_ERROR"),
    errors.SourceError: (500, "INTERNAL_ERROR"),
    errors.StateError: (500, "INTERNAL_ERROR"),
    errors.ExportError: (500, "INTERNAL_ERROR"),
    errors.HeadMovedError: (500, "INTERNAL_ERROR"),
    errors.FlowBusyError: (500, "INTERNAL_ERROR"),
    errors.PromotionError: (500, "INTERNAL_ERROR"),
    errors.BackupError: (500, "INTERNAL_ERROR"),
    errors.DiskFullError: (500, "INTERNAL_ERROR"),
    errors.PlatformError: (500, "INTERNAL_ERROR"),
}
INTERNAL: Final = (500, "INTERNAL_ERROR")

_TOLD_IN_FULL: Final = (errors.InputError, errors.RequestError, errors.NotReadyError)
_SHAPES: Final = ("dataframe_split", "dataframe_records", "inputs", "instances")
_SPLIT: Final = b'{"dataframe_split"'
_LONGEST_MESSAGE: Final = 500
_READ_BY_BYTES: Final = range(16 * 1024, 2 * 1024 * 1024)  # smaller bodies gain nothing, larger ones take much memory


@dataclass(frozen=True, slots=True)
class Codec:
    """How one kind of body is read, and its scores are written.

    Attributes
    ----------
    read : callable
        From the body, the head, the model and the most rows to what `write` has to know of the request, and the rows;
        raises InputError or LimitError.
    write : callable
        From the scores, the model, what `read` gave and the head to content, media type and further headers.
    is_quick : callable
        Whether a body takes less than half the time that others of its size take.
    """

    read: Callable[[bytes, Mapping[bytes, bytes], ServedModel, int], tuple[Any, Rows]]
    write: Callable[[NDArray[np.float32], ServedModel, Any, Mapping[bytes, bytes]], Written]
    is_quick: Callable[[bytes, ServedModel], bool] = lambda *_: False


def status_of(error: Exception) -> tuple[int, str]:
    """Return the status and the code an error is answered with."""
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), INTERNAL)


def error_body(error: Exception, path: str = "") -> bytes:
    """Return what a client reads about an error: MLflow's shape, on `/v2` the Open Inference Protocol's, too."""
    _, code = status_of(error)
    told = str(error)[:_LONGEST_MESSAGE] if isinstance(error, _TOLD_IN_FULL) else "the server failed; its log says why"
    body: dict[str, Any] = {"error_code": code, "message": told}
    if isinstance(error, InputError):
        body |= {"column": error.column, "row": error.row}
    if path.startswith("/v2"):
        body["error"] = told
    return orjson.dumps(body)


def read_json(body: bytes) -> dict[str, Any]:
    """Return the JSON object of a body; ``NaN``, which Python's own clients write, is null.

    Raises
    ------
    InputError
        It is not one, or is nested more than a thousand deep.
    """
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        content = _with_nan(body, error)
    if not isinstance(content, dict):
        raise InputError(f"expected a JSON object, found {_named(content)}")
    return content


def read_invocation(content: Mapping[str, Any], rows: RowReader, *, most_rows: int) -> Rows:
    """Read an MLflow scoring body: exactly one of dataframe_split, dataframe_records, inputs and instances.

    Raises
    ------
    InputError, LimitError
    """
    given = [shape for shape in _SHAPES if shape in content]
    if len(given) != 1:
        raise InputError(f"expected exactly one of {', '.join(_SHAPES)}, found {' and '.join(given) or 'none'}")
    shape, value = given[0], content[given[0]]
    if shape == "dataframe_split":
        return _split(value, rows, most_rows)
    if isinstance(value, dict) and shape != "dataframe_records":
        return _columns(shape, value, most_rows)
    if not isinstance(value, list) or not set(map(type, value)) <= {dict}:
        raise InputError(f"{shape}: expected a list of objects, one per row, column to value; found {_named(value)}")
    check_rows(len(value), most_rows)
    if len(value) == 1:
        return _score_row, value[0]
    return _score_records, value


def columns_read(columns: Mapping[str, Any]) -> Rows:
    """Return columns as rows that have been read."""
    return _score_columns, columns


def feed_of(model: ServedModel, rows: Rows) -> Feed:
    """Return rows that have been read as the graph's inputs, whichever way they were scored."""
    score, read = rows
    if score is _score_row:
        return model.rows.records((read,))
    if score is _score_records:
        return model.rows.records(read)
    feed: Feed = model.rows.columns(read) if score is _score_columns else read
    return feed


def scored_by(model: ServedModel, first: ServedModel, rows: Rows) -> NDArray[np.float32]:
    """Return what another model says of rows that were read for `first`; raise InputError where it cannot."""
    score, read = rows
    if score is ServedModel.score and list(model.signature.items()) != list(first.signature.items()):
        raise InputError("these rows were read for the columns of the served version")
    return score(model, read)


def column_of(rows: Rows, column: str) -> Any:
    """Return a column of rows that have been read, of the model's or not, as it lies; None where it cannot be told."""
    score, read = rows
    if score is _score_row:
        return [read.get(column)]
    if score is _score_records:
        return [record.get(column) for record in read]
    return read.get(column) if score is _score_columns else None


def _score_row(model: ServedModel, row: Mapping[str, Any]) -> NDArray[np.float32]:
    return np.array([model.score_row(row)], np.float32)


def _score_records(model: ServedModel, records: Sequence[Mapping[str, Any]]) -> NDArray[np.float32]:
    if not model.rows.refuse_extra:
        try:
            return model.score_columns({name: [record[name] for record in records] for name in model.signature})
        except KeyError:
            pass  # the way below says which column is missing in which row
    return model.score(model.rows.records(records))


def _score_columns(model: ServedModel, columns: Mapping[str, Any]) -> NDArray[np.float32]:
    return model.score_columns(columns)


def write_invocation(scores: NDArray[np.float32]) -> bytes:
    """Return MLflow's answer; a score is written so that it reads back as the very same float32."""
    return orjson.dumps({"predictions": scores.tolist()})


def json_codec(head: Mapping[bytes, bytes]) -> Codec:
    """Return the codec of MLflow's bodies; raise MediaTypeError when the body is announced as something else."""
    check_json(head)
    return _INVOCATION


def check_json(head: Mapping[bytes, bytes]) -> None:
    """Raise MediaTypeError unless a body is announced as plain JSON, or not announced."""
    kind = head.get(b"content-type", b"json").lower()
    if b"content-encoding" in head:
        raise MediaTypeError("expected a body without a content-encoding")
    if b"json" not in kind:
        found = ascii(kind.decode("latin-1"))[1:81]
        raise MediaTypeError(
            f"expected the header Content-Type: application/json, found {found}; /docs has other kinds"
        )


def _read_invocation(body: bytes, _: Mapping[bytes, bytes], model: ServedModel, most_rows: int) -> tuple[None, Rows]:
    if model.by_bytes and len(body) in _READ_BY_BYTES:
        split = read_split(body, model.signature, _SHAPES[1:])
        if split is not None:
            check_rows(split.rows, most_rows)
            return None, columns_read(split)
    return None, read_invocation(read_json(body), model.rows, most_rows=most_rows)


def _write_invocation(scores: NDArray[np.float32], *_: Any) -> Written:
    return write_invocation(scores), b"application/json", ()


def _is_quick(body: bytes, model: ServedModel) -> bool:
    return model.by_bytes and len(body) in _READ_BY_BYTES and body.startswith(_SPLIT) and b"\\" not in body


_INVOCATION: Final = Codec(_read_invocation, _write_invocation, _is_quick)


def check_rows(rows: int, most_rows: int) -> None:
    """Raise LimitError when one request holds too many rows."""
    if rows > most_rows:
        raise LimitError(f"expected at most {most_rows} rows in a request, found {rows}; send them in parts")


def _split(value: Any, rows: RowReader, most_rows: int) -> Rows:
    names = value.get("columns") if isinstance(value, dict) else None
    data = value.get("data") if isinstance(value, dict) else None
    if not isinstance(names, list) or not isinstance(data, list):
        raise InputError("dataframe_split: expected an object with the lists `columns` and `data`")
    check_rows(len(data), most_rows)
    if not set(map(type, data)) <= {list}:
        row = next(index for index, entry in enumerate(data) if not isinstance(entry, list))
        raise InputError(f"dataframe_split: row {row}: expected a list of values, found {_named(data[row])}", row=row)
    if not set(map(type, names)) <= {str} or len(set(names)) != len(names) or set(map(len, data)) != {len(names)}:
        return ServedModel.score, rows.split(names, data)  # which says what is wrong; no rows are fine
    if len(data) == 1:
        return _score_row, dict(zip(names, data[0], strict=True))
    return columns_read(dict(zip(names, zip(*data, strict=True), strict=True)))


def _columns(shape: str, value: dict[str, Any], most_rows: int) -> Rows:
    """Read columns; where none is a list, they are the values of one row."""
    listed = {name: column for name, column in value.items() if isinstance(column, list)}
    if not listed:
        return _score_row, value
    for name, column in value.items():
        if name not in listed:
            raise InputError(f"{shape}: column {name!r:.80}: expected a list of values, found {_named(column)}")
        check_rows(len(column), most_rows)
    return columns_read(value)


def _with_nan(body: bytes, refused: orjson.JSONDecodeError) -> Any:
    """Read JSON with the literals Python adds to it, by the same rules as any other."""
    if b"NaN" not in body and b"Infinity" not in body:
        raise InputError(f"expected JSON: {refused}") from refused
    try:
        # the way through orjson turns NaN into null, and refuses what it would have refused at first
        return orjson.loads(orjson.dumps(json.loads(body, parse_constant=_constant)))
    except InputError:
        raise
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(f"expected JSON: {refused}") from error


def _constant(literal: str) -> float:
    return float("nan") if literal == "NaN" else _refuse_infinity(literal)


def _refuse_infinity(literal: str) -> NoReturn:
    raise InputError(f"expected finite numbers, found {literal}")


def _named(value: Any) -> str:
    """Return what JSON calls a value's type."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")

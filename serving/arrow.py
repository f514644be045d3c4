"""Rows as an Arrow IPC stream, a table's columns in and the column `score` out: the short way for large batches.

What comes is validated in full before a value is read, and nothing that comes small may unfold into something large:
buffers have to be uncompressed, columns of plain types or of dictionaries, and the strings of all columns that the
model takes are measured first. Other columns stay as they came.
"""

import struct
from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ml_core.errors import InputError, LimitError, MediaTypeError
from serving.model import ServedModel
from serving.wire import Codec, Rows, Written, check_rows, columns_read, write_invocation

MEDIA_TYPE: Final = b"application/vnd.apache.arrow.stream"
# where Arrow's Message holds its header, and a record batch (alone or in a dictionary) its compression: the fields'
# places in their flatbuffers' tables, each of which begins with the way back to a list of 16-bit offsets
_HEADER, _DICTIONARY_DATA, _COMPRESSION = 8, 6, 10
_OFFSET, _SIZE = struct.Struct("<i"), struct.Struct("<H")
_DICTIONARY = pa.dictionary(pa.int8(), pa.string()).id
_TEXT = {pa.string().id, pa.large_string().id}
_NUMBERS = {
    pa.type_for_alias(name).id
    for name in (
        "null",
        "bool",
        "float16",
        "float32",
        "float64",
        *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
    )
}
_MOST_UNFOLDED_BYTES = 64 * 1024 * 1024  # the strings of one request, beyond what its body holds
_DAMAGED = (pa.ArrowException, struct.error, ValueError, OSError, IndexError, TypeError, MemoryError, OverflowError)


def is_arrow(head: Mapping[bytes, bytes]) -> bool:
    """Say whether a body is announced as an Arrow stream; raise MediaTypeError where its transport is compressed."""
    found = head.get(b"content-type", b"").partition(b";")[0].strip().lower() == MEDIA_TYPE
    if found and b"content-encoding" in head:
        raise MediaTypeError("expected an Arrow stream without a content-encoding")
    return found


def read_stream(body: bytes, *, most_rows: int) -> dict[str, pa.Array | pa.ChunkedArray]:
    """Return the columns of an Arrow IPC stream as they lie, in a piece a batch where there are several.

    Raises
    ------
    InputError
        It is none, is damaged, has compressed buffers, or two columns of one name.
    LimitError
    """
    try:
        if any(map(_is_compressed, _messages(body))):
            raise InputError("expected an Arrow stream with uncompressed buffers")
        batches, rows = [], 0
        with pa.ipc.open_stream(pa.py_buffer(body)) as stream:
            for batch in stream:
                rows += batch.num_rows
                check_rows(rows, most_rows)
                batch.validate(full=True)
                batches.append(batch)
            names = stream.schema.names
            if len(batches) != 1:
                batches = [pa.Table.from_batches(batches, stream.schema)]
    except _DAMAGED as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"expected an Arrow IPC stream: {str(error)[:200]}") from error
    if len(set(names)) != len(names):
        raise InputError("expected every column to have a name of its own")
    return dict(zip(names, batches[0].columns, strict=True))


def _messages(body: bytes) -> Iterator[tuple[str, bytes]]:
    reader = pa.ipc.MessageReader.open_stream(pa.py_buffer(body))
    while True:
        try:
            message = reader.read_next_message()
        except StopIteration:
            return
        yield message.type, message.metadata.to_pybytes()


def _is_compressed(message: tuple[str, bytes]) -> bool:
    """Read in a message's metadata, which Arrow has verified as a flatbuffer, whether its buffers are compressed."""
    kind, metadata = message
    if kind not in {"record batch", "dictionary"}:
        return False
    batch = _table(metadata, _followed(metadata, 0), _HEADER)
    if kind == "dictionary" and batch:
        batch = _table(metadata, batch, _DICTIONARY_DATA)
    return bool(batch and _field(metadata, batch, _COMPRESSION))


def _table(content: bytes, table: int, field: int) -> int:
    """Return the table that a flatbuffer's table refers to in a field; 0 where it does not."""
    at = _field(content, table, field)
    return _followed(content, at) if at else 0


def _field(content: bytes, table: int, field: int) -> int:
    """Return where a flatbuffer's table holds a field; 0 where it does not."""
    fields = table - _OFFSET.unpack_from(content, table)[0]
    size = _SIZE.unpack_from(content, fields)[0]
    at: int = _SIZE.unpack_from(content, fields + field)[0] if field < size else 0
    return table + at if at else 0


def _followed(content: bytes, at: int) -> int:
    return at + int(_OFFSET.unpack_from(content, at)[0])


def _read(body: bytes, _: Mapping[bytes, bytes], model: ServedModel, most_rows: int) -> tuple[None, Rows]:
    columns = read_stream(body, most_rows=most_rows)
    taken = {name: columns[name] for name in model.signature if name in columns}
    texts = {name: column for name, column in taken.items() if _kind(name, column) in _TEXT}
    _check_texts(texts, most_bytes=len(body) + _MOST_UNFOLDED_BYTES)
    return None, columns_read(columns | {name: _in_one_piece(name, column) for name, column in taken.items()})


def _kind(name: str, column: pa.Array | pa.ChunkedArray) -> int:
    """Return the kind of a column's values; raise InputError where it is none a model takes."""
    kind = column.type.value_type if column.type.id == _DICTIONARY else column.type
    if kind.id not in _TEXT | _NUMBERS:
        raise InputError(
            f"column {name!r}: expected strings, numbers or a dictionary of them, found {kind}", column=name
        )
    found: int = kind.id
    return found


def _in_one_piece(name: str, column: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    if not isinstance(column, pa.ChunkedArray):
        return column
    try:
        return column.combine_chunks()
    except _DAMAGED as error:
        raise InputError(
            f"column {name!r}: expected batches that go together: {str(error)[:200]}", column=name
        ) from error


def _check_texts(columns: Mapping[str, pa.Array | pa.ChunkedArray], *, most_bytes: int) -> None:
    """Refuse columns whose strings, one for each row, take far more room than they came in.

    A bound of each column costs no look at its rows. Only where the bounds are too large together are the strings
    measured, from the largest bound on.
    """
    sizes = {name: sum(map(_most_bytes, _pieces(column))) for name, column in columns.items()}
    total = sum(sizes.values())
    for name in sorted(sizes, key=sizes.__getitem__, reverse=True):
        if total <= most_bytes:
            return
        measured = sum(map(_measured_bytes, _pieces(columns[name])))
        total += measured - sizes[name]
        sizes[name] = measured
    if total > most_bytes:
        largest = max(sizes, key=sizes.__getitem__)
        raise LimitError(
            f"expected strings of at most {most_bytes} bytes in all rows and columns, found {total}, of them"
            f" {sizes[largest]} in column {largest!r}; send the rows in parts"
        )


def _pieces(column: pa.Array | pa.ChunkedArray) -> list[pa.Array]:
    return column.chunks if isinstance(column, pa.ChunkedArray) else [column]


def _most_bytes(piece: pa.Array) -> int:
    """Return a bound of the bytes of a piece's strings: no string is longer than all of its dictionary's together."""
    folded = isinstance(piece, pa.DictionaryArray)
    content = (piece.dictionary if folded else piece).buffers()[2]
    size: int = content.size if content else 0
    return size * len(piece) if folded else size


def _measured_bytes(piece: pa.Array) -> int:
    import pyarrow.compute as pc  # here, because it costs a start a tenth of a second

    if isinstance(piece, pa.DictionaryArray):
        lengths = pc.binary_length(piece.dictionary).take(piece.indices)
    else:
        lengths = pc.binary_length(piece)
    return pc.sum(lengths.cast(pa.int64())).as_py() or 0


def _write(scores: NDArray[np.float32], model: ServedModel, _: None, head: Mapping[bytes, bytes]) -> Written:
    """Answer in kind, or in MLflow's JSON to a caller that accepts only that."""
    accept = head.get(b"accept", b"*/*")
    if MEDIA_TYPE not in accept and b"*/*" not in accept and b"json" in accept:
        return write_invocation(scores), b"application/json", ()
    column = pa.array(scores.ravel())
    if scores.ndim > 1:
        column = pa.FixedSizeListArray.from_arrays(column, scores.shape[1])
    schema = pa.schema({"score": column.type}, {"model_version": str(model.version)})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as stream:
        stream.write_batch(pa.record_batch([column], schema))
    return sink.getvalue().to_pybytes(), MEDIA_TYPE, ()


CODEC: Final = Codec(_read, _write, lambda _, model: model.by_bytes)

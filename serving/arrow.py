"""Rows as an Arrow IPC stream, a table's columns in and the column `score` out: the short way for large batches.

What comes is validated in full before a value is read, and nothing that comes small may unfold into something large:
buffers have to be uncompressed, columns of plain types or of dictionaries, whose strings are measured first.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import flatbuffers
import numpy as np
import pyarrow as pa
from flatbuffers.number_types import UOffsetTFlags
from numpy.typing import NDArray

from ml_core.errors import InputError, LimitError, MediaTypeError
from serving.model import ServedModel
from serving.rows import RowReader
from serving.wire import Codec, Rows, Written, check_rows, columns_read, write_invocation

MEDIA_TYPE: Final = b"application/vnd.apache.arrow.stream"
# where Arrow's Message holds its header, and a record batch (alone or in a dictionary) its compression: the fields'
# offsets in their flatbuffers' tables
_HEADER, _DICTIONARY_DATA, _COMPRESSION = 8, 6, 10
_MOST_UNFOLDED_BYTES = 64 * 1024 * 1024


def is_arrow(head: Mapping[bytes, bytes]) -> bool:
    """Say whether a body is announced as an Arrow stream; raise MediaTypeError where its transport is compressed."""
    found = head.get(b"content-type", b"").partition(b";")[0].strip().lower() == MEDIA_TYPE
    if found and b"content-encoding" in head:
        raise MediaTypeError("expected an Arrow stream without a content-encoding")
    return found


def read_stream(body: bytes, *, most_rows: int) -> pa.Table:
    """Return the table of an Arrow IPC stream.

    Raises
    ------
    InputError
        It is none, is damaged, or has compressed buffers.
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
            return pa.Table.from_batches(batches, stream.schema).combine_chunks()
    except (pa.ArrowException, ValueError, OSError, IndexError, TypeError, MemoryError, OverflowError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"expected an Arrow IPC stream: {str(error)[:200]}") from error


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
    root = flatbuffers.encode.Get(UOffsetTFlags.packer_type, metadata, 0)
    batch = _table_at(flatbuffers.table.Table(metadata, root), _HEADER)
    if kind == "dictionary" and batch is not None:
        batch = _table_at(batch, _DICTIONARY_DATA)
    return batch is not None and bool(batch.Offset(_COMPRESSION))


def _table_at(table: Any, field: int) -> Any:
    offset = table.Offset(field)
    return flatbuffers.table.Table(table.Bytes, table.Indirect(table.Pos + offset)) if offset else None


def _read(body: bytes, _: Mapping[bytes, bytes], rows: RowReader, most_rows: int) -> tuple[None, Rows]:
    table = read_stream(body, most_rows=most_rows)
    if len(set(table.column_names)) != table.num_columns:
        raise InputError("expected every column to have a name of its own")
    for name in rows.signature.keys() & set(table.column_names):
        _check_column(name, table.column(name))
    return None, columns_read(dict(zip(table.column_names, table.columns, strict=True)))


def _check_column(name: str, column: pa.ChunkedArray) -> None:
    """Refuse a column whose values take far more room than it does."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
        if _is_text(kind) and _unfolded_bytes(column) > _MOST_UNFOLDED_BYTES:
            raise LimitError(f"column {name!r}: expected strings of at most {_MOST_UNFOLDED_BYTES} bytes in all")
    if not (_is_text(kind) or pa.types.is_primitive(kind) or pa.types.is_null(kind)):
        raise InputError(
            f"column {name!r}: expected strings, numbers or a dictionary of them, found {kind}", column=name
        )


def _unfolded_bytes(column: pa.ChunkedArray) -> int:
    """Return how many bytes a dictionary column's strings have in all, or a bound of that where it is small."""
    bound: int = sum(chunk.dictionary.nbytes * len(chunk) for chunk in column.chunks)
    if bound <= _MOST_UNFOLDED_BYTES:
        return bound
    import pyarrow.compute as pc  # here, because it costs a start a tenth of a second

    lengths: Iterator[int | None] = (
        pc.sum(pc.binary_length(chunk.dictionary).take(chunk.indices)).as_py() for chunk in column.chunks
    )
    return sum(length or 0 for length in lengths)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _write(scores: NDArray[np.float32], model: ServedModel, _: None, head: Mapping[bytes, bytes]) -> Written:
    """Answer in kind, or in MLflow's JSON to a caller that accepts only that."""
    accept = head.get(b"accept", b"*/*")
    if MEDIA_TYPE not in accept and b"*/*" not in accept and b"json" in accept:
        return write_invocation(scores), b"application/json", ()
    column = pa.array(scores.ravel())
    if scores.ndim > 1:
        column = pa.FixedSizeListArray.from_arrays(column, scores.shape[1])
    batch = pa.record_batch({"score": column}).replace_schema_metadata({"model_version": str(model.version)})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    return sink.getvalue().to_pybytes(), MEDIA_TYPE, ()


CODEC: Final = Codec(_read, _write)

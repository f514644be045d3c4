"""The codec of the model topic: a snapshot now and then, what changed in between, in chunks a broker takes.

A streamed model is a graph without its numbers (the *skeleton*) and the numbers (*parameters*), which a predictor binds
as inputs: as long as the skeleton stays, new numbers need no new session. A delta holds, bit for bit, the entries of
each parameter that differ from the publication before.

Invariant: a reader that returns a model returns exactly what the writer was given. Each publication carries the digest
of its own bytes, and a delta the digest of the publication it continues. Whatever is missing, altered or out of place
makes the reader wait for the next snapshot, and say so.

Keys are made for compaction: a snapshot's chunks take turns between two sets of keys, so that the last whole one stays
until the next is whole, and a delta's key is its distance from the snapshot. A topic that is never compacted reads the
same. Nothing here speaks Kafka, and nothing is pickled.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from ml_core.errors import PackageError
from ml_core.flow.changes import BLOCKS, apply, apply_format_1, difference

FORMAT = 2
CHUNK_BYTES = 512 * 1024
_MOST_BYTES = 1 << 31

Parameters = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Chunk:
    """One record of the model topic."""

    key: bytes
    value: bytes
    headers: tuple[tuple[str, bytes], ...]


@dataclass(frozen=True, slots=True)
class StreamedModel:
    """A model as it was published.

    Attributes
    ----------
    sequence : int
        Its number on the topic.
    skeleton : bytes
        The graph, its parameters among its inputs.
    parameters : dict of str to ndarray
        Shared with the models before and after it: never written to.
    described : mapping
        What the learner says of it: flow, version it came from, watermark, `signature`, `golden` (columns of rows).
    golden_scores : list of float
        What the learner's model said of the golden rows.
    digest : str
        Of this publication and all it builds on.
    """

    sequence: int
    skeleton: bytes
    parameters: Parameters
    described: Mapping[str, Any]
    golden_scores: list[float]
    digest: str


def take_apart(graph: bytes) -> tuple[bytes, Parameters]:
    """Split a graph into its skeleton and its parameters: every floating constant with an axis.

    Constants are named by the order in which nodes use them, so the skeleton does not depend on how they were stored.
    """
    model = onnx.load_model_from_string(graph)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    constants |= {sparse.values.name: _dense(sparse) for sparse in model.graph.sparse_initializer}
    names: dict[str, str] = {}
    for node in model.graph.node:
        for position, name in enumerate(node.input):
            if name in constants:
                node.input[position] = names.setdefault(name, f"constant_{len(names)}")
    del model.graph.initializer[:]
    del model.graph.sparse_initializer[:]
    parameters: Parameters = {}
    for name, new in names.items():
        array = constants[name]
        if array.ndim and array.dtype in {np.dtype(np.float32), np.dtype(np.float64)}:
            parameters[new] = array
            kind = helper.np_dtype_to_tensor_dtype(array.dtype)
            model.graph.input.append(helper.make_tensor_value_info(new, kind, list(array.shape)))
        else:
            model.graph.initializer.append(numpy_helper.from_array(array, new))
    return bytes(model.SerializeToString(deterministic=True)), parameters


def put_together(skeleton: bytes, parameters: Parameters) -> bytes:
    """Return the graph with its parameters as constants again."""
    model = onnx.load_model_from_string(skeleton)
    kept = [given for given in model.graph.input if given.name not in parameters]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in parameters.items())
    return bytes(model.SerializeToString(deterministic=True))


@dataclass(slots=True)
class ModelWriter:
    """Turns one model after another into chunks.

    Parameters
    ----------
    snapshot_every : int
        Every so many publications is whole.
    sequence, generation : int
        Of the last publication on the topic, and of its last snapshot.
    """

    snapshot_every: int
    sequence: int = 0
    generation: int = 0
    since_snapshot: int = field(init=False, default=0)
    _before: StreamedModel | None = field(init=False, default=None)

    def write(
        self, graph: bytes, *, described: Mapping[str, Any], golden_scores: Sequence[float], whole: bool = False
    ) -> list[Chunk]:
        """Return the chunks of the next publication; all must be sent, in order.

        Parameters
        ----------
        graph : bytes
            The serialised ONNX graph.
        described : mapping
            See `StreamedModel`; JSON values.
        whole : bool
            Whether it has to be a snapshot, as the first of another lineage has.
        """
        skeleton, parameters = take_apart(graph)
        before = self._before
        self.sequence += 1
        if (
            whole
            or before is None
            or self.since_snapshot + 1 >= self.snapshot_every
            or before.skeleton != skeleton
            or any(parameters[name].shape != array.shape for name, array in before.parameters.items())
        ):
            before = None
            self.generation += 1
            self.since_snapshot = 0
        else:
            self.since_snapshot += 1
        message, digest = _encode(self.sequence, before, skeleton, parameters, (described, list(golden_scores)))
        self._before = StreamedModel(self.sequence, skeleton, parameters, described, list(golden_scores), digest)
        place = f"snapshot/{self.generation % 2}" if before is None else f"delta/{self.since_snapshot}"
        return list(self._chunks(place, message))

    def _chunks(self, place: str, message: bytes) -> Iterator[Chunk]:
        count = max(1, -(-len(message) // CHUNK_BYTES))
        digest = hashlib.sha256(message).hexdigest().encode()
        for number in range(count):
            headers = {
                "sequence": self.sequence,
                "generation": self.generation,
                "chunk": number,
                "chunks": count,
            }
            told = tuple((name, str(value).encode()) for name, value in headers.items())
            part = message[number * CHUNK_BYTES : (number + 1) * CHUNK_BYTES]
            yield Chunk(f"{place}/{number}".encode(), part, (*told, ("sha256", digest)))


@dataclass(slots=True)
class ModelReader:
    """Puts models together from chunks, in the order of the topic.

    Attributes
    ----------
    current : StreamedModel or None
        The last one that was whole.
    problem : str or None
        Why it waits for a snapshot; None while it does not.
    recoveries : int
        How often a snapshot ended such a wait.
    """

    current: StreamedModel | None = None
    problem: str | None = "nothing was read yet"
    recoveries: int = 0
    _parts: list[bytes] = field(default_factory=list)
    _expected: tuple[Any, ...] = ()

    def read(self, value: bytes | None, headers: Mapping[str, bytes]) -> StreamedModel | None:
        """Take in one record; return the model it completes, if it does."""
        try:
            numbers = [int(headers[name]) for name in ("sequence", "chunk", "chunks")]
            identity = (numbers[0], numbers[2], headers["sha256"])
            chunk = numbers[1]
        except (KeyError, ValueError):
            self._lost("a record is no chunk of a publication")
            return None
        if chunk == 0:
            if self._parts:
                self._lost(f"publication {self._expected[0]} broke off")
            self._parts, self._expected = [], identity
        if identity != self._expected or chunk != len(self._parts) or value is None:
            if self._parts or self.current is None or identity[0] > self.current.sequence:
                self._lost(f"a chunk of publication {identity[0]} is missing")
            return None
        self._parts.append(value)
        if len(self._parts) < identity[1]:
            return None
        message, self._parts = b"".join(self._parts), []
        if hashlib.sha256(message).hexdigest().encode() != identity[2]:
            self._lost(f"publication {identity[0]} was altered")
            return None
        return self._take(identity[0], message)

    def _take(self, sequence: int, message: bytes) -> StreamedModel | None:
        try:
            content = _decode(message)
            whole = content.header["continues"] is None
            if not whole and (self.current is None or content.header["continues"] != self.current.digest):
                self._lost(f"publication {sequence} continues one that was not read")
                return None
            model = content.applied(sequence, None if whole else self.current)
        except (PackageError, KeyError, ValueError, TypeError, IndexError, OverflowError, MemoryError) as error:
            self._lost(f"publication {sequence} cannot be read: {error}")
            return None
        self.recoveries += self.problem is not None
        self.current, self.problem = model, None
        return model

    def _lost(self, reason: str) -> None:
        self._parts, self._expected = [], ()
        self.problem = f"{reason}; waiting for the next snapshot"


@dataclass(frozen=True, slots=True)
class _Content:
    """A publication as it was decoded."""

    header: Mapping[str, Any]
    blocks: Sequence[bytes]

    def applied(self, sequence: int, before: StreamedModel | None) -> StreamedModel:
        """Return the model it makes, of the one before it where it is a delta."""
        if self.header["sequence"] != sequence:
            raise PackageError(f"expected publication {sequence}, found {self.header['sequence']}")
        blocks = iter(self.blocks)
        (skeleton,) = islice(blocks, 1) if before is None else [before.skeleton]
        parameters: Parameters = {} if before is None else dict(before.parameters)
        described = self.header["described"] if before is None else {**before.described, **self.header["described"]}
        for entry in self.header["parameters"]:
            name, dtype, shape = entry["name"], np.dtype(entry["dtype"]), tuple(entry["shape"])
            base = np.zeros(shape, dtype) if before is None else before.parameters[name].copy()
            if base.shape != shape or base.dtype != dtype:
                raise PackageError(f"parameter {name!r}: expected {base.dtype}{base.shape}, found {dtype}{shape}")
            change, size = (apply_format_1, 2) if self.header["format"] == 1 else (apply, BLOCKS)
            change(base, entry["count"], [*islice(blocks, size)])
            parameters[name] = base
        if next(blocks, None) is not None:
            raise PackageError("it holds more blocks than its header tells of")
        return StreamedModel(
            sequence, skeleton, parameters, described, self.header["golden_scores"], self.header["digest"]
        )


def _encode(
    sequence: int,
    before: StreamedModel | None,
    skeleton: bytes,
    parameters: Parameters,
    told: tuple[Mapping[str, Any], list[float]],
) -> tuple[bytes, str]:
    blocks: list[bytes] = [skeleton] if before is None else []
    entries = []
    for name, array in parameters.items():
        base = np.zeros_like(array) if before is None else before.parameters[name]
        count, changes = difference(base, array)
        if count or before is None:
            entries.append({"name": name, "dtype": array.dtype.str, "shape": list(array.shape), "count": count})
            blocks += changes
    described = dict(told[0])
    if before is not None:
        described = {key: value for key, value in described.items() if before.described.get(key) != value}
    continues = None if before is None else before.digest
    digest = hashlib.sha256((continues or "").encode() + b"".join(blocks)).hexdigest()
    header = {
        "format": FORMAT,
        "sequence": sequence,
        "continues": continues,
        "digest": digest,
        "described": described,
        "golden_scores": told[1],
        "parameters": entries,
        "blocks": [len(block) for block in blocks],
    }
    text = json.dumps(header).encode()
    plain = len(text).to_bytes(4, "big") + text + b"".join(blocks)
    return len(plain).to_bytes(8, "big") + pa.compress(plain, codec="zstd", asbytes=True), digest


def _decode(message: bytes) -> _Content:
    size = int.from_bytes(message[:8], "big")
    if size > _MOST_BYTES:
        raise PackageError(f"expected at most {_MOST_BYTES} bytes, found {size}")
    try:
        plain = pa.decompress(message[8:], decompressed_size=size, codec="zstd", asbytes=True)
    except (OSError, pa.ArrowException) as error:
        raise PackageError(f"expected zstd, found {error}") from error
    end = 4 + int.from_bytes(plain[:4], "big")
    header = json.loads(plain[4:end])
    if header["format"] not in range(1, FORMAT + 1):
        raise PackageError(f"expected format {FORMAT}, found {header['format']}; bring this predictor up to date")
    blocks = []
    for length in header["blocks"]:
        blocks.append(plain[end : end + length])
        end += length
    continued = str(header["continues"] or "").encode()
    if hashlib.sha256(continued + b"".join(blocks)).hexdigest() != header["digest"]:
        raise PackageError("its blocks do not have the digest it names")
    return _Content(header, blocks)


def _dense(sparse: onnx.SparseTensorProto) -> NDArray[Any]:
    values = numpy_helper.to_array(sparse.values)
    array = np.zeros(list(sparse.dims), values.dtype)
    array.reshape(-1)[numpy_helper.to_array(sparse.indices)] = values
    return array


__all__ = ["Chunk", "ModelReader", "ModelWriter", "Parameters", "StreamedModel", "put_together", "take_apart"]

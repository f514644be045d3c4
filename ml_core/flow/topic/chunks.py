"""Publications cut into records of the model topic, and put together from them."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ml_core.errors import PackageError
from ml_core.flow.topic.publication import StreamedModel, decoded, encoded
from ml_core.flow.topic.skeleton import take_apart

CHUNK_BYTES = 512 * 1024


@dataclass(frozen=True, slots=True)
class Chunk:
    """One record of the model topic."""

    key: bytes
    value: bytes
    headers: tuple[tuple[str, bytes], ...]


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
        message, digest = encoded(self.sequence, before, skeleton, parameters, (described, list(golden_scores)))
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
            content = decoded(message)
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

"""One publication as bytes: a whole model, or what changed since the one before, packed under a digest."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa

from ml_core.errors import PackageError
from ml_core.flow.changes import BLOCKS, apply, apply_format_1, difference
from ml_core.flow.topic.skeleton import Parameters

FORMAT = 2
_MOST_BYTES = 1 << 31


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


@dataclass(frozen=True, slots=True)
class Publication:
    """A publication as it was read back: what its header says, and its blocks of bytes."""

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


def encoded(
    sequence: int,
    before: StreamedModel | None,
    skeleton: bytes,
    parameters: Parameters,
    told: tuple[Mapping[str, Any], list[float]],
) -> tuple[bytes, str]:
    """Return a publication's bytes and its digest.

    Parameters
    ----------
    sequence : int
    before : StreamedModel or None
        The publication it continues; None where it is whole.
    skeleton, parameters : bytes, dict of str to ndarray
        As `take_apart` gives them; under `before` of the same skeleton and shapes.
    told : tuple
        What is said of the model, and the scores of its golden rows.
    """
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


def decoded(message: bytes) -> Publication:
    """Read a publication's bytes.

    Raises
    ------
    PackageError
        They are damaged, or of a later format; other errors where the header is not what `encoded` writes.
    """
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
    return Publication(header, blocks)

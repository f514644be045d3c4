"""Strings to slots: MurmurHash3 of the UTF-8 bytes, then an integer mix of each field's own.

The hash is MurmurHash3_x86_32 with seed 0 (Appleby 2011), the one ONNX Runtime's `com.microsoft::MurmurHash3` and
scikit-learn's `murmurhash3_32` compute, so the exported graph hashes all strings in one node. The mix gives every
field and every cross of fields a place of its own in a shared table. A missing string hashes as the empty one.
"""

from functools import cache

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ml_core.learners.compiled import kernel

_SEED_SALT = 1
_SEED_FACTOR = 2


@kernel
def _murmur3(data, start, stop, seed):  # type: ignore[no-untyped-def]
    """Return MurmurHash3_x86_32 of ``data[start:stop]`` as a non-negative int64."""
    low = np.uint64(0xFFFFFFFF)
    c1, c2 = np.uint64(0xCC9E2D51), np.uint64(0x1B873593)
    h = np.uint64(seed)
    size = stop - start
    whole = start + (size & ~3)
    for i in range(start, whole, 4):
        k = np.uint64(data[i]) | np.uint64(data[i + 1]) << np.uint64(8)
        k |= np.uint64(data[i + 2]) << np.uint64(16) | np.uint64(data[i + 3]) << np.uint64(24)
        k = (k * c1) & low
        k = ((k << np.uint64(15)) | (k >> np.uint64(17))) & low
        h ^= (k * c2) & low
        h = ((h << np.uint64(13)) | (h >> np.uint64(19))) & low
        h = (h * np.uint64(5) + np.uint64(0xE6546B64)) & low
    k = np.uint64(0)
    for i in range(stop - 1, whole - 1, -1):
        k = (k << np.uint64(8)) | np.uint64(data[i])
    k = (k * c1) & low
    k = ((k << np.uint64(15)) | (k >> np.uint64(17))) & low
    h ^= (k * c2) & low
    h ^= np.uint64(size)
    h ^= h >> np.uint64(16)
    h = (h * np.uint64(0x85EBCA6B)) & low
    h ^= h >> np.uint64(13)
    h = (h * np.uint64(0xC2B2AE35)) & low
    h ^= h >> np.uint64(16)
    return np.int64(h)


@kernel
def _hash_each(data, offsets, out):  # type: ignore[no-untyped-def]
    for row in range(out.size):
        out[row] = _murmur3(data, np.int64(offsets[row]), np.int64(offsets[row + 1]), 0)


def hash_bytes(value: bytes, seed: int = 0) -> int:
    """Return MurmurHash3_x86_32 of `value`, in [0, 2**32)."""
    return int(_murmur3(np.frombuffer(value, np.uint8), 0, len(value), seed))


def hash_strings(strings: pa.LargeStringArray) -> NDArray[np.int64]:
    """Return the hash of each string of an array without nulls, shape (n_rows,), in [0, 2**32)."""
    _, offsets, data = strings.buffers()
    out = np.empty(len(strings), np.int64)
    if len(strings):
        bounds = np.frombuffer(offsets, np.int64)[strings.offset : strings.offset + len(strings) + 1]
        _hash_each(np.frombuffer(data or b"", np.uint8), bounds, out)
    return out


@cache
def mix_of(*fields: str, seed: int = 0) -> tuple[tuple[int, ...], int]:
    """Return the odd factors, one per field, and the salt that place a field, or a cross of fields, under a seed.

    The slot of hashes ``h`` is ``(sum(factors * h) + salt) mod size``; with factors below 2**30 and at most two
    fields nothing overflows 63 bits.
    """
    name = "\x1f".join(fields)
    factors = tuple(
        hash_bytes(f"{position}:{name}".encode(), seed=_SEED_FACTOR + 2 * seed) >> 2 | 1
        for position in range(len(fields))
    )
    return factors, hash_bytes(name.encode(), seed=_SEED_SALT + 2 * seed)

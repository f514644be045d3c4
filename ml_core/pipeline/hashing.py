"""Strings to slots: MurmurHash3 of the UTF-8 bytes, then an integer mix of each field's own.

The hash is MurmurHash3_x86_32 with seed 0 (Appleby 2011), the one ONNX Runtime's `com.microsoft::MurmurHash3` and
scikit-learn's `murmurhash3_32` compute, so the exported graph hashes all strings in one node. The mix gives every
field and every cross of fields a place of its own in a shared table. A missing string hashes as the empty one.
"""

from functools import cache

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ml_core.learners.compiled import inlined, kernel

_SEED_SALT = 1
_SEED_FACTOR = 2
_C1, _C2, _LOW = np.uint64(0xCC9E2D51), np.uint64(0x1B873593), np.uint64(0xFFFFFFFF)
# unsigned, because a signed index could count from the end and is checked for it
_1, _2, _3, _4 = np.uint64(1), np.uint64(2), np.uint64(3), np.uint64(4)
_8, _16, _24 = np.uint64(8), np.uint64(16), np.uint64(24)


@inlined
def _rotated(k, by):  # type: ignore[no-untyped-def]
    return ((k << np.uint64(by)) | (k >> np.uint64(32 - by))) & _LOW


@inlined
def _murmur3(data, start, stop, seed):  # type: ignore[no-untyped-def]
    """Return MurmurHash3_x86_32 of ``data[start:stop]`` as a non-negative int64."""
    h, at = np.uint64(seed), start
    while at + _4 <= stop:
        k = np.uint64(data[at]) | np.uint64(data[at + _1]) << _8
        k |= np.uint64(data[at + _2]) << _16 | np.uint64(data[at + _3]) << _24
        h ^= (_rotated((k * _C1) & _LOW, 15) * _C2) & _LOW
        h = (_rotated(h, 13) * np.uint64(5) + np.uint64(0xE6546B64)) & _LOW
        at += _4
    k = np.uint64(0)
    if stop - at > _2:
        k |= np.uint64(data[at + _2]) << _16
    if stop - at > _1:
        k |= np.uint64(data[at + _1]) << _8
    if stop > at:
        k |= np.uint64(data[at])
    h ^= (_rotated((k * _C1) & _LOW, 15) * _C2) & _LOW
    h ^= stop - start
    h ^= h >> _16
    h = (h * np.uint64(0x85EBCA6B)) & _LOW
    h ^= h >> np.uint64(13)
    h = (h * np.uint64(0xC2B2AE35)) & _LOW
    return np.int64(h ^ (h >> _16))


@kernel
def _hash_each(data, offsets, seed, out):  # type: ignore[no-untyped-def]
    for row in range(out.size):
        out[row] = _murmur3(data, np.uint64(offsets[row]), np.uint64(offsets[row + 1]), seed)


def hash_bytes(value: bytes, seed: int = 0) -> int:
    """Return MurmurHash3_x86_32 of `value`, in [0, 2**32)."""
    out = np.empty(1, np.int64)
    _hash_each(np.frombuffer(value, np.uint8), np.array([0, len(value)]), seed, out)
    return int(out[0])


def hash_strings(strings: pa.LargeStringArray) -> NDArray[np.int64]:
    """Return the hash of each string of an array without nulls, shape (n_rows,), in [0, 2**32)."""
    _, offsets, data = strings.buffers()
    out = np.empty(len(strings), np.int64)
    if len(strings):
        bounds = np.frombuffer(offsets, np.int64)[strings.offset : strings.offset + len(strings) + 1]
        _hash_each(np.frombuffer(data or b"", np.uint8), bounds, 0, out)
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


def slots_of(hashes: NDArray[np.int64], name: str, seed: int, size: int) -> NDArray[np.int32]:
    """Return the slot of each hash of field `name` in a table of `size` slots, a power of two; shape (n_hashes,)."""
    (factor,), salt = mix_of(name, seed=seed)
    return ((hashes * factor + salt) & (size - 1)).astype(np.int32)

"""Strings to slots: MurmurHash3 of the UTF-8 bytes, then an integer mix of each field's own.

The hash is the one ONNX Runtime's `com.microsoft::MurmurHash3` and scikit-learn's `murmurhash3_32` compute, so the
exported graph hashes all strings in one node; the mix gives every field and every cross of fields a place of its
own in the shared table. Missing strings hash as the empty one.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from sklearn.utils import murmurhash3_32

_SEED_SALT = 1
_SEED_FACTOR = 2


def hash_strings(column: pa.Array) -> NDArray[np.int64]:
    """Return the 32-bit hash of each string, shape (n_rows,), in [0, 2**32).

    Each distinct value is hashed once.
    """
    encoded = pc.fill_null(column, "").dictionary_encode()
    distinct = np.fromiter(
        (murmurhash3_32(value.encode(), seed=0, positive=True) for value in encoded.dictionary.to_pylist()),
        np.int64,
        len(encoded.dictionary),
    )
    return distinct[encoded.indices.to_numpy(zero_copy_only=False)]


def mix_of(*fields: str) -> tuple[NDArray[np.int64], int]:
    """Return the odd factors, shape (n_fields,), and the salt that place a field, or a cross of fields.

    The slot of hashes ``h`` is ``(factors @ h + salt) mod size``; with factors below 2**30 and at most two fields
    nothing overflows 63 bits.
    """
    name = "\x1f".join(fields)
    factors = [
        (murmurhash3_32(f"{position}:{name}", seed=_SEED_FACTOR, positive=True) >> 2) | 1
        for position in range(len(fields))
    ]
    return np.array(factors, np.int64), int(murmurhash3_32(name, seed=_SEED_SALT, positive=True))

"""Trainer state on disk: arrays as npz, everything else as JSON, under one digest. No pickle, ever.

The invariant: what `read_state` returns is what `write_state` was given, keys in their order, which lays out slots and
inputs; or a StateError says what is wrong.
"""

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml_core.errors import StateError

STATE_FORMAT = 1
_ARRAYS, _DESCRIPTION = "state.npz", "state.json"

Arrays = dict[str, NDArray[Any]]


def digest_of(description: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> str:
    """Return a sha256 that is equal exactly when both parts are, bit for bit."""
    digest = hashlib.sha256(json.dumps(description).encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def write_state(directory: Path, description: Mapping[str, Any], arrays: Arrays) -> None:
    """Write a state into an existing directory."""
    directory.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(directory / _ARRAYS, **arrays)  # type: ignore[arg-type]  # NumPy types savez's options first
    content = {"format": STATE_FORMAT, "digest": digest_of(description, arrays)} | dict(description)
    (directory / _DESCRIPTION).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_state(directory: Path) -> tuple[dict[str, Any], Arrays]:
    """Read a state back.

    Raises
    ------
    StateError
        A file is missing or damaged, of another format, or does not match its digest.
    """
    try:
        description = json.loads((directory / _DESCRIPTION).read_text(encoding="utf-8"))
        with np.load(io.BytesIO((directory / _ARRAYS).read_bytes()), allow_pickle=False) as saved:
            arrays = {name: saved[name] for name in saved.files}
        found, digest = description.pop("format"), description.pop("digest")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise StateError(f"{directory}: expected a saved trainer state, found {error!r}; fetch it again") from error
    if found != STATE_FORMAT:
        raise StateError(
            f"{directory}: expected state format {STATE_FORMAT}, found {found!r}; bring this installation up to the"
            " release that wrote it, or run a full training"
        )
    if digest_of(description, arrays) != digest:
        raise StateError(f"{directory}: the state does not match the digest saved with it; fetch the version again")
    return description, arrays

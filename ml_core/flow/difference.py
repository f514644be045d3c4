"""What two versions of a flow differ in: raw columns, features, lineage, weights and figures.

Both packages are fetched and proved first, so a difference is never that of a damaged file.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ml_core.errors import StateError
from ml_core.flow.package import STATE
from ml_core.flow.registry import Registry
from ml_core.flow.version import ModelVersion
from ml_core.pipeline.state import Arrays, read_state


@dataclass(frozen=True, slots=True)
class Difference:
    """How version `b` differs from version `a`.

    Attributes
    ----------
    schema : mapping of str to (str or None, str or None)
        The raw columns whose kind differs, with both; None where a version has no such column.
    features_changed : bool
        Whether `features.sql` was another one.
    learned_rows : int
        How many more examples `b`'s lineage has learned.
    weights : mapping of str to str
        Every array of the trainer state that differs, with how much.
    metrics : mapping of str to (float or None, float or None)
        Every figure of either.
    """

    a: int
    b: int
    schema: Mapping[str, tuple[str | None, str | None]]
    features_changed: bool
    learned_rows: int
    weights: Mapping[str, str]
    metrics: Mapping[str, tuple[float | None, float | None]]


def difference(registry: Registry, a: ModelVersion, b: ModelVersion) -> Difference:
    """Compare two versions; raise PackageError when one of them is not whole."""
    with registry.proved(a) as ours, registry.proved(b) as theirs:
        names = [*ours.signature, *(name for name in theirs.signature if name not in ours.signature)]
        kinds = {name: (ours.signature.get(name), theirs.signature.get(name)) for name in names}
        return Difference(
            a=a.version,
            b=b.version,
            schema={name: both for name, both in kinds.items() if both[0] != both[1]},
            features_changed=a.feature_fingerprint != b.feature_fingerprint,
            learned_rows=b.watermark - a.watermark,
            weights=_weights(ours.directory / STATE, theirs.directory / STATE),
            metrics={name: (a.metrics.get(name), b.metrics.get(name)) for name in sorted({*a.metrics, *b.metrics})},
        )


def _weights(ours: Path, theirs: Path) -> dict[str, str]:
    try:
        a, b = read_state(ours)[1], read_state(theirs)[1]
    except StateError as error:
        return {"state": f"cannot be compared: {error}"}
    found = {name: _change(a, b, name) for name in sorted({*a, *b})}
    return {name: change for name, change in found.items() if change}


def _change(a: Arrays, b: Arrays, name: str) -> str:
    """Say how an array changed; empty when it is the same bit for bit."""
    if name not in a or name not in b:
        return "only in the first" if name in a else "only in the second"
    ours, theirs = a[name], b[name]
    if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        return f"{ours.dtype}{list(ours.shape)} became {theirs.dtype}{list(theirs.shape)}"
    differs = ours != theirs
    if ours.dtype.kind == "f":
        differs &= ~(np.isnan(ours) & np.isnan(theirs))
    count = int(differs.sum())
    if not count:
        return ""
    return f"{count:,} of {ours.size:,} values changed{_most(ours, theirs)}"


def _most(ours: NDArray[np.generic], theirs: NDArray[np.generic]) -> str:
    if ours.dtype.kind not in "fiu":
        return ""
    most = np.abs(ours.astype(np.float64) - theirs.astype(np.float64)).max()
    return f", by at most {most:.4g}"

"""Parity replay: what a predictor logged, scored again offline from the registry's own package.

A logged row agrees when the package that the registry holds for its version gives its features the score the caller
got, within the tolerance of the golden rows. A version whose package is another one by now agrees in no row: that is
what somebody has to learn of.
"""

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ml_core.errors import PackageError, VersionNotFoundError
from ml_core.flow.logged import STREAMED
from ml_core.flow.package import TOLERANCE, as_feed, verify_package
from ml_core.flow.read import ModelAddress, RegistryReader


@dataclass(frozen=True, slots=True)
class Parity:
    """What a replay found.

    Attributes
    ----------
    rows, mismatched : int
    worst : float
        The largest distance between two scores of one row; infinite where there is nothing to compare with.
    reasons : tuple of str
        One for each version that does not agree.
    """

    rows: int
    mismatched: int
    worst: float
    reasons: tuple[str, ...]

    @property
    def mismatch_rate(self) -> float:
        """The share of rows that do not agree; 0 of none."""
        return self.mismatched / self.rows if self.rows else 0.0


def replay(files: Iterable[Path], registry: RegistryReader, flow: str) -> Parity:
    """Score the rows of a prediction log's files again and compare.

    Raises
    ------
    RegistryDownError
        Nobody can say what a version should have answered.
    """
    by_version: dict[tuple[int, str | None], list[pa.Table]] = {}
    for file in files:
        table = pq.read_table(file)
        if table.num_rows:
            first = table.slice(0, 1).to_pylist()[0]
            if first.get("role") == STREAMED:
                continue  # its weights were never the registry's
            by_version.setdefault((first["version"], first["manifest_sha256"]), []).append(table)
    rows, mismatched, worst, reasons = 0, 0, 0.0, []
    for (version, digest), tables in sorted(by_version.items(), key=str):
        count = sum(table.num_rows for table in tables)
        rows += count
        try:
            apart = _distances(tables, registry, ModelAddress(flow, version=version), digest)
        except (PackageError, VersionNotFoundError) as error:
            apart = np.full(count, np.inf)
            reasons.append(str(error))
        wrong = int(np.count_nonzero(~(apart <= TOLERANCE)))
        if wrong and np.isfinite(apart).all():
            reasons.append(f"{flow} version {version}: {wrong} of {count} rows up to {apart.max():.3g} away")
        mismatched, worst = mismatched + wrong, max(worst, float(apart.max()))
    return Parity(rows, mismatched, worst, tuple(reasons))


def _distances(
    tables: list[pa.Table], registry: RegistryReader, address: ModelAddress, digest: str | None
) -> NDArray[np.float64]:
    """Return how far each logged score lies from the package's, shape (n_rows,)."""
    ref = registry.resolve(address)
    if ref.manifest_sha256 != digest:
        raise PackageError(
            f"{address.flow} version {address.version}: expected the package {digest} that was served, found"
            f" {ref.manifest_sha256} in the registry"
        )
    with tempfile.TemporaryDirectory() as folder:
        fetched = registry.download(ref, Path(folder) / "package")
        package = verify_package(fetched, expect_digest=digest, whole=False)
    found = []
    for table in tables:
        features = table.column("features").combine_chunks()
        columns = {name: features.field(name).to_pylist() for name in package.signature}
        again = package.score(as_feed(columns, package.signature)).astype(np.float64)
        logged = np.array(table.column("score").to_pylist(), np.float64)
        apart = np.abs(again - logged) / np.maximum(1.0, np.abs(logged))
        found.append(apart.reshape(len(logged), -1).max(axis=1))
    return np.concatenate(found)

"""A past version trained again from what was recorded: the examples, the features and the pipeline, never its weights.

An example keeps its offset and its features for good, and a version records the range it learned; so the same package
comes out, bit for bit, whatever became known since. That holds for online lineages, through all their ancestors; what a
library fits in batch, or Spark averages, depends on how its rows were cut, and is refused.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ml_core.data.store import FeatureStore
from ml_core.errors import ProjectError, StateError
from ml_core.flow.package import read_manifest
from ml_core.flow.registry import Registry
from ml_core.flow.version import ModelVersion
from ml_core.project import Flow
from ml_core.training import passes
from ml_core.training.evaluation import evidence_of
from ml_core.training.influence import ROWS
from ml_core.training.publishing import pack


@dataclass(frozen=True, slots=True)
class Reproduced:
    """What came of training a version again.

    Attributes
    ----------
    version : int
    manifest_sha256 : str
        The digest of the package made now.
    learned : list of (first, stop)
        The ranges of examples, the oldest first.
    differs : mapping of str to (str, str)
        The files that are not the same: their sha256 as published, and as made now.
    """

    version: int
    manifest_sha256: str
    learned: list[tuple[int, int]]
    differs: Mapping[str, tuple[str, str]]

    @property
    def same(self) -> bool:
        """Whether it is the same package, bit for bit."""
        return not self.differs


def reproduce(flow: Flow, store: FeatureStore, registry: Registry, version: ModelVersion) -> Reproduced:
    """Train `version` again from recorded inputs and compare the packages; nothing is published.

    Raises
    ------
    StateError
        Features or pipeline are not those it was trained under.
    ProjectError
        It or an ancestor was fitted in batch, or averaged, which depends on how its rows were cut.
    VersionNotFoundError
        Retention has deleted one of its ancestors.
    """
    for name, then, now in [
        ("features.sql", version.feature_fingerprint, store.fingerprint()),
        ("the pipeline", version.pipeline_fingerprint, flow.pipeline.fingerprint),
    ]:
        if then != now:
            raise StateError(
                f"{flow.name}: version {version.version} was trained with {name} at {then[:12]}, it is {now[:12]} now;"
                " check that revision of the project out, and ask again"
            )
    learned = _ranges(registry, version)
    model = passes.build(flow, store)
    for first, stop in learned:
        passes.learn(model, store, first, stop)
    last = store.examples(max(version.watermark - ROWS, 0), version.watermark)
    with tempfile.TemporaryDirectory(prefix="modelflow-reproduce-") as scratch:
        ours, theirs = Path(scratch, "ours"), Path(scratch, "theirs")
        digest = pack(model, last, ours, feature_fingerprint=store.fingerprint())
        theirs.mkdir()
        published = read_manifest(registry.download(version, theirs), expect_digest=version.manifest_sha256)["files"]
        made = read_manifest(ours)["files"]
    differs = {
        name: (published.get(name, {}).get("sha256", ""), made.get(name, {}).get("sha256", ""))
        for name in sorted({*published, *made})
        if published.get(name) != made.get(name)
    }
    return Reproduced(version.version, digest, learned, differs)


def _ranges(registry: Registry, version: ModelVersion) -> list[tuple[int, int]]:
    """Return what a version and its ancestors learned, the oldest first."""
    found: list[tuple[int, int]] = []
    at: ModelVersion | None = version
    while at is not None:
        if at.way != "online":
            raise ProjectError(
                f"{at.flow}: version {at.version} is {at.way}; only versions of an online lineage can be made again"
                " from examples alone"
            )
        found.append((evidence_of(registry, at).first, at.watermark))
        at = None if at.parent is None else registry.version(at.flow, at.parent)
    return found[::-1]

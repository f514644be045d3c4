"""What a registry says of its flows: the head, versions, what stands where, packages proved before they are used.

Nothing here changes anything. A version is a flow's only when a flow published it: people may register what they like
under the same name, and it stays theirs.
"""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from getpass import getuser
from pathlib import Path
from socket import gethostname
from typing import Any

from mlflow.entities.model_registry import ModelVersion as MlflowVersion

from ml_core.clock import Clock, SystemClock, as_utc
from ml_core.errors import RegistryError, VersionNotFoundError
from ml_core.flow.ledger import Ledger
from ml_core.flow.package import Package, verify_package
from ml_core.flow.shelf import Shelf, Standing
from ml_core.flow.signing import check_signature
from ml_core.flow.upload import EVALUATION, PACKAGE
from ml_core.flow.verdict import Verdict
from ml_core.flow.version import ModelVersion

_ALL = 200_000  # MLflow's own limit of one search
_PENDING_AMONG = 200


class Versions:
    """The flows of one MLflow registry, to read.

    Parameters
    ----------
    tracking_uri : str
        ``sqlite:///...``, ``postgresql://...`` or ``http://...``; anything MLflow keeps models in.
    ledger_uri : str, optional
        The database of the ledger; by default that of `tracking_uri`, where it is one.
    artifacts : str, optional
        Where a registry without a server keeps artifacts.
    signing_key : bytes, optional
        Signs what is published, and is required of what is moved into Production.
    clock : Clock
    """

    def __init__(
        self,
        tracking_uri: str,
        *,
        ledger_uri: str | None = None,
        artifacts: str | None = None,
        signing_key: bytes | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.tracking_uri = tracking_uri
        self.who = f"{_user()}@{gethostname()}"
        self._clock = clock or SystemClock()
        self._shelf = Shelf(tracking_uri, artifacts=artifacts)
        self._key = signing_key
        self._ledger_uri = ledger_uri or tracking_uri
        self._ledger: Ledger | None = None

    @property
    def ledger(self) -> Ledger:
        """The history of every flow; opened when it is first asked for."""
        if self._ledger is None:
            self._ledger = Ledger(self._ledger_uri, clock=self._clock)
        return self._ledger

    def head(self, flow: str) -> ModelVersion | None:
        """Return the newest accepted version, the one in Production; None for a flow without one."""
        found = self._shelf.in_production(flow)
        return None if found is None else described(found)

    def version(self, flow: str, number: int) -> ModelVersion:
        """Return one version; raise VersionNotFoundError when there is none of that number."""
        found = self._shelf.find(flow, number)
        if found is None:
            raise VersionNotFoundError(f"{flow} has no version {number}; see `modelflow versions {flow}`")
        return described(found)

    def versions(self, flow: str, *, newest: int = _ALL) -> list[ModelVersion]:
        """Return the `newest` versions that the flow published, or all, oldest first."""
        found = [each for each in self._shelf.newest(flow, newest) if "manifest_sha256" in each.tags]
        return [described(each) for each in found[::-1]]

    def pending(self, flow: str) -> list[ModelVersion]:
        """Return the versions that wait to be judged, oldest first, among the newest 200."""
        newest = self.versions(flow, newest=_PENDING_AMONG)
        return [version for version in newest if version.verdict is None and version.stage == "None"]

    def standing(self, flow: str) -> Standing:
        """Return what MLflow shows of the flow's stages and aliases now."""
        return self._shelf.standing(flow)

    def flows(self) -> list[str]:
        """Return the names of all registered models."""
        return [str(model.name) for model in self._shelf.flows()]

    def download(self, version: ModelVersion, directory: Path) -> Path:
        """Fetch a version's whole package, trainer state included, into `directory`; return the package's folder."""
        return self._shelf.fetch(version.mlflow_run_id, PACKAGE, directory)

    def download_evaluation(self, version: ModelVersion, directory: Path) -> Path:
        """Fetch the evidence a version was published with into `directory`; return its folder."""
        return self._shelf.fetch(version.mlflow_run_id, EVALUATION, directory)

    @contextmanager
    def proved(self, version: ModelVersion) -> Iterator[Package]:
        """Fetch a version's package and prove it as a predictor does; it is there while the block runs.

        Raises
        ------
        PackageError
            It is not whole, was altered, or is not signed with our key.
        """
        if self._key is not None:
            check_signature(version.flow, version.version, version.manifest_sha256, version.signature, key=self._key)
        with tempfile.TemporaryDirectory(prefix="modelflow-prove-") as scratch:
            directory = self.download(version, Path(scratch))
            yield verify_package(directory, expect_digest=version.manifest_sha256)

    def run_url(self, version: ModelVersion) -> str:
        """Return where a person sees the version's run, or its address where there is no server."""
        return self._shelf.run_url(version.mlflow_run_id)


def described(found: MlflowVersion) -> ModelVersion:
    """Return a version as a flow publishes them; raise RegistryError for one that no flow published."""
    tags: dict[str, Any] = dict(found.tags)
    try:
        return ModelVersion(
            flow=found.name,
            version=int(found.version),
            stage=str(found.current_stage),
            kind=tags["kind"],
            parent=int(tags["parent"]) if tags.get("parent") else None,
            watermark=int(json.loads(tags["watermark"])["examples"]),
            trained_through=as_utc(datetime.fromisoformat(tags["trained_through"])),
            feature_fingerprint=tags["feature_fingerprint"],
            manifest_sha256=tags["manifest_sha256"],
            dagster_run_id=tags.get("dagster_run_id", ""),
            mlflow_run_id=str(found.run_id),
            source=str(found.source),
            metrics=json.loads(tags["metrics"]),
            verdict=Verdict.from_json(tags["verdict"]) if tags.get("verdict") else None,
            resume_at=int(tags["resume_at"]) if tags.get("resume_at") else None,
            way=tags.get("way", "online"),
            pinned=tags.get("pinned", ""),
            signature=tags.get("manifest_hmac", ""),
            pipeline_fingerprint=tags.get("pipeline_fingerprint", ""),
            created_at=datetime.fromtimestamp(found.creation_timestamp / 1_000, UTC),
        )
    except (KeyError, ValueError) as error:
        raise RegistryError(
            f"{found.name} version {found.version}: expected the tags of a flow's version, found {sorted(tags)}"
            f" ({error!r}); it was not published by a flow"
        ) from error


def _user() -> str:
    """Return who runs this process; a container's user need not have a name."""
    try:
        return getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"

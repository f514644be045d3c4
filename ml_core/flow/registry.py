"""Writing to the model registry: publish, promote, refuse; and what trainers read from it.

MLflow's stages are the truth (None, Staging, Production, Archived); the aliases `challenger`, `champion` and
`previous` follow them through the one operation `promote`. A version exists for readers only once its package has
been uploaded, because it is registered last, with all its tags at once.
"""

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.entities.model_registry import ModelVersion as MlflowVersion
from mlflow.environment_variables import (
    MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR,
    MLFLOW_HTTP_REQUEST_MAX_RETRIES,
    MLFLOW_HTTP_REQUEST_TIMEOUT,
    MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT,
)
from mlflow.exceptions import MlflowException

from ml_core.errors import HeadMovedError, PromotionError, RegistryDownError, RegistryError, VersionNotFoundError
from ml_core.flow.package import MANIFEST, file_digest
from ml_core.flow.verdict import Verdict
from ml_core.flow.version import ModelVersion

_PACKAGE, _EVALUATION = "model", "evaluation"
_TIMEOUT_S, _RETRIES = 30, 2


class Registry:
    """The flows of one MLflow registry.

    Parameters
    ----------
    tracking_uri : str
        ``sqlite:///...`` or ``http://...``; anything MLflow keeps models in.
    """

    def __init__(self, tracking_uri: str) -> None:
        # MLflow's defaults would block for minutes on a server that is gone
        for variable, value in (
            (MLFLOW_HTTP_REQUEST_TIMEOUT, _TIMEOUT_S),
            (MLFLOW_HTTP_REQUEST_MAX_RETRIES, _RETRIES),
            (MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR, False),
            (MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT, True),
        ):
            if not variable.is_set():  # type: ignore[no-untyped-call]  # MLflow ships no types for these two
                variable.set(value)  # type: ignore[no-untyped-call]
        self.tracking_uri = tracking_uri
        self._artifacts: str | None = None  # where a registry without a server keeps artifacts; a server decides itself
        if tracking_uri.startswith("sqlite:///"):
            folder = Path(tracking_uri.removeprefix("sqlite:///")).parent
            folder.mkdir(parents=True, exist_ok=True)
            self._artifacts = (folder / "artifacts").as_uri()
        self._client = MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)

    def publish(
        self,
        flow: str,
        package: Path,
        *,
        tags: Mapping[str, str],
        metrics: Mapping[str, float],
        evaluation: Path,
    ) -> ModelVersion:
        """Upload a package and its evidence, then register them as a new version in stage None.

        Parameters
        ----------
        package, evaluation : Path
            Folders; see `ml_core.flow.package` and `ml_core.training.evaluation`.
        tags : mapping of str to str
            Tags of the version (DESIGN: kind, parent, watermark, trained_through, ...).
        metrics : mapping of str to float
            Logged with the run, and kept with the version.
        """
        with self._reported():
            run = self._client.create_run(self._experiment(flow), tags={"mlflow.runName": f"{flow} {tags['kind']}"})
            run_id = run.info.run_id
            self._client.log_batch(
                run_id,
                metrics=[Metric(name, value, run.info.start_time, 0) for name, value in metrics.items()],
                params=[Param(name, tags[name]) for name in ("kind", "parent", "watermark") if tags.get(name)],
                tags=[RunTag(name, value) for name, value in tags.items()],
            )
            self._client.log_artifacts(run_id, str(package), _PACKAGE)
            self._client.log_artifacts(run_id, str(evaluation), _EVALUATION)
            self._ensure_flow(flow)
            all_tags = dict(tags) | {
                "manifest_sha256": file_digest(package / MANIFEST),
                "metrics": json.dumps(dict(metrics), sort_keys=True),
            }
            created = self._client.create_model_version(
                flow, f"{run.info.artifact_uri}/{_PACKAGE}", run_id, tags=all_tags, await_creation_for=0
            )
            self._client.set_terminated(run_id)
        return _version(created)

    def promote(self, flow: str, version: int, *, verdict: Verdict, expected_champion: int | None) -> None:
        """Make an accepted version the champion: Staging, then Production; the champion before it is archived.

        The move into Production and the archiving are one transaction of the registry. Aliases follow. An interrupted
        promotion is completed by calling it again.

        Raises
        ------
        PromotionError
            The verdict refuses the version.
        HeadMovedError
            Another version became champion since the verdict.
        """
        if not verdict.accepted:
            raise PromotionError(f"{flow} version {version} was refused: {'; '.join(verdict.reasons)}")
        champion = self.head(flow)
        if champion is not None and champion.version not in {expected_champion, version}:
            raise HeadMovedError(
                f"{flow}: version {version} was judged against champion {expected_champion}, but the champion is"
                f" {champion.version} now; judge it again"
            )
        with self._reported():
            self._client.set_model_version_tag(flow, str(version), "verdict", verdict.to_json())
            if champion is None or champion.version != version:
                self._move(flow, version, "Staging")
                self._client.set_registered_model_alias(flow, "challenger", str(version))
                self._move(flow, version, "Production")
            self._client.set_registered_model_alias(flow, "champion", str(version))
            if expected_champion is not None:
                self._client.set_registered_model_alias(flow, "previous", str(expected_champion))
            self._client.delete_registered_model_alias(flow, "challenger")

    def refuse(self, flow: str, version: int, *, verdict: Verdict) -> None:
        """Store the verdict with a refused version and archive it."""
        with self._reported():
            self._client.set_model_version_tag(flow, str(version), "verdict", verdict.to_json())
            self._move(flow, version, "Archived")

    def head(self, flow: str) -> ModelVersion | None:
        """Return the newest accepted version, the one in Production; None for a flow without one."""
        with self._reported(), _stages_on_purpose():
            try:
                found = self._client.get_latest_versions(flow, ["Production"])
            except MlflowException as error:
                if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                    return None
                raise
        return _version(found[0]) if found else None

    def version(self, flow: str, number: int) -> ModelVersion:
        """Return one version; raise VersionNotFoundError when there is none of that number."""
        with self._reported():
            try:
                return _version(self._client.get_model_version(flow, str(number)))
            except MlflowException as error:
                if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                    raise VersionNotFoundError(
                        f"{flow} has no version {number}; see `modelflow versions {flow}`"
                    ) from error
                raise

    def versions(self, flow: str) -> list[ModelVersion]:
        """Return all versions, oldest first."""
        with self._reported():
            found = self._client.search_model_versions(f"name='{flow}'", max_results=10_000)
        return sorted(map(_version, found), key=lambda version: version.version)

    def download(self, version: ModelVersion, directory: Path) -> Path:
        """Fetch a version's whole package, trainer state included, into `directory`; return the package's folder."""
        return self._fetch(version, _PACKAGE, directory)

    def download_evaluation(self, version: ModelVersion, directory: Path) -> Path:
        """Fetch the evidence a version was published with into `directory`; return its folder."""
        return self._fetch(version, _EVALUATION, directory)

    def run_url(self, version: ModelVersion) -> str:
        """Return where a person sees the version's run, or its address where there is no server."""
        if not self.tracking_uri.startswith("http"):
            return f"runs:/{version.mlflow_run_id}"
        experiment = self._client.get_run(version.mlflow_run_id).info.experiment_id
        return f"{self.tracking_uri}/#/experiments/{experiment}/runs/{version.mlflow_run_id}"

    def _fetch(self, version: ModelVersion, part: str, directory: Path) -> Path:
        with self._reported():
            return Path(self._client.download_artifacts(version.mlflow_run_id, part, str(directory)))

    def _experiment(self, flow: str) -> str:
        experiment = self._client.get_experiment_by_name(flow)
        if experiment is not None:
            return str(experiment.experiment_id)
        return str(self._client.create_experiment(flow, artifact_location=self._artifacts))

    def _ensure_flow(self, flow: str) -> None:
        try:
            self._client.create_registered_model(flow)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _move(self, flow: str, version: int, stage: str) -> None:
        with _stages_on_purpose():
            self._client.transition_model_version_stage(
                flow, str(version), stage, archive_existing_versions=stage == "Production"
            )

    @contextmanager
    def _reported(self) -> Iterator[None]:
        """Turn MLflow's one exception class into ours."""
        try:
            yield
        except MlflowException as error:
            kind = RegistryDownError if "Max retries" in str(error) or "refused" in str(error) else RegistryError
            raise kind(f"{self.tracking_uri}: {error}") from error


@contextmanager
def _stages_on_purpose() -> Iterator[None]:
    """Stages are what users see and move; MLflow deprecates them in favour of aliases, which we keep in step."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


def _version(found: MlflowVersion) -> ModelVersion:
    tags: dict[str, Any] = dict(found.tags)
    try:
        return ModelVersion(
            flow=found.name,
            version=int(found.version),
            stage=str(found.current_stage),
            kind=tags["kind"],
            parent=int(tags["parent"]) if tags.get("parent") else None,
            watermark=int(json.loads(tags["watermark"])["examples"]),
            trained_through=datetime.fromisoformat(tags["trained_through"]),
            feature_fingerprint=tags["feature_fingerprint"],
            manifest_sha256=tags["manifest_sha256"],
            dagster_run_id=tags.get("dagster_run_id", ""),
            mlflow_run_id=str(found.run_id),
            source=str(found.source),
            metrics=json.loads(tags["metrics"]),
            verdict=Verdict.from_json(tags["verdict"]) if "verdict" in tags else None,
        )
    except (KeyError, ValueError) as error:
        raise RegistryError(
            f"{found.name} version {found.version}: expected the tags of a flow's version, found {sorted(tags)}"
            f" ({error!r}); it was not published by a flow"
        ) from error

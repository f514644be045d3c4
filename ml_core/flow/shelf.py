"""MLflow's side of a flow: its versions, stages, aliases and artifacts, as single calls that may be repeated.

Nothing here decides. Every call is bounded in time, tried again while the database is busy, and fails with an error of
our own tree. What is asked often costs the same however many versions a flow has: MLflow's `get_registered_model` and
`get_latest_versions` load every one of them and are avoided.
"""

import tempfile
import warnings
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion as MlflowVersion
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from ml_core.errors import RegistryError
from ml_core.flow.asking import Asking

ALIASES = ("champion", "challenger", "previous")

_PAGE = 100


@dataclass(frozen=True, slots=True)
class Standing:
    """What MLflow shows of a flow's stages and aliases.

    Attributes
    ----------
    production, staging : tuple of int
        The versions in that stage, the one moved last at the end.
    champion, challenger, previous : int or None
        Where the alias points.
    known : frozenset of int
        The versions that were looked at and exist.
    """

    production: tuple[int, ...] = ()
    staging: tuple[int, ...] = ()
    champion: int | None = None
    challenger: int | None = None
    previous: int | None = None
    known: frozenset[int] = frozenset()


class Shelf(Asking):
    """The registered models of one MLflow registry.

    Parameters
    ----------
    tracking_uri : str
        ``sqlite:///...``, ``postgresql://...`` or ``http://...``.
    artifacts : str, optional
        Where a registry without a server keeps artifacts; by default a folder beside the sqlite file. A server decides
        that itself.
    """

    def __init__(self, tracking_uri: str, *, artifacts: str | None = None) -> None:
        self._artifacts = None if tracking_uri.startswith("http") else artifacts
        if tracking_uri.startswith("sqlite:///"):
            folder = Path(tracking_uri.removeprefix("sqlite:///")).absolute().parent
            folder.mkdir(parents=True, exist_ok=True)
            self._artifacts = artifacts or (folder / "artifacts").as_uri()
        super().__init__(tracking_uri)

    # -- reading -------------------------------------------------------------------------------------------------

    def standing(self, flow: str, also: Set[int | None] = frozenset()) -> Standing:
        """Return what stands where.

        Looked at are the versions under an alias, the highest of each stage, those moved since the champion was, and
        `also`, where they exist.
        """
        model = self._registered(flow)
        if model is None:
            return Standing()
        seen = {int(found.version): found for found in model.latest_versions}
        aliases = {name: int(version) for name, version in model.aliases.items()}
        for number in (set(aliases.values()) | also) - set(seen) - {None}:
            if number and (found := self.find(flow, number)) is not None:
                seen[number] = found
        leader = seen.get(aliases.get("champion", 0))
        seen |= {int(found.version): found for found in self._moved_since(flow, leader)}
        newest_last = sorted(seen.values(), key=lambda found: (found.last_updated_timestamp, int(found.version)))
        stages = {
            stage: tuple(int(found.version) for found in newest_last if found.current_stage == stage)
            for stage in ("Production", "Staging")
        }
        champion, challenger, previous = (aliases.get(name) for name in ALIASES)
        return Standing(stages["Production"], stages["Staging"], champion, challenger, previous, known=frozenset(seen))

    def in_production(self, flow: str) -> MlflowVersion | None:
        """Return the champion where it stands in Production, else the highest version there; None for none."""
        champion = self.ask(lambda: self.client.get_model_version_by_alias(flow, "champion"), missing=None)
        if champion is not None and champion.current_stage == "Production":
            return champion
        model = self._registered(flow)
        standing = [] if model is None else model.latest_versions
        return next((found for found in standing if found.current_stage == "Production"), None)

    def find(self, flow: str, number: int) -> MlflowVersion | None:
        """Return one version as MLflow has it, or None."""
        return self.ask(lambda: self.client.get_model_version(flow, str(number)), missing=None)

    def newest(self, flow: str, limit: int) -> list[MlflowVersion]:
        """Return the `limit` newest versions, the newest first."""
        return self._search(flow, limit, "version_number DESC")

    def fetch(self, run_id: str, part: str, directory: Path) -> Path:
        """Download a folder of a run's artifacts into `directory`; return where it lies there."""
        return Path(self.ask(lambda: self.client.download_artifacts(run_id, part, str(directory))))

    def run_url(self, run_id: str) -> str:
        """Return where a person sees a run, or its address where there is no server."""
        if not self.tracking_uri.startswith("http"):
            return f"runs:/{run_id}"
        experiment = self.ask(lambda: self.client.get_run(run_id)).info.experiment_id
        return f"{self.tracking_uri}/#/experiments/{experiment}/runs/{run_id}"

    def flows(self) -> list[Any]:
        """Return every registered model, with the newest version of each stage."""
        found: list[Any] = []
        page: Any = self.ask(lambda: self.client.search_registered_models(max_results=_PAGE))
        while True:
            found += page
            if not page.token:
                return found
            token = page.token
            page = self.ask(
                lambda token=token: self.client.search_registered_models(  # type: ignore[misc]
                    max_results=_PAGE, page_token=token
                )
            )

    # -- moving --------------------------------------------------------------------------------------------------

    def move(self, flow: str, version: int, stage: str, *, alone: bool = False) -> None:
        """Move a version into a stage; `alone` archives what else stands there, in the same transaction."""
        with _stages_on_purpose():
            self.ask(
                lambda: self.client.transition_model_version_stage(
                    flow, str(version), stage, archive_existing_versions=alone
                )
            )

    def point(self, flow: str, alias: str, version: int | None) -> None:
        """Point an alias at a version, or at nothing."""
        if version is None:
            self.ask(lambda: self.client.delete_registered_model_alias(flow, alias))
        else:
            self.ask(lambda: self.client.set_registered_model_alias(flow, alias, str(version)))

    def tag(self, flow: str, version: int, key: str, value: str) -> None:
        """Set a tag of a version."""
        self.ask(lambda: self.client.set_model_version_tag(flow, str(version), key, value))

    # -- publishing and deleting ---------------------------------------------------------------------------------

    def register(self, flow: str, source: str, run_id: str, tags: dict[str, str]) -> MlflowVersion:
        """Register a version of a flow, which is made when it is the first."""

        def create() -> MlflowVersion:
            return self.client.create_model_version(flow, source, run_id, tags=tags, await_creation_for=0)

        created = self.ask(create, missing=None)
        if created is None:
            try:
                self.ask(lambda: self.client.create_registered_model(flow))
            except RegistryError as error:
                if "RESOURCE_ALREADY_EXISTS" not in str(error):
                    raise
            created = self.ask(create)
        return created

    def describe(self, flow: str, version: int, run_id: str, text: str, files: Mapping[str, str]) -> None:
        """Set a version's description, and write text files into the folder `card` of its run's artifacts."""
        with tempfile.TemporaryDirectory(prefix="modelflow-card-") as scratch:
            for name, content in files.items():
                Path(scratch, name).write_text(content, encoding="utf-8")
            self.ask(lambda: self.client.log_artifacts(run_id, scratch, "card"))
        self.ask(lambda: self.client.update_model_version(flow, str(version), text))

    def experiment(self, flow: str) -> str:
        """Return the id of the flow's experiment, made when it is not there."""
        if (found := self._experiment(flow)) is not None:
            return found
        try:
            return str(self.ask(lambda: self.client.create_experiment(flow, artifact_location=self._artifacts)))
        except RegistryError:
            if (found := self._experiment(flow)) is not None:
                return found  # made by another process in the meantime
            raise

    def running(self, flow: str) -> list[Run]:
        """Return the runs of the flow's experiment that have not ended."""
        experiment = self._experiment(flow)
        if experiment is None:
            return []
        query = "attributes.status = 'RUNNING'"
        return list(self.ask(lambda: self.client.search_runs([experiment], query, max_results=_PAGE)))

    def version_of_run(self, run_id: str) -> MlflowVersion | None:
        """Return the version that a run registered, or None."""
        found = self.ask(lambda: self.client.search_model_versions(f"run_id='{run_id}'", max_results=1))
        return found[0] if found else None

    def delete_version(self, flow: str, version: int) -> None:
        """Take a version out of the registry; its artifacts stay."""
        self.ask(lambda: self.client.delete_model_version(flow, str(version)), missing=None)

    def delete_run(self, run_id: str) -> None:
        """Delete a run's artifacts from where they lie, then the run itself."""
        run = self.ask(lambda: self.client.get_run(run_id), missing=None)
        if run is None or run.info.lifecycle_stage == "deleted":
            return
        repository = get_artifact_repository(run.info.artifact_uri, tracking_uri=self.tracking_uri)
        try:
            repository.delete_artifacts("")  # type: ignore[no-untyped-call]  # MLflow's
        except (OSError, MlflowException) as error:
            if "404" not in str(error):
                raise RegistryError(f"{run.info.artifact_uri}: expected to delete it, found {error}") from error
        self.ask(lambda: self.client.delete_run(run_id))

    # -- inside --------------------------------------------------------------------------------------------------

    def _registered(self, flow: str) -> Any:
        found = self.ask(lambda: self.client.search_registered_models(f"name='{flow}'", max_results=1))
        return found[0] if found else None

    def _moved_since(self, flow: str, champion: MlflowVersion | None) -> Iterator[MlflowVersion]:
        """Yield the versions changed last: a page, and more while they were changed after the champion was."""
        since = None if champion is None else champion.last_updated_timestamp
        page: Any = None
        while page is None or (page.token and since is not None and page[-1].last_updated_timestamp >= since):
            token = None if page is None else page.token
            page = self.ask(
                lambda token=token: self.client.search_model_versions(  # type: ignore[misc]
                    f"name='{flow}'", _PAGE, ["last_updated_timestamp DESC"], token
                )
            )
            yield from page

    def _search(self, flow: str, limit: int, order: str) -> list[MlflowVersion]:
        return list(
            self.ask(lambda: self.client.search_model_versions(f"name='{flow}'", max_results=limit, order_by=[order]))
        )

    def _experiment(self, flow: str) -> str | None:
        found = self.ask(lambda: self.client.get_experiment_by_name(flow))
        return None if found is None else str(found.experiment_id)


@contextmanager
def _stages_on_purpose() -> Iterator[None]:
    """Stages are what users see and move; MLflow deprecates them in favour of aliases, which we keep in step."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield

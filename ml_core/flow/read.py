"""Following a flow: from a model address to a version, and its package onto this machine.

Followers use nothing but this and MLflow's REST API, so that they start fast and stay small; a bare ``sqlite:``
address, which has no server to ask, goes through the MLflow client and is imported only then. Of a version's package
the files that predict are fetched, one by one; whether they are what the manifest says is for `ml_core.flow.package` to
prove. Hundreds may follow one server, so a look at what has not changed is one request, also while a version is being
promoted.
"""

import http.client
import json
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, unquote, urlsplit

from ml_core.errors import PackageError, ProjectError, RegistryDownError, RegistryError, VersionNotFoundError
from ml_core.flow.credentials import authorization
from ml_core.flow.package import MANIFEST, PREDICTS, read_manifest

_ADDRESS = re.compile(r"models:/(?P<flow>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+)|/(?P<stage>[A-Za-z]+))")
_STAGES = {"staging": "Staging", "production": "Production", "archived": "Archived"}
# the alias that the flow's ledger keeps in step with a stage
_ALIAS_OF = {"Production": "champion", "Staging": "challenger"}
_API = "/api/2.0/mlflow"
_ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"


@dataclass(frozen=True, slots=True)
class ModelAddress:
    """An MLflow model URI, taken apart: exactly one of `stage`, `alias` and `version` is set."""

    flow: str
    stage: str | None = None
    alias: str | None = None
    version: int | None = None

    @classmethod
    def parse(cls, uri: str) -> "ModelAddress":
        """Read ``models:/<flow>/<stage or number>`` or ``models:/<flow>@<alias>``."""
        match = _ADDRESS.fullmatch(uri)
        if match is None or (match["stage"] and match["stage"].lower() not in _STAGES):
            raise ProjectError(
                f"expected models:/<flow>/Production, models:/<flow>@<alias> or models:/<flow>/<number>, found {uri!r}"
            )
        stage = _STAGES[match["stage"].lower()] if match["stage"] else None
        return cls(match["flow"], stage, match["alias"], int(match["version"]) if match["version"] else None)

    @property
    def pinned(self) -> bool:
        """Whether the address can never point at another version."""
        return self.version is not None


@dataclass(frozen=True, slots=True)
class VersionRef:
    """A version as a follower needs it: where it is and what its tags say."""

    flow: str
    version: int
    stage: str
    source: str
    tags: Mapping[str, str]

    @property
    def manifest_sha256(self) -> str | None:
        """The digest its manifest must have; None for a version that no flow published."""
        return self.tags.get("manifest_sha256")


class RegistryReader(Protocol):
    """What a follower asks of a registry."""

    def resolve(self, address: ModelAddress, *, serving: int | None = None) -> VersionRef:
        """Return the version an address points at.

        While two versions stand in Production, and `serving` is one of them, that one is returned: the transition is
        not complete. Raises VersionNotFoundError or RegistryDownError.
        """
        ...

    def download(self, ref: VersionRef, directory: Path) -> Path:
        """Fetch the manifest and the files that predict (`PREDICTS`) into `directory`."""
        ...

    def close(self) -> None:
        """Give back what the reader holds."""
        ...


def open_registry(tracking_uri: str, *, timeout_s: float = 5.0) -> RegistryReader:
    """Return a reader for an MLflow tracking address."""
    if tracking_uri.startswith(("http://", "https://")):
        return RestReader(tracking_uri, timeout_s=timeout_s)
    return ClientReader(tracking_uri)


class RestReader:
    """Reads a registry over MLflow's REST API, on one kept-alive connection; not for use by several threads."""

    def __init__(self, tracking_uri: str, *, timeout_s: float = 5.0) -> None:
        self._uri = tracking_uri
        self._timeout_s = timeout_s
        self._parts = urlsplit(tracking_uri)
        self._connection: http.client.HTTPConnection | None = None
        self._authorization: dict[str, str] = {}
        self._doubted: tuple[ModelAddress, int] | None = None

    def resolve(self, address: ModelAddress, *, serving: int | None = None) -> VersionRef:
        """Return the version an address points at; at most three small requests.

        Where the stage's alias still points at the version that is served, which left the stage, a promotion is most
        likely at its last step: that version is returned once more, and only the looks after it ask further.
        """
        found = _ref(self._find(address, serving))
        if address.stage is not None and serving not in {None, found.version}:
            query = f"{_API}/model-versions/get?name={quote(address.flow)}&version={serving}"
            try:
                served = _ref(self._json("GET", query)["model_version"])
            except VersionNotFoundError:
                return found  # what was served has been deleted
            if served.stage == address.stage:
                return served
        return found

    def download(self, ref: VersionRef, directory: Path) -> Path:
        """Fetch the package's files; see `RegistryReader`."""
        return _download(lambda name: self._artifact(ref.source, name), ref, directory)

    def close(self) -> None:
        """Close the kept-alive connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _find(self, address: ModelAddress, serving: int | None) -> Mapping[str, Any]:
        name = quote(address.flow)
        if address.version is not None:
            query = f"{_API}/model-versions/get?name={name}&version={address.version}"
            return dict(self._json("GET", query)["model_version"])
        if address.alias is not None:
            return self._aliased(address.flow, address.alias)
        # a server loads every version of the model to tell the newest of a stage; an alias it looks up
        if address.stage in _ALIAS_OF:
            try:
                found = self._aliased(address.flow, _ALIAS_OF[address.stage])
            except VersionNotFoundError:
                found = {}
            if found.get("current_stage") == address.stage:
                self._doubted = None
                return found
            if found and int(found["version"]) == serving and self._doubted != (address, serving):
                self._doubted = (address, serving)
                return found
        body = {"name": address.flow, "stages": [address.stage]}
        try:
            newest = self._json("POST", f"{_API}/registered-models/get-latest-versions", body).get("model_versions")
        except VersionNotFoundError as error:
            raise VersionNotFoundError(f"{self._uri}: the registry holds no version of {address.flow} yet") from error
        if not newest:
            raise VersionNotFoundError(f"{self._uri}: {address.flow} has no version in {address.stage} yet")
        return dict(newest[0])

    def _aliased(self, flow: str, alias: str) -> Mapping[str, Any]:
        query = f"{_API}/registered-models/alias?name={quote(flow)}&alias={quote(alias)}"
        return dict(self._json("GET", query)["model_version"])

    def _artifact(self, source: str, name: str) -> bytes:
        parts = urlsplit(source)
        if parts.scheme == "mlflow-artifacts":
            path = f"{parts.path.strip('/')}/{name}"
            return self._request("GET", f"{_ARTIFACTS}/{quote(path)}")
        return _local_file(source, name)

    def _json(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        content = self._request(method, path, None if body is None else json.dumps(body).encode())
        try:
            read: dict[str, Any] = json.loads(content)
        except ValueError as error:
            raise RegistryError(f"{self._uri}{path}: expected JSON, found {content[:80]!r}") from error
        return read

    def _request(self, method: str, path: str, body: bytes | None = None) -> bytes:
        kept = self._connection is not None
        try:
            try:
                status, content = self._exchange(method, path, body)
            except (ConnectionError, http.client.BadStatusLine):
                if not kept:
                    raise
                self.close()  # a server hangs up on who was silent for some seconds; every request may be repeated
                status, content = self._exchange(method, path, body)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise RegistryDownError(
                f"{self._uri}: expected an answer within {self._timeout_s} s, found {error!r}"
            ) from error
        missing = status == http.HTTPStatus.BAD_REQUEST and b"alias" in content and b"not found" in content
        if status == http.HTTPStatus.NOT_FOUND or missing:
            raise VersionNotFoundError(f"{self._uri}{path}: nothing there: {content[:200].decode(errors='replace')}")
        if status == http.HTTPStatus.FORBIDDEN:  # basic auth denies what does not exist
            raise VersionNotFoundError(f"{self._uri}{path}: nothing there yet that this user may read (status 403)")
        if status == http.HTTPStatus.UNAUTHORIZED:
            self.close()  # the next one reads the credentials again
            raise RegistryDownError(
                f"{self._uri}{path}: status 401: the server wants to know who asks; set MLFLOW_TRACKING_USERNAME and"
                " MLFLOW_TRACKING_PASSWORD, or write them into ~/.mlflow/credentials"
            )
        if status >= http.HTTPStatus.INTERNAL_SERVER_ERROR:
            raise RegistryDownError(f"{self._uri}{path}: status {status}")
        if status != http.HTTPStatus.OK:
            raise RegistryError(f"{self._uri}{path}: status {status}: {content[:200].decode(errors='replace')}")
        return content

    def _exchange(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        """Send one request, on the connection there is or on a new one, and return the answer's status and body."""
        if self._connection is None:
            self._authorization = authorization()
            kind = http.client.HTTPSConnection if self._parts.scheme == "https" else http.client.HTTPConnection
            self._connection = kind(self._parts.netloc, timeout=self._timeout_s)
        headers = ({"Content-Type": "application/json"} if body else {}) | self._authorization
        self._connection.request(method, self._parts.path.rstrip("/") + path, body, headers)
        response = self._connection.getresponse()
        return response.status, response.read()


class ClientReader:
    """Reads a registry that has no server through the MLflow client, imported only now."""

    def __init__(self, tracking_uri: str) -> None:
        from mlflow import MlflowClient

        self._uri = tracking_uri
        self._client = MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)

    def resolve(self, address: ModelAddress, *, serving: int | None = None) -> VersionRef:
        """Return the version an address points at."""
        found = self._find(address)
        if address.stage is not None and serving not in {None, found.version}:
            with suppress(VersionNotFoundError):  # retention has deleted it
                served = self._find(ModelAddress(address.flow, version=serving))
                return served if served.stage == address.stage else found
        return found

    def download(self, ref: VersionRef, directory: Path) -> Path:
        """Copy the package's files; see `RegistryReader`."""
        return _download(lambda name: _local_file(ref.source, name), ref, directory)

    def close(self) -> None:
        """Nothing is held open."""

    def _find(self, address: ModelAddress) -> VersionRef:
        from mlflow.exceptions import MlflowException

        try:
            if address.version is not None:
                found = self._client.get_model_version(address.flow, str(address.version))
            elif address.alias is not None:
                found = self._client.get_model_version_by_alias(address.flow, address.alias)
            else:
                found = self._standing(address.flow, str(address.stage))
        except MlflowException as error:
            busy = error.error_code == "TEMPORARILY_UNAVAILABLE"
            raise (RegistryDownError if busy else VersionNotFoundError)(f"{self._uri}: {error}") from error
        return VersionRef(found.name, int(found.version), str(found.current_stage), str(found.source), dict(found.tags))

    def _standing(self, flow: str, stage: str) -> Any:
        """Return the version the stage's alias points at, if it stands there, else the newest that does."""
        from mlflow.exceptions import MlflowException

        if stage in _ALIAS_OF:
            with suppress(MlflowException):
                found = self._client.get_model_version_by_alias(flow, _ALIAS_OF[stage])
                if found.current_stage == stage:
                    return found
        for found in self._client.search_model_versions(f"name='{flow}'", order_by=["version_number DESC"]):
            if found.current_stage == stage:
                return found
        raise VersionNotFoundError(f"{self._uri}: {flow} has no version in {stage} yet")


def _ref(found: Mapping[str, Any]) -> VersionRef:
    try:
        return VersionRef(
            flow=found["name"],
            version=int(found["version"]),
            stage=found["current_stage"],
            source=found["source"],
            tags={tag["key"]: tag["value"] for tag in found.get("tags", [])},
        )
    except (KeyError, ValueError) as error:
        raise RegistryError(f"expected a model version of MLflow's REST API, found {dict(found)}") from error


def _download(fetch: Callable[[str], bytes], ref: VersionRef, directory: Path) -> Path:
    """Fetch the manifest, then the files that predict, as far as it names them, under its own digest's control."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / MANIFEST).write_bytes(fetch(MANIFEST))
    named = read_manifest(directory, expect_digest=ref.manifest_sha256)["files"]
    for name in PREDICTS:
        if name in named:
            (directory / name).write_bytes(fetch(name))
    return directory


def _local_file(source: str, name: str) -> bytes:
    parts = urlsplit(source)
    if parts.scheme not in {"", "file"}:
        raise RegistryError(f"expected a package behind the registry's server or on this machine, found {source}")
    path = Path(unquote(parts.path)) / name
    try:
        return path.read_bytes()
    except OSError as error:
        raise PackageError(f"{path}: expected a file of the package, found {error}") from error

"""The project file, read once, with every place resolved.

This module reads the environment, and in the core only `ml_core.flow.credentials` does too: `MODELFLOW_HOME` moves the
state on disk, `MLFLOW_TRACKING_URI` points at another registry and `MODELFLOW_LEDGER_URI` at another ledger, what
begins with `KAFKA_` says how to reach the broker, and `MODELFLOW_SIGNING_KEY_FILE` or `MODELFLOW_SIGNING_KEY` is what
packages are signed with.
"""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from ml_core.errors import ProjectError, nearest
from ml_core.project.file import Flow, PlatformSettings, ProjectFile
from ml_core.project.findings import by_flow, explained

PROJECT_FILE = "dagster_project.toml"

_SHORTEST_KEY_BYTES = 16


@dataclass(frozen=True, slots=True)
class Project:
    """The project file as read, with every place resolved.

    Attributes
    ----------
    root : Path
        The folder that holds `dagster_project.toml`; relative paths in it start here.
    home : Path
        Where all state lives: `MODELFLOW_HOME`, or `var/` under the root.
    tracking_uri : str
        The MLflow registry.
    ledger_uri : str
        The database of its ledger.
    signing_key : bytes or None
        Signs published packages, and is required of those that are to serve.
    kafka : mapping of str to str
        The environment's variables that begin with ``KAFKA_``; see `ml_core.streaming.broker`.
    """

    root: Path
    home: Path
    tracking_uri: str
    ledger_uri: str
    signing_key: bytes | None = field(repr=False)
    platform: PlatformSettings
    flows: Mapping[str, Flow]
    kafka: Mapping[str, str] = field(default_factory=dict)

    def flow(self, name: str) -> Flow:
        """Return the flow called `name`; raise ProjectError naming the nearest one when there is none."""
        if name not in self.flows:
            raise ProjectError(f"no flow named {name!r} in {self.root / PROJECT_FILE}: {nearest(name, self.flows)}")
        return self.flows[name]


def load_project(
    path: Path | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    broken: dict[str, str] | None = None,
) -> Project:
    """Read the project file.

    Parameters
    ----------
    path : Path, optional
        The file, or the folder that holds it; by default it is looked for upwards from the working directory.
    environment : mapping, optional
        Stands in for the process environment.
    broken : dict, optional
        Takes the flows whose own tables cannot be used, with the reason, instead of an error: a platform of many flows
        goes on with the others.

    Raises
    ------
    ProjectError
        The file is missing, is not TOML, or has a key or value that does not belong there.
    """
    file = _find(path)
    env = os.environ if environment is None else environment
    text = file.read_text(encoding="utf-8")
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ProjectError(f"{file} is not valid TOML: {error}") from error
    try:
        read = ProjectFile.model_validate(content)
    except ValidationError as error:
        reasons = by_flow(error, text)
        sound = {name: table for name, table in content.get("flows", {}).items() if name not in reasons}
        if broken is None or "" in reasons or not sound:
            raise ProjectError(f"{file}: " + "; ".join(explained(error.errors(), text))) from error
        broken |= {name: f"{file}: {reason}" for name, reason in reasons.items()}
        read = ProjectFile.model_validate(content | {"flows": sound})
    home = Path(env.get("MODELFLOW_HOME") or file.parent / "var").resolve()
    local = f"sqlite:///{home}/mlflow/mlflow.db"
    tracking_uri = env.get("MLFLOW_TRACKING_URI") or read.tracking_uri or local
    return Project(
        root=file.parent,
        home=home,
        tracking_uri=tracking_uri,
        ledger_uri=env.get("MODELFLOW_LEDGER_URI")
        or read.ledger_uri
        or (local if tracking_uri.startswith("http") else tracking_uri),
        signing_key=_signing_key(env),
        platform=read.platform,
        flows={name: flow.model_copy(update={"name": name}) for name, flow in read.flows.items()},
        kafka={name: value for name, value in env.items() if name.startswith("KAFKA_")},
    )


def _find(path: Path | None) -> Path:
    if path is not None:
        file = path / PROJECT_FILE if path.is_dir() else path
        if not file.is_file():
            raise ProjectError(f"expected a project file at {file}, found none; run `modelflow` inside a project")
        return file.resolve()
    for folder in (Path.cwd(), *Path.cwd().parents):
        if (folder / PROJECT_FILE).is_file():
            return folder / PROJECT_FILE
    raise ProjectError(f"found no {PROJECT_FILE} in {Path.cwd()} or above it; run `modelflow` inside a project")


def _signing_key(env: Mapping[str, str]) -> bytes | None:
    """Return the key that packages are signed with: that of a file, or the environment's own."""
    if file := env.get("MODELFLOW_SIGNING_KEY_FILE"):
        try:
            key = Path(file).read_bytes().strip()
        except OSError as error:
            raise ProjectError(
                f"MODELFLOW_SIGNING_KEY_FILE: expected a file that holds a key, found {error}"
            ) from error
    else:
        key = env.get("MODELFLOW_SIGNING_KEY", "").encode()
    if (file or key) and len(key) < _SHORTEST_KEY_BYTES:
        raise ProjectError(f"expected a signing key of at least {_SHORTEST_KEY_BYTES} bytes, found one of {len(key)}")
    return key or None

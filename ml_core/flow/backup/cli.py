"""`modelflow backup` and `modelflow restore`."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ml_core.flow.backup.restoring import restore as put_back
from ml_core.flow.backup.taking import place_of, take
from ml_core.project import load_project

_Databases = Annotated[
    list[str] | None,
    typer.Option(
        "--database",
        envvar="MODELFLOW_REGISTRY_DATABASES",
        help="a database of the registry: MLflow's own, then others such as its users'; needed where a server hides it",
    ),
]
_Artifacts = Annotated[
    Path | None,
    typer.Option(envvar="MODELFLOW_REGISTRY_ARTIFACTS", help="the folder of the registry's artifacts"),
]
_Without = Annotated[bool, typer.Option("--without-artifacts", help="they lie in a store that is kept by other means")]
_AsJson = Annotated[bool, typer.Option("--json", help="the backup's manifest, without its files")]


def backup(
    directory: Annotated[Path, typer.Argument(help="a folder that does not exist yet")],
    databases: _Databases = None,
    artifacts: _Artifacts = None,
    without_artifacts: _Without = False,
    as_json: _AsJson = False,
) -> None:
    """Copy event logs, feature stores, registry and ledger as of one moment, while everything goes on running."""
    project = load_project()
    place = place_of(project, tuple(databases or ()), artifacts, without_artifacts=without_artifacts)
    _tell(take(project, directory, place), directory, as_json=as_json)


def restore(
    directory: Annotated[Path, typer.Argument(help="a backup")],
    databases: _Databases = None,
    artifacts: _Artifacts = None,
    without_artifacts: _Without = False,
    as_json: _AsJson = False,
) -> None:
    """Put a backup into an empty home (MODELFLOW_HOME) and empty databases; the flows go on where they were."""
    project = load_project()
    place = place_of(project, tuple(databases or ()), artifacts, without_artifacts=without_artifacts)
    _tell(put_back(project, directory, place), directory, as_json=as_json)


def _tell(manifest: dict[str, Any], directory: Path, *, as_json: bool) -> None:
    told = {name: value for name, value in manifest.items() if name != "files"} | {"files": len(manifest["files"])}
    if as_json:
        typer.echo(json.dumps(told))
        return
    typer.echo(f"{directory}: {told['files']} files of {told['made_at']}")
    for name, flow in manifest["flows"].items():
        head = (
            "no version yet" if flow["head"] is None else f"version {flow['head']}, learned up to {flow['watermark']}"
        )
        typer.echo(f"  {name}: {head}")

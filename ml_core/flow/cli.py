"""`modelflow versions`: a flow's versions as the registry holds them."""

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from ml_core.flow.registry import registry_of
from ml_core.project import load_project

_COLUMNS = ("version", "kind", "stage", "parent", "watermark", "trained_through")


def versions(
    flow: Annotated[str, typer.Argument(help="the flow")],
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object per line")] = False,
) -> None:
    """List the versions of a flow."""
    project = load_project()
    found = registry_of(project).versions(project.flow(flow).name)
    if as_json:
        for version in found:
            typer.echo(json.dumps(asdict(version), default=str))
        return
    table = Table(*_COLUMNS, "log loss", "verdict")
    for version in found:
        verdict = "" if version.verdict is None else "accepted" if version.verdict.accepted else "refused"
        values = [str(getattr(version, name)) for name in _COLUMNS]
        table.add_row(*values, f"{version.metrics.get('log_loss', float('nan')):.4f}", verdict)
    Console().print(table)

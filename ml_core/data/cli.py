"""`modelflow features`: the rows a caller sends, as of a time."""

import json
from datetime import datetime, timedelta
from typing import Annotated

import pyarrow as pa
import typer

from ml_core.clock import as_utc
from ml_core.data.store import FeatureStore
from ml_core.project import Project, load_project
from ml_core.typed import typed_instant


def features_at(project: Project, flow: str, at: datetime, *, within: timedelta = timedelta(hours=1)) -> pa.Table:
    """Return the feature rows requested in [at, at + within): what a caller sends to the sidecar.

    Columns: `key`, `request_time`, then the features. Rows are there once the flow's clock has reached them.
    """
    found = project.flow(flow)
    store = FeatureStore(found, root=project.root, home=project.home)
    return store.feature_rows(as_utc(at), as_utc(at) + within)


def features(
    flow: Annotated[str, typer.Argument(help="the flow, by its name in dagster_project.toml")],
    at: Annotated[str, typer.Option(help="an instant such as 2013-09-01T12:00; without a zone it is UTC")],
    minutes: Annotated[int, typer.Option(help="rows requested within so many minutes from then")] = 60,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object per line")] = False,
) -> None:
    """Print the feature rows of a flow as of a time."""
    rows = features_at(load_project(), flow, typed_instant(at), within=timedelta(minutes=minutes))
    for row in rows.to_pylist():
        row["request_time"] = row["request_time"].isoformat()
        typer.echo(json.dumps(row) if as_json else "  ".join(f"{name}={value}" for name, value in row.items()))

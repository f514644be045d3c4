"""How a flow's assets are named and presented, in one place."""

from typing import Any

import dagster as dg

from ml_core.project import Flow

DUCKDB_POOL = "duckdb_owner"


def key(flow: Flow, name: str) -> dg.AssetKey:
    """Return the key of one of a flow's assets."""
    return dg.AssetKey([flow.name, name])


def presented(flow: Flow, name: str, *, kinds: set[str], description: str) -> dict[str, Any]:
    """Return what every asset of a flow says about itself."""
    return {
        "key": key(flow, name),
        "group_name": flow.name,
        "owners": list(flow.owners),
        "kinds": kinds,
        "description": description,
    }

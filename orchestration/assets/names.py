"""How a flow's assets are named and presented, in one place."""

from typing import Any

import dagster as dg

from ml_core.project import Flow

# each check of drift, and the asset it speaks of
DRIFT_CHECKS = {"drift_features": "features", "drift_scores": "served_model", "drift_loss": "served_model"}


# the checks of a resident learner, both of `served_model`
LEARNER_CHECKS = ("learner_lag", "learner_fresh")


def duckdb_pool(flow: Flow) -> str:
    """Return the pool of the steps that own a flow's DuckDB file: one of them at a time."""
    return f"{flow.name}_duckdb_owner"


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


def drift_keys(flow: Flow) -> list[dg.AssetCheckKey]:
    """Return the keys of a flow's drift checks."""
    return [dg.AssetCheckKey(key(flow, asset), name) for name, asset in DRIFT_CHECKS.items()]


def learner_keys(flow: Flow) -> list[dg.AssetCheckKey]:
    """Return the keys of the checks of a flow's resident learner; none where no facts come over Kafka."""
    return [dg.AssetCheckKey(key(flow, "served_model"), name) for name in LEARNER_CHECKS if flow.stream.facts]

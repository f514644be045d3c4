"""The assets of a flow: events, features, the two trainings, and the model that is served."""

import warnings

import dagster as dg

from ml_core.project import Flow
from orchestration.assets.data import data_assets
from orchestration.assets.models import model_assets


def flow_assets(flow: Flow) -> list[dg.AssetsDefinition]:
    """Return one flow's assets."""
    with warnings.catch_warnings():
        # Dagster calls `backfill_policy` beta; one run for a whole history of days is worth it
        warnings.filterwarnings("ignore", message="Parameter `backfill_policy`")
        return [*data_assets(flow), *model_assets(flow)]

"""The assets of a flow: events, features, the two trainings, and the model that is served."""

import dagster as dg

from ml_core.project import Flow
from orchestration.assets.data import data_assets
from orchestration.assets.models import model_assets


def flow_assets(flow: Flow) -> list[dg.AssetsDefinition]:
    """Return one flow's assets."""
    return [*data_assets(flow), *model_assets(flow)]

"""The jobs of a flow: take in days, train from scratch, train an increment. All run in one process: steps are small."""

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from ml_core.project import Flow
from orchestration.assets.names import key
from orchestration.partitions import daily

# what `define_asset_job` returns; Dagster exports the function but not the name of its result
FlowJob = UnresolvedAssetJobDefinition


def job_name(flow: Flow, what: str) -> str:
    """Return the name of one of a flow's jobs: ``ingest``, ``full_training`` or ``incremental_training``."""
    return f"{flow.name}_{what}"


def flow_jobs(flow: Flow) -> list[FlowJob]:
    """Return one flow's jobs."""
    selections = {
        "ingest": ("events", "features"),
        "full_training": ("full_model", "served_model"),
        "incremental_training": ("incremental_model", "served_model"),
    }
    return [
        dg.define_asset_job(
            job_name(flow, what),
            selection=dg.AssetSelection.assets(*(key(flow, name) for name in names)),
            executor_def=dg.in_process_executor,
            tags={"modelflow/flow": flow.name},
        )
        for what, names in selections.items()
    ]


def partition_range(flow: Flow, first: str, last: str) -> dict[str, str]:
    """Return the tags of one run over all days from `first` to `last`."""
    keys = daily(flow).get_partition_keys_in_range(dg.PartitionKeyRange(first, last))
    return {"dagster/asset_partition_range_start": keys[0], "dagster/asset_partition_range_end": keys[-1]}

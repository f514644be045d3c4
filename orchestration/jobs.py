"""The jobs of a flow: take its source in, take in days, train from scratch, train an increment.

Beside these, without assets of their own: roll back, check the champion's live loss, let old versions go.

All run in one process: steps are small, and a process of its own costs each more than it does (`make
bench-orchestration`). A run that takes longer than a full training can is ended by Dagster's run
monitoring, and a failed one is not started again by Dagster: the sensors ask again, with growing pauses.
"""

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition
from pydantic import Field

from ml_core.clock import as_instant
from ml_core.flow.ledger import Entry
from ml_core.flow.retention import collect
from ml_core.project import Flow
from ml_core.training import roll_back_if_worse
from orchestration.assets.names import drift_keys, key, learner_keys
from orchestration.partitions import daily
from orchestration.resources import Platform

# what `define_asset_job` returns; Dagster exports the function but not the name of its result
FlowJob = UnresolvedAssetJobDefinition

_MAX_RUNTIME_S = 4 * 3600


def job_name(flow: Flow, what: str) -> str:
    """Return the name of one of a flow's jobs: ``take_in``, ``ingest``, ``full_training``, ``incremental_training``."""
    return f"{flow.name}_{what}"


def flow_jobs(flow: Flow, executor: dg.ExecutorDefinition = dg.in_process_executor) -> dict[str, FlowJob]:
    """Return one flow's jobs by what they do; ``take_in`` only where the flow reads a source."""
    selections = {
        **({"take_in": ("source",)} if flow.data.source is not None else {}),
        "ingest": ("events", "features"),
        "full_training": ("full_model", "served_model"),
        "incremental_training": ("incremental_model", "served_model"),
    }
    # drift has a job of its own, and a learner's checks are the sensor's
    not_these = dg.AssetSelection.checks(*drift_keys(flow), *learner_keys(flow))
    tags = {"modelflow/flow": flow.name, "dagster/max_runtime": str(_MAX_RUNTIME_S)}
    return {
        what: dg.define_asset_job(
            job_name(flow, what),
            selection=dg.AssetSelection.assets(*(key(flow, name) for name in names)) - not_these,
            executor_def=executor,
            tags=tags | ({"owners": ", ".join(flow.owners)} if flow.owners else {}),
        )
        for what, names in selections.items()
    }


class RollBackTo(dg.Config):
    """What a person fills in before the job is launched."""

    to: int | None = Field(default=None, description="a version that has served before; the one before, by default")
    reason: str = Field(description="written into the flow's ledger")
    resume_at: str | None = Field(
        default=None,
        description="an instant such as 2013-10-01T00:00+00:00; what was labelled between the version's own and this"
        " one is skipped. By default it is all learned again",
    )


def rollback_job(flow: Flow) -> dg.JobDefinition:
    """Return the job that makes an earlier champion the champion again."""

    @dg.op(name=f"{flow.name}_roll_back")
    def roll_back(context: dg.OpExecutionContext, config: RollBackTo, platform: Platform) -> None:
        offset = None
        if config.resume_at is not None:
            offset = platform.store(flow).offset_at(as_instant(config.resume_at))
        entry = platform.registry().rollback(
            flow.name, to=config.to, why=config.reason, resume_at=offset, who=f"Dagster run {context.run_id}"
        )
        context.log.info("%s: version %s serves, before it %s did", flow.name, entry.champion, entry.before)
        _tell_served(context, flow, entry)

    return _small_job(
        flow, "rollback", roll_back, "Serves an earlier version again; later increments continue from its state."
    )


def live_check_job(flow: Flow) -> dg.JobDefinition:
    """Return the job that rolls a flow back when its champion has proved worse than the version it replaced."""

    @dg.op(name=f"{flow.name}_check_live_loss")
    def check_live_loss(context: dg.OpExecutionContext, platform: Platform) -> None:
        entry = roll_back_if_worse(flow, platform.store(flow), platform.registry())
        if entry is None:
            context.log.info("%s: the champion keeps its limit on the rows labelled since it was trained", flow.name)
            return
        context.log.warning("%s: version %s serves again: %s", flow.name, entry.champion, entry.why)
        _tell_served(context, flow, entry)

    return _small_job(
        flow, "live_check", check_live_loss, "Rolls back when the champion proved worse than the version before."
    )


def retention_job(flow: Flow) -> dg.JobDefinition:
    """Return the job that deletes the versions a flow need not keep."""

    @dg.op(name=f"{flow.name}_let_go")
    def let_go(context: dg.OpExecutionContext, platform: Platform) -> None:
        made = collect(flow, platform.registry(), now=platform.now(), who=f"Dagster run {context.run_id}")
        gone = [version.version for version in made.gone]
        context.log.info("%s: %s versions kept, deleted %s", flow.name, len(made.kept), gone or "none")

    return _small_job(flow, "retention", let_go, "Deletes the versions that `retention` need not keep, with artifacts.")


def _small_job(flow: Flow, what: str, op: dg.OpDefinition, description: str) -> dg.JobDefinition:
    @dg.job(
        name=job_name(flow, what),
        executor_def=dg.in_process_executor,
        tags={"modelflow/flow": flow.name},
        description=description,
    )
    def small() -> None:
        op()

    return small


def _tell_served(context: dg.OpExecutionContext, flow: Flow, entry: Entry) -> None:
    context.log_event(
        dg.AssetObservation(
            key(flow, "served_model"),
            description=f"rolled back from version {entry.before}: {entry.why}",
            metadata={"version": dg.MetadataValue.int(entry.champion or 0)},
        )
    )


def partition_range(flow: Flow, first: str, last: str) -> dict[str, str]:
    """Return the tags of one run over all days from `first` to `last`."""
    keys = daily(flow).get_partition_keys_in_range(dg.PartitionKeyRange(first, last))
    return {"dagster/asset_partition_range_start": keys[0], "dagster/asset_partition_range_end": keys[-1]}

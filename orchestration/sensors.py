"""The sensors of a flow. They read the store's progress and the registry's tags, never the DuckDB file.

A tick that asks for nothing says why.
"""

from datetime import date, timedelta

import dagster as dg

from ml_core.project import Flow
from ml_core.training import increment_due
from orchestration.assets.names import key
from orchestration.jobs import FlowJob, partition_range
from orchestration.resources import Platform


def new_labels(flow: Flow, job: FlowJob) -> dg.SensorDefinition:
    """Return the sensor that starts an increment when enough was labelled past the head's watermark."""

    @dg.sensor(
        name=f"{flow.name}_new_labels",
        job=job,
        minimum_interval_seconds=15,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Starts an increment when enough rows were labelled past the watermark of the flow's head.",
    )
    def sensor(platform: Platform) -> dg.RunRequest | dg.SkipReason:
        registry = platform.registry()
        head = registry.head(flow.name)
        progress = platform.store(flow).progress()
        due = increment_due(flow, progress, head)
        if not due.due or head is None:
            return dg.SkipReason(due.reason)
        # one run per head and target: after a refusal the same head is tried again, with more rows. What a rollback
        # brought back is a head anew, which the ledger's entry tells apart.
        run_key = f"{head.version}:{registry.ledger.became(flow.name, head.version).number}:{progress.next_example}"
        return dg.RunRequest(run_key=run_key, tags={"modelflow/why": due.reason})

    return sensor


def people(flow: Flow) -> dg.SensorDefinition:
    """Return the sensor that completes what people moved in MLflow, and what an interrupted process left undone."""

    @dg.sensor(
        name=f"{flow.name}_people",
        minimum_interval_seconds=15,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Completes stage and alias moves made in the MLflow pages and writes them into the flow's ledger.",
    )
    def sensor(platform: Platform) -> dg.SensorResult | dg.SkipReason:
        done = platform.registry().reconcile(flow.name)
        if not done:
            return dg.SkipReason(f"{flow.name}: stages and aliases are as the ledger says")
        observed = dg.AssetObservation(
            key(flow, "served_model"),
            description="; ".join(done),
            metadata={"transitions": dg.MetadataValue.json(done)},
        )
        return dg.SensorResult(asset_events=[observed], skip_reason="; ".join(done))

    return sensor


def new_days(flow: Flow, job: FlowJob) -> dg.SensorDefinition:
    """Return the sensor that materialises events and features of the days the flow's clock has completed."""

    @dg.sensor(
        name=f"{flow.name}_new_days",
        job=job,
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Materialises the days that are complete by the flow's clock, in one run.",
    )
    def sensor(context: dg.SensorEvaluationContext, platform: Platform) -> dg.SensorResult | dg.SkipReason:
        through = [segment.through for segment in platform.store(flow).log.newest()]
        if not through:
            return dg.SkipReason(f"{flow.name}: no segment was dropped into the event log yet")
        last = (min(through) - timedelta(days=1)).date()
        last = last if flow.data.ends is None else min(last, flow.data.ends - timedelta(days=1))
        first = flow.data.starts
        if context.cursor:
            first = date.fromisoformat(context.cursor) + timedelta(days=1)
        if last < first:
            return dg.SkipReason(f"{flow.name}: no day was completed since {first - timedelta(days=1)}")
        request = dg.RunRequest(
            run_key=f"{first}:{last}", tags=partition_range(flow, first.isoformat(), last.isoformat())
        )
        return dg.SensorResult(run_requests=[request], cursor=last.isoformat())

    return sensor

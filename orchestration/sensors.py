"""The sensors of a flow. They read the store's progress, Dagster's own runs and the registry, never the DuckDB file.

A tick that asks for nothing says why. No sensor keeps a cursor: what was done is read off the runs and the
materialised days, so that whatever was lost or failed is asked for again.
"""

from collections.abc import Iterator, Sequence
from datetime import date, timedelta

import dagster as dg

from ml_core.data.ingest import waits
from ml_core.errors import SourceError
from ml_core.project import Flow
from ml_core.training import increment_due
from ml_core.training.live import check_due
from ml_core.training.retraining import retraining_due
from orchestration.assets.names import key
from orchestration.attempts import asked
from orchestration.checks import standing_in_the_way
from orchestration.drift import alarm_tags, drift_alarm
from orchestration.jobs import FlowJob, partition_range
from orchestration.resources import Platform

_DAY = timedelta(days=1)


def new_labels(flow: Flow, job: FlowJob) -> dg.SensorDefinition:
    """Return the sensor that starts an increment when enough was labelled past the head's watermark."""

    @dg.sensor(
        name=f"{flow.name}_new_labels",
        job=job,
        minimum_interval_seconds=15,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Starts an increment when enough rows were labelled past the watermark of the flow's head.",
    )
    def sensor(context: dg.SensorEvaluationContext, platform: Platform) -> dg.RunRequest | dg.SkipReason:
        registry, store = platform.registry(), platform.store(flow)
        head, progress = registry.head(flow.name), store.progress()
        due = increment_due(flow, progress, head)
        if not due.due or head is None:
            return dg.SkipReason(due.reason)
        needs = retraining_due(flow, progress, head, features=store.fingerprint())
        if needs.target is not None:
            return dg.SkipReason(f"{needs.reason}: a full training comes first")
        failed = standing_in_the_way(flow, context.instance)
        if failed:
            return dg.SkipReason(
                f"{due.reason}, but the check {failed[0]} of {flow.name}/features fails: see to the data"
            )
        # after a refusal the same head is tried again, with more rows. What a rollback brought back is a head anew,
        # which the ledger's entry tells apart.
        target = f"{head.version}:{registry.ledger.became(flow.name, head.version).number}:{progress.next_example}"
        return asked(context.instance, job.name, now=platform.now(), target=target, why=due.reason)

    return sensor


def live_loss(flow: Flow, job: dg.JobDefinition) -> dg.SensorDefinition:
    """Return the sensor that has a champion's live loss looked at while its labels come in."""

    @dg.sensor(
        name=f"{flow.name}_live_loss",
        job_name=job.name,
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Has the champion compared with the version it replaced, on the rows labelled since.",
    )
    def sensor(context: dg.SensorEvaluationContext, platform: Platform) -> dg.RunRequest | dg.SkipReason:
        target, why = check_due(flow, platform.store(flow).progress(), platform.registry())
        if target is None:
            return dg.SkipReason(why)
        return asked(context.instance, job.name, now=platform.now(), target=target, why=why)

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


def retrain(flow: Flow, job: FlowJob) -> dg.SensorDefinition:
    """Return the sensor that starts a full training for the first version, and when the flow's definition changed."""

    @dg.sensor(
        name=f"{flow.name}_retrain",
        job=job,
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Starts a full training for the first version, when features or pipeline changed, and on drift.",
    )
    def sensor(context: dg.SensorEvaluationContext, platform: Platform) -> dg.RunRequest | dg.SkipReason:
        store = platform.store(flow)
        progress, head = store.progress(), platform.registry().head(flow.name)
        alarm = drift_alarm(flow, context.instance, progress, head)
        needs = retraining_due(flow, progress, head, features=store.fingerprint(), alarm=alarm)
        if needs.target is None:
            return dg.SkipReason(needs.reason)
        return asked(
            context.instance,
            job.name,
            now=platform.now(),
            target=needs.target,
            why=needs.reason,
            tags=alarm_tags(needs.target),
        )

    return sensor


def source_changed(flow: Flow, job: FlowJob) -> dg.SensorDefinition:
    """Return the sensor that takes a flow's source in when its files changed."""

    @dg.sensor(
        name=f"{flow.name}_source_changed",
        job=job,
        minimum_interval_seconds=15,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Takes the flow's source in when its files changed.",
    )
    def sensor(context: dg.SensorEvaluationContext, platform: Platform) -> dg.RunRequest | dg.SkipReason:
        try:
            changed = waits(flow, platform.store(flow), platform.project().root)
        except SourceError as missing:
            return dg.SkipReason(str(missing))
        if changed is None:
            return dg.SkipReason(f"{flow.name}: its source has not changed since it was taken in")
        return asked(
            context.instance, job.name, now=platform.now(), target=str(changed), why=f"{flow.name}: its source changed"
        )

    return sensor


def new_days(flow: Flow, job: FlowJob) -> dg.SensorDefinition:
    """Return the sensor that materialises events and features of the days the flow's clock has completed."""

    @dg.sensor(
        name=f"{flow.name}_new_days",
        job=job,
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Materialises the days that are complete and were not materialised yet, a run per unbroken range.",
    )
    def sensor(context: dg.SensorEvaluationContext, platform: Platform) -> dg.SensorResult | dg.SkipReason:
        through = [segment.through for segment in platform.store(flow).log.newest()]
        if not through:
            return dg.SkipReason(f"{flow.name}: no segment was dropped into the event log yet")
        last = (min(through) - _DAY).date()
        last = last if flow.data.ends is None else min(last, flow.data.ends - _DAY)
        complete = [flow.data.starts + _DAY * number for number in range((last - flow.data.starts).days + 1)]
        done = context.instance.get_materialized_partitions(key(flow, "features"))
        missing = [day for day in complete if day.isoformat() not in done]
        if not missing:
            return dg.SkipReason(f"{flow.name}: every day up to {last} is materialised; facts are complete through it")
        why = f"{flow.name}: facts are complete through {last}"
        requests, reasons = [], []
        for first, end in _ranges(missing):
            answer = asked(
                context.instance, job.name, now=platform.now(), target=f"{first}:{end}", why=why, once=False,
                tags=partition_range(flow, first.isoformat(), end.isoformat()),
            )  # fmt: skip
            if isinstance(answer, dg.SkipReason):
                reasons.append(str(answer.skip_message))
            else:
                requests.append(answer)
        return dg.SensorResult(run_requests=requests) if requests else dg.SkipReason("; ".join(sorted(set(reasons))))

    return sensor


def _ranges(days: Sequence[date]) -> Iterator[tuple[date, date]]:
    """Yield the unbroken ranges of ascending days."""
    first = before = days[0]
    for day in days[1:]:
        if day - before > _DAY:
            yield first, before
            first = day
        before = day
    yield first, before

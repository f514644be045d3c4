"""Drift in Dagster: three checks with plots, the job that evaluates them, its sensor, and the alarm they raise.

A check says what it found and does nothing. The sensor `<flow>_retrain` reads the alarm and starts a full training, at
most one per cool-down; the gate judges what comes of it, and until then the served model stays as it is.
"""

from collections.abc import Iterator
from datetime import datetime

import dagster as dg

from ml_core.data.progress import Progress
from ml_core.flow.version import ModelVersion
from ml_core.project import Flow
from ml_core.training.charts import shown
from ml_core.training.drift import Drift, find_drift
from ml_core.training.retraining import Retraining
from orchestration.assets.names import DRIFT_CHECKS, drift_keys, duckdb_pool, key
from orchestration.attempts import asked
from orchestration.jobs import FlowJob, job_name
from orchestration.resources import Platform

ALARM = "modelflow/alarm"
CLOCK = "clock"

_SHOWN = 20


def drift_checks(flow: Flow) -> dg.AssetChecksDefinition:
    """Return the checks of a flow's drift: one step of the drift job, and of jobs that take all checks of an asset."""

    @dg.multi_asset_check(
        name=f"{flow.name}_drift_checks",
        specs=[
            dg.AssetCheckSpec("drift_features", asset=key(flow, "features"), description="Requests: PSI and KS."),
            dg.AssetCheckSpec("drift_scores", asset=key(flow, "served_model"), description="Scores: PSI and KS."),
            dg.AssetCheckSpec(
                "drift_loss", asset=key(flow, "served_model"), description="Loss before learning: ADWIN."
            ),
        ],
        pool=duckdb_pool(flow),
        can_subset=True,  # a job of an asset and all its checks takes some of these
    )
    def drift(context: dg.AssetCheckExecutionContext, platform: Platform) -> Iterator[dg.AssetCheckResult]:
        store = platform.store(flow)
        clock = store.progress().clock
        wanted = {each.name for each in context.selected_asset_check_keys}
        for found in find_drift(flow, store, platform.registry()):
            if found.name not in wanted:
                continue
            yield dg.AssetCheckResult(
                asset_key=key(flow, DRIFT_CHECKS[found.name]),
                check_name=found.name,
                passed=found.passed,
                severity=dg.AssetCheckSeverity.WARN,
                description=found.said,
                metadata={CLOCK: str(clock), **found.figures, **_pictures(found)},
            )

    return drift


def drift_job(flow: Flow) -> FlowJob:
    """Return the job that evaluates a flow's drift checks."""
    return dg.define_asset_job(
        job_name(flow, "drift"),
        selection=dg.AssetSelection.checks(*drift_keys(flow)),
        executor_def=dg.in_process_executor,
        tags={"modelflow/flow": flow.name},
        description="Holds requests, scores and losses against those of the last full training.",
    )


def drift_sensor(flow: Flow, job: FlowJob) -> dg.SensorDefinition:
    """Return the sensor that has drift looked at once per day of the flow's clock, for a flow that has a version."""

    @dg.sensor(
        name=f"{flow.name}_drift",
        job=job,
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Has drift looked at once per day of the flow's clock.",
    )
    def sensor(context: dg.SensorEvaluationContext, platform: Platform) -> dg.RunRequest | dg.SkipReason:
        clock = platform.store(flow).progress().clock
        if clock is None or platform.registry().head(flow.name) is None:
            return dg.SkipReason(f"{flow.name} has no version yet whose data could have drifted")
        why = f"{flow.name}: facts are complete through {clock}"
        return asked(context.instance, job.name, now=platform.now(), target=f"{clock:%Y-%m-%d}", why=why)

    return sensor


def drift_alarm(flow: Flow, instance: dg.DagsterInstance, progress: Progress, head: ModelVersion | None) -> Retraining:
    """Return what drift asks for: a full training, or nothing, and why."""
    if not flow.drift.retrain or head is None or progress.clock is None:
        return Retraining(None, "drift starts no training")
    failed = [(name, clock) for name, clock in _failed(flow, instance) if clock is not None]
    if not failed:
        return Retraining(None, "no drift was found when it was last looked for")
    clock = max(clock for _, clock in failed)
    said = f"{', '.join(name for name, _ in failed)} failed at {clock}"
    last = _last_alarm(flow, instance)
    if last is not None and clock < last + flow.drift.cool_down:
        return Retraining(
            None, f"{said}, but drift started a training for {last}; the next after {flow.drift.cool_down}"
        )
    return Retraining(f"drift:{clock.isoformat()}", said)


def alarm_tags(target: str) -> dict[str, str]:
    """Return the tags that let a run be found as one that drift asked for; none for another run."""
    kind, _, clock = target.partition(":")
    return {ALARM: clock} if kind == "drift" else {}


def _failed(flow: Flow, instance: dg.DagsterInstance) -> Iterator[tuple[str, datetime | None]]:
    for each in drift_keys(flow):
        record = instance.get_latest_asset_check_evaluation_record(each)
        found = record and record.event and record.event.asset_check_evaluation
        if found and not found.passed:
            clock = found.metadata[CLOCK].value
            yield each.name, None if clock == "None" else datetime.fromisoformat(str(clock))


def _last_alarm(flow: Flow, instance: dg.DagsterInstance) -> datetime | None:
    records = instance.get_run_records(dg.RunsFilter(job_name=job_name(flow, "full_training")), limit=100)
    clocks = [record.dagster_run.tags[ALARM] for record in records if ALARM in record.dagster_run.tags]
    return max(map(datetime.fromisoformat, clocks), default=None)


def _pictures(found: Drift) -> dict[str, dg.MetadataValue]:
    pictures: dict[str, dg.MetadataValue] = {}
    if found.table:
        rows = [f"| `{name}` | {psi:.4f} | {ks:.4f} |".replace("nan", "") for name, psi, ks in found.table[:_SHOWN]]
        pictures["furthest"] = dg.MetadataValue.md("\n".join(["| feature | PSI | KS |", "|---|---|---|", *rows]))
    if found.charts:
        pictures["plots"] = dg.MetadataValue.md(shown(found.charts))
    return pictures

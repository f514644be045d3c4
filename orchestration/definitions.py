"""The only assembly point: every flow of the project file becomes assets, checks, jobs, a schedule and sensors."""

import logging
from collections.abc import Mapping

import dagster as dg

from ml_core.project import Flow, Project, load_project
from orchestration.answers import answers_asset, answers_job, answers_sensor
from orchestration.assets import flow_assets
from orchestration.checks import flow_checks
from orchestration.drift import drift_checks, drift_job, drift_sensor
from orchestration.jobs import flow_jobs, live_check_job, retention_job, rollback_job
from orchestration.resources import Platform, platform_of
from orchestration.schedules import nightly, retention
from orchestration.sensors import live_loss, new_days, new_labels, people, retrain, source_changed
from orchestration.stream import stream_checks, stream_sensor

_LOG = logging.getLogger("modelflow.orchestration")


def flow_definitions(flow: Flow, executor: dg.ExecutorDefinition = dg.in_process_executor) -> dg.Definitions:
    """Return everything Dagster knows about one flow; `executor` runs the steps of its trainings and ingests."""
    jobs = flow_jobs(flow, executor)
    live_check, letting_go, drift = live_check_job(flow), retention_job(flow), drift_job(flow)
    sensors = [
        new_labels(flow, jobs["incremental_training"]),
        retrain(flow, jobs["full_training"]),
        new_days(flow, jobs["ingest"]),
        live_loss(flow, live_check),
        drift_sensor(flow, drift),
        people(flow),
    ]
    if "take_in" in jobs:
        sensors.append(source_changed(flow, jobs["take_in"]))
    assets, more = flow_assets(flow), []
    if flow.serving.prediction_log is not None:
        more = [answers_job(flow)]
        assets.append(answers_asset(flow))
        sensors.append(answers_sensor(flow, more[0]))
    checks = [*flow_checks(flow), drift_checks(flow)]
    if flow.stream.facts:
        checks.append(stream_checks(flow))
        sensors.append(stream_sensor(flow))
    return dg.Definitions(
        assets=assets,
        asset_checks=checks,
        jobs=[*jobs.values(), rollback_job(flow), live_check, letting_go, drift, *more],
        schedules=[nightly(flow, jobs["full_training"]), retention(flow, letting_go)],
        sensors=sensors,
    )


def broken_flow(name: str, reason: str) -> dg.Definitions:
    """Return what stands in Dagster for a flow whose own tables cannot be used: its name, and why."""
    _LOG.error("flow %s is left out: %s", name, reason)
    broken = dg.AssetSpec([name, "broken"], group_name=name, kinds={"error"}, description=reason)
    return dg.Definitions(assets=[broken])


def build_definitions(
    project: Project,
    platform: Platform | None = None,
    *,
    broken: Mapping[str, str] | None = None,
    executor: dg.ExecutorDefinition = dg.in_process_executor,
) -> dg.Definitions:
    """Return the definitions of all flows of a project, and the way they reach `ml_core`.

    A flow that cannot be defined does not take the others with it: it stands there as one asset that says why.
    """
    parts = [broken_flow(name, reason) for name, reason in (broken or {}).items()]
    for flow in project.flows.values():
        try:
            parts.append(flow_definitions(flow, executor))
        except dg.DagsterError as error:
            parts.append(broken_flow(flow.name, f"flow {flow.name}: {error}"))
    return dg.Definitions.merge(dg.Definitions(resources={"platform": platform or platform_of(project)}), *parts)


@dg.definitions
def defs() -> dg.Definitions:
    """Return the definitions of the project this code location was started in."""
    broken: dict[str, str] = {}
    return build_definitions(load_project(broken=broken), Platform(), broken=broken)

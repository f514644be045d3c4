"""The only assembly point: every flow of the project file becomes assets, checks, jobs, a schedule and sensors."""

import dagster as dg

from ml_core.project import Flow, Project, load_project
from orchestration.assets import flow_assets
from orchestration.checks import flow_checks
from orchestration.jobs import flow_jobs, rollback_job
from orchestration.resources import Platform, platform_of
from orchestration.schedules import nightly
from orchestration.sensors import new_days, new_labels, people


def flow_definitions(flow: Flow) -> dg.Definitions:
    """Return everything Dagster knows about one flow."""
    ingest, full_training, incremental_training = flow_jobs(flow)
    return dg.Definitions(
        assets=flow_assets(flow),
        asset_checks=flow_checks(flow),
        jobs=[ingest, full_training, incremental_training, rollback_job(flow)],
        schedules=[nightly(flow, full_training)],
        sensors=[new_labels(flow, incremental_training), new_days(flow, ingest), people(flow)],
    )


def build_definitions(project: Project, platform: Platform | None = None) -> dg.Definitions:
    """Return the definitions of all flows of a project, and the way they reach `ml_core`."""
    return dg.Definitions.merge(
        dg.Definitions(resources={"platform": platform or platform_of(project)}),
        *(flow_definitions(flow) for flow in project.flows.values()),
    )


@dg.definitions
def defs() -> dg.Definitions:
    """Return the definitions of the project this code location was started in."""
    return build_definitions(load_project(), Platform())

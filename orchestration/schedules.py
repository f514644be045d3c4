"""The nightly full training of a flow, in the flow's own time zone."""

import dagster as dg

from ml_core.project import Flow
from orchestration.jobs import FlowJob, job_name


def nightly(flow: Flow, job: FlowJob) -> dg.ScheduleDefinition:
    """Return the schedule that starts a flow's full training."""
    return dg.ScheduleDefinition(
        name=f"{flow.name}_nightly",
        job=job,
        cron_schedule=flow.full_training.cron,
        execution_timezone=flow.full_training.time_zone,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=f"Starts {job_name(flow, 'full_training')} every night.",
    )

"""What a flow does by the clock, in its own time zone: the nightly full training, and letting old versions go."""

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


def retention(flow: Flow, job: dg.JobDefinition) -> dg.ScheduleDefinition:
    """Return the schedule that deletes the versions a flow need not keep."""
    return dg.ScheduleDefinition(
        name=f"{flow.name}_retention",
        job_name=job.name,
        cron_schedule=flow.retention.cron,
        execution_timezone=flow.full_training.time_zone,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Deletes versions past `retention`; never one that stands somewhere, is pinned or still needed.",
    )

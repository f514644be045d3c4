"""Whether a sensor may ask for a run now: never two at once, never again what was done, failures with growing pauses.

A run says in its tags what it is for, its *target*: "the rows up to 17,000 for version 3", "the days 1 to 9 May". The
runs that Dagster remembers are all there is to know, so a lost cursor or a restarted daemon changes nothing. A run that
failed because the gate refused its version, its tag `REFUSED`, has done what it was for.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import dagster as dg

TARGET = "modelflow/target"
WHY = "modelflow/why"
REFUSED = "modelflow/refused"

_FIRST_PAUSE, _LONGEST_PAUSE = timedelta(minutes=1), timedelta(hours=1)
_REMEMBERED = 20
_UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
_STATES = {dg.DagsterRunStatus.NOT_STARTED: "waiting to start", dg.DagsterRunStatus.STARTED: "running"}


@dataclass(frozen=True, slots=True)
class Attempt:
    """Whether to ask for a run: the request's key and tags, or why not.

    Attributes
    ----------
    run_key : str or None
        None when there is nothing to ask for; the daemon starts one run per key.
    why_not : str
        Empty when a run may be asked for.
    """

    run_key: str | None
    why_not: str = ""


def attempt(
    instance: dg.DagsterInstance, job: str, target: str, *, now: datetime, once: bool = True, alone: bool = True
) -> Attempt:
    """Say whether a run of `job` for `target` may be asked for.

    Parameters
    ----------
    once : bool
        Whether a run that succeeded, or whose version the gate refused, settles the target for good.
    alone : bool
        Whether any unfinished run of the job stands in the way, or only one for the same target.
    """
    unfinished = instance.get_run_records(
        dg.RunsFilter(job_name=job, statuses=_UNFINISHED, tags={} if alone else {TARGET: target}), limit=1
    )
    if unfinished:
        run, since = unfinished[0].dagster_run, unfinished[0].create_timestamp
        waited = now - since.replace(tzinfo=since.tzinfo or UTC)
        status = _STATES.get(run.status, run.status.value.lower())
        return Attempt(None, f"run {run.run_id[:8]} of {job} has been {status} for {_about(waited)}; one run at a time")
    records = instance.get_run_records(dg.RunsFilter(job_name=job, tags={TARGET: target}), limit=_REMEMBERED)
    failed = 0
    for record in records:  # newest first
        if record.dagster_run.is_success or REFUSED in record.dagster_run.tags:
            break
        failed += 1
    if once and len(records) > failed:
        return Attempt(None, f"run {records[failed].dagster_run.run_id[:8]} did that already")
    if failed:
        ended = datetime.fromtimestamp(records[0].end_time or records[0].update_timestamp.timestamp(), UTC)
        due = ended + min(_FIRST_PAUSE * 2 ** (failed - 1), _LONGEST_PAUSE)
        if now < due:
            run_id = records[0].dagster_run.run_id[:8]
            return Attempt(
                None, f"run {run_id} failed, the {_nth(failed)} time; the next attempt is due at {due:%H:%M}"
            )
    # the daemon starts one run per key, and only so many runs are looked at: their number would stop to grow
    return Attempt(f"{target}#{records[0].dagster_run.run_id if records else 0}")


def asked(
    instance: dg.DagsterInstance,
    job: str,
    *,
    target: str,
    why: str,
    now: datetime,
    once: bool = True,
    tags: Mapping[str, str] | None = None,
) -> dg.RunRequest | dg.SkipReason:
    """Ask for a run of `job`, or say what stands in the way."""
    may = attempt(instance, job, target, now=now, once=once)
    if may.why_not:
        return dg.SkipReason(f"{why}, but {may.why_not}")
    run_key = may.run_key if once else None  # days that were wiped are asked for again
    return dg.RunRequest(run_key=run_key, tags={TARGET: target, WHY: why} | dict(tags or {}))


def _about(length: timedelta) -> str:
    minutes = max(0, int(length.total_seconds())) // 60
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"  # noqa: PLR2004 - an hour


def _nth(count: int) -> str:
    return {1: "first", 2: "second", 3: "third"}.get(count, f"{count}th")

"""When a full training is due besides the nightly one: the retraining sensor's logic, without a sensor."""

from dataclasses import dataclass

from ml_core.data.progress import Progress
from ml_core.flow.version import ModelVersion
from ml_core.project import Flow


@dataclass(frozen=True, slots=True)
class Retraining:
    """Whether a full training should start, and why.

    Attributes
    ----------
    target : str or None
        What the run is for, the same for as long as the reason is the same; None when none is due.
    reason : str
    """

    target: str | None
    reason: str


def retraining_due(
    flow: Flow, progress: Progress, head: ModelVersion | None, *, features: str, alarm: Retraining | None = None
) -> Retraining:
    """Say whether the flow needs a full training before the next night.

    Parameters
    ----------
    features : str
        The fingerprint of `features.sql` as it is now.
    alarm : Retraining, optional
        What drift and live checks ask for.
    """
    if head is None:
        wanted = flow.gate.min_rows
        if progress.next_example < wanted:
            return Retraining(
                None, f"{flow.name} has no version yet: {progress.next_example} labelled rows, {wanted} wanted"
            )
        return Retraining("first", f"{flow.name} has no version yet, and {progress.next_example} labelled rows")
    if head.feature_fingerprint != features:
        return Retraining(f"features:{features[:12]}", f"features.sql changed since version {head.version}")
    pipeline = flow.pipeline.fingerprint
    if head.pipeline_fingerprint not in {"", pipeline}:
        return Retraining(f"pipeline:{pipeline[:12]}", f"the pipeline changed since version {head.version}")
    if alarm is not None and alarm.target is not None:
        return alarm
    quiet = "" if alarm is None else f"; {alarm.reason}"
    return Retraining(None, f"version {head.version} has today's features and pipeline{quiet}")

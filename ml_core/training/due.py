"""When an increment is due: the incremental sensor's logic, without a sensor.

It looks at two things that can be read without opening the feature store, its `Progress` and the head of the
flow, and answers with a reason a person can read.
"""

from dataclasses import dataclass

from ml_core.data.progress import Progress
from ml_core.flow.version import ModelVersion
from ml_core.project import Flow


@dataclass(frozen=True, slots=True)
class Due:
    """Whether an incremental run should start, how many rows wait for it, and why."""

    due: bool
    new_rows: int
    reason: str


def increment_due(flow: Flow, progress: Progress, head: ModelVersion | None) -> Due:
    """Say whether enough was labelled past the head's watermark to teach it something.

    Rows count first; `max_age` lets a quiet flow learn what it has once the head has fallen that far behind the
    newest label, in the flow's own time.
    """
    settings = flow.incremental_training
    if head is None:
        return Due(due=False, new_rows=0, reason=f"{flow.name} has no version yet: its first one is a full training")
    new_rows = progress.next_example - head.next_example
    if new_rows <= 0:
        return Due(
            due=False, new_rows=0, reason=f"nothing labelled past version {head.version} ({head.next_example} rows)"
        )
    if new_rows >= settings.min_rows:
        reason = f"{new_rows} new labelled rows past version {head.version}, at least {settings.min_rows} wanted"
        return Due(due=True, new_rows=new_rows, reason=reason)
    if settings.max_age is not None and progress.labelled_through is not None:
        age = progress.labelled_through - head.trained_through
        if age >= settings.max_age:
            reason = f"version {head.version} is {age} behind the newest label, at most {settings.max_age} wanted"
            return Due(due=True, new_rows=new_rows, reason=reason)
    reason = f"{new_rows} new labelled rows past version {head.version}, waiting for {settings.min_rows}"
    return Due(due=False, new_rows=new_rows, reason=reason)

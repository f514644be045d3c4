"""When the replay stops to ask for predictions: never after an outcome of what it asks about is known.

Requests are gathered for an hour at most. A short flight can leave early and land before that hour is over; a
request for it sent at the hour's end would come after its outcome. So a batch also ends wherever the next request
would be made at or after the first landing among those already waiting.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

_LONGEST = timedelta(hours=1)


def request_moments(requests: Sequence[datetime], outcomes: Sequence[datetime | None]) -> Iterator[datetime]:
    """Yield the instants at which the waiting requests are sent, in order.

    Parameters
    ----------
    requests : sequence of datetime, ascending
        When the features of each entity are asked for.
    outcomes : sequence of datetime or None
        When its outcome becomes known; None where it never does.

    Yields
    ------
    datetime
        The request time of the last request of a batch: everything known by then is known to its features.
    """
    first: datetime | None = None
    last: datetime | None = None
    first_outcome: datetime | None = None
    for asked, known in zip(requests, outcomes, strict=True):
        if first is not None and last is not None and asked > last:
            known_too_soon = first_outcome is not None and asked >= first_outcome
            if known_too_soon or asked - first >= _LONGEST:
                yield last
                first = first_outcome = None
        first, last = first or asked, asked
        if known is not None and (first_outcome is None or known < first_outcome):
            first_outcome = known
    if last is not None:
        yield last

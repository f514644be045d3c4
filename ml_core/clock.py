"""Time as a value that is handed in: nothing else in Model Flow asks the wall clock in order to decide.

Every instant is a UTC-aware `datetime`. A naive one is refused where it enters, so that no local reading can
slip into a comparison; only what a person types without a zone is read, as UTC.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol

_DURATION = re.compile(r"(?P<count>\d+)\s*(?P<unit>second|minute|hour|day)s?")


class Clock(Protocol):
    """Anything that can say what time it is, in UTC."""

    def now(self) -> datetime:
        """Return the current instant, aware and in UTC."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """Return the machine's current instant in UTC."""
        return datetime.now(UTC)


@dataclass(slots=True)
class ManualClock:
    """A clock that stands still until it is moved: for tests and replays."""

    instant: datetime

    def __post_init__(self) -> None:
        self.instant = as_utc(self.instant)

    def now(self) -> datetime:
        """Return the instant the clock was last set to."""
        return self.instant

    def advance(self, by: timedelta) -> None:
        """Move forward by `by`, which must not be negative."""
        if by < timedelta(0):
            raise ValueError(f"a clock moves forward only; asked to advance by {by}")
        self.instant += by


def as_utc(instant: datetime) -> datetime:
    """Return `instant` in UTC; raise ValueError when it carries no time zone."""
    if instant.tzinfo is None:
        raise ValueError(f"expected an instant with a time zone, found {instant.isoformat()}; add one, e.g. +00:00")
    return instant.astimezone(UTC)


def as_instant(text: str) -> datetime:
    """Read an instant as a person types it, in UTC; one without a zone is UTC. Raise ValueError when it is none."""
    try:
        read = datetime.fromisoformat(text)
        return as_utc(read if read.tzinfo else read.replace(tzinfo=UTC))
    except (ValueError, OverflowError) as error:
        raise ValueError(f"expected an instant such as 2013-10-01T12:00+00:00, found {text!r}") from error


def as_duration(text: str) -> timedelta:
    """Read a duration such as '7 days' or '90 minutes'; raise ValueError when it is none."""
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"expected a duration such as '7 days' or '90 minutes', found {text!r}")
    return timedelta(**{match["unit"] + "s": int(match["count"])})


def duration_text(duration: timedelta) -> str:
    """Return what `as_duration` reads as this duration, in its largest whole unit; fractions of a second are cut."""
    for unit in ("day", "hour", "minute", "second"):
        count, rest = divmod(duration, timedelta(**{unit + "s": 1}))
        if (count and not rest) or unit == "second":
            break
    return f"{count} {unit}{'' if count == 1 else 's'}"


def as_interval(text: str) -> timedelta | None:
    """Read how often something is looked at: as `as_duration`, or 'never'."""
    return None if text == "never" else as_duration(text)

"""The clock: instants are UTC-aware, and time in tests moves only when it is moved."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from ml_core.clock import ManualClock, SystemClock, as_duration, as_utc, duration_text

NOON = datetime(2013, 6, 1, 12, tzinfo=UTC)


def test_the_system_clock_says_utc() -> None:
    """A local reading would shift every watermark by the machine's zone."""
    assert SystemClock().now().tzinfo is UTC


def test_a_manual_clock_stands_still_until_it_is_advanced() -> None:
    """A replay decides by its own time, never by the machine's."""
    clock = ManualClock(NOON)
    assert clock.now() == clock.now() == NOON
    clock.advance(timedelta(minutes=90))
    assert clock.now() == NOON + timedelta(minutes=90)


def test_a_manual_clock_does_not_run_backwards() -> None:
    """Facts already delivered would become unknown again."""
    clock = ManualClock(NOON)
    with pytest.raises(ValueError, match="moves forward only"):
        clock.advance(timedelta(seconds=-1))
    assert clock.now() == NOON


def test_an_instant_of_another_zone_is_the_same_instant_in_utc() -> None:
    """An arrival at the destination must compare with a departure at the origin."""
    new_york = timezone(timedelta(hours=-4))
    converted = as_utc(datetime(2013, 6, 1, 8, tzinfo=new_york))
    assert (converted, converted.tzinfo) == (NOON, UTC)
    assert ManualClock(datetime(2013, 6, 1, 8, tzinfo=new_york)).now().tzinfo is UTC


def test_an_instant_without_a_zone_is_refused() -> None:
    """Guessing a zone would let the future leak into features."""
    with pytest.raises(ValueError, match="expected an instant with a time zone"):
        as_utc(NOON.replace(tzinfo=None))


@pytest.mark.parametrize("text", ["0 seconds", "1 second", "90 seconds", "1 minute", "36 hours", "7 days", "1 day"])
def test_a_duration_is_told_as_it_is_written(text: str) -> None:
    """What a message says can be copied into the file."""
    assert duration_text(as_duration(text)) == text

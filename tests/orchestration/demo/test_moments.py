"""The replay's one promise about time: no request is sent once its outcome is known."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from orchestration.demo.moments import request_moments

NOON = datetime(2013, 9, 1, 12, tzinfo=UTC)


def at(minutes: int) -> datetime:
    return NOON + timedelta(minutes=minutes)


def test_an_hour_without_early_landings_is_one_batch() -> None:
    assert list(request_moments([at(0), at(30), at(59)], [at(120), at(150), None])) == [at(59)]


def test_no_request_waits_for_an_hour() -> None:
    assert list(request_moments([at(10), at(69), at(70)], [None, None, None])) == [at(69), at(70)]


def test_an_hour_is_cut_before_the_first_landing_among_those_waiting() -> None:
    """A flight that left early and landed at minute 40 is asked for before minute 45 is."""
    assert list(request_moments([at(5), at(20), at(45)], [at(40), at(90), at(100)])) == [at(20), at(45)]


flights = st.lists(
    st.tuples(st.integers(0, 600), st.one_of(st.none(), st.integers(1, 400))), min_size=1, max_size=60
).map(lambda drawn: sorted(drawn, key=lambda flight: flight[0]))


@given(flights)
def test_every_request_is_sent_after_it_is_made_and_before_its_outcome(drawn: list[tuple[int, int | None]]) -> None:
    """Otherwise the demo's figures would be of predictions made with the answer at hand."""
    requests = [at(asked) for asked, _ in drawn]
    outcomes = [None if delay is None else at(asked + delay) for asked, delay in drawn]
    moments = list(request_moments(requests, outcomes))
    assert moments == sorted(set(moments))
    for asked, known in zip(requests, outcomes, strict=True):
        sent = min(moment for moment in moments if moment >= asked)
        assert known is None or sent < known
        assert sent - asked < timedelta(hours=1)

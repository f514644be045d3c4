"""Which shards a training has: every row once, in order, and the judged ones alone."""

from hypothesis import given
from hypothesis import strategies as st

from ml_core.project import SparkTrainingSettings
from ml_core.training.spark.plan import planned


def _settings(mode, **keys):
    return SparkTrainingSettings(mode=mode, **keys)


@given(
    mode=st.sampled_from(["sequential", "average"]),
    first=st.integers(0, 1_000),
    rows=st.integers(1, 3_000),
    shard_rows=st.integers(1, 500),
    shards=st.integers(2, 6),
    judged=st.integers(0, 3_000),
    alone=st.integers(0, 3_000),
)
def test_every_row_is_in_one_shard_and_none_is_judged_beside_another(  # noqa: PLR0917 - drawn by name
    mode, first, rows, shard_rows, shards, judged, alone
):
    """A row that another shard of its group had learned by then would be evidence of nothing."""
    settings = _settings(mode, shard_rows=shard_rows, shards=shards)
    plan = planned(settings, first, first + rows, judged=judged, alone=alone)
    bounds = [first, *(stop for _, stop in plan.ranges)]
    assert [start for start, _ in plan.ranges] == bounds[:-1]
    assert bounds[-1] == first + rows
    assert all(0 < stop - start <= shard_rows for start, stop in plan.ranges)
    for group in plan.groups:
        assert len(group) <= (shards if mode == "average" else 1)
        if group[0][0] >= plan.judged_from or group[0][0] < first + alone:
            assert len(group) == 1
        else:
            assert group[-1][1] <= plan.judged_from


def test_groups_follow_from_settings_and_offsets():
    plan = planned(_settings("average", shard_rows=100, shards=3), 50, 1_000, judged=200, alone=1)
    assert plan.judged_from == 800
    assert plan.groups == (
        ((50, 150),),
        ((150, 250), (250, 350), (350, 450)),
        ((450, 550), (550, 650), (650, 750)),
        ((750, 800),),
        ((800, 900),),
        ((900, 1_000),),
    )


def test_in_sequence_every_row_is_judged():
    plan = planned(_settings("sequential", shard_rows=400), 0, 1_000, judged=200, alone=1)
    assert plan.judged_from == 0
    assert plan.groups == (((0, 400),), ((400, 800),), ((800, 1_000),))

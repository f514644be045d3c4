"""Drift: the statistics against their definitions and against other people's code, and what is called drift by them."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from river.drift import ADWIN

from ml_core.project import DriftSettings, Flow
from ml_core.training import judge_and_promote, train_full
from ml_core.training.adwin import Adwin
from ml_core.training.drift import features_drift, find_drift, ks, loss_drift, psi, scores_drift
from ml_core.training.evaluation import ScoredSlice
from tests.data.conftest import orders_flow
from tests.training.test_lineage import Story


def column(values: object) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(values)])


@pytest.mark.parametrize("seed", range(4))
def test_adwin_cuts_where_rivers_does(seed: int) -> None:
    """River starts anew after a change; so does this one here."""
    random = np.random.default_rng(seed)
    stream = np.concatenate(
        [random.beta(2, 8, 3_000), random.beta(3, 7, 2_000), random.beta(3, 7.1, 3_000), random.beta(1, 9, 500)]
    )
    theirs, ours, changes = ADWIN(delta=0.002), Adwin(0.002), []
    for at, value in enumerate(stream.tolist()):
        theirs.update(value)
        changed = ours.update(value)
        assert changed is theirs.drift_detected, at
        assert ours.width == theirs.width
        assert ours.mean == pytest.approx(theirs.estimation, abs=1e-12)
        if changed:
            changes.append(at)
            ours = Adwin(0.002)
            ours._seen = at + 1
    assert len(changes) >= 2, "the mean changes at 3,000 and at 8,000"


def test_adwin_keeps_what_came_after_the_change_and_grows_where_nothing_changes() -> None:
    random, window = np.random.default_rng(5), Adwin()
    for value in random.random(2_000).tolist():
        assert not window.update(value)
    assert window.width == 2_000
    for value in (0.8 + 0.1 * random.random(1_000)).tolist():
        window.update(value)
    assert window.width < 1_500
    assert window.mean == pytest.approx(0.85, abs=0.05)


def test_psi_is_its_definition_over_quantile_bins_with_missing_values_apart() -> None:
    random = np.random.default_rng(0)
    before, now = random.normal(size=4_000), random.normal(0.7, 1.3, size=3_000)
    before[:100], now[:900] = np.nan, np.nan
    edges = [-np.inf, *np.nanquantile(before, np.arange(0.1, 1, 0.1)), np.inf]
    expected = 0.0
    for low, high in pairwise(edges):
        p, q = (((values > low) & (values <= high)).mean() for values in (before, now))
        expected += (q - p) * np.log(q / p)
    p, q = np.isnan(before).mean(), np.isnan(now).mean()
    assert psi(column(before), column(now)) == pytest.approx(expected + (q - p) * np.log(q / p), rel=1e-9)
    assert psi(column(before), column(before)) == 0.0


def test_psi_of_texts_counts_the_frequent_ones_and_the_rest() -> None:
    before = ["a"] * 60 + ["b"] * 30 + [None] * 10
    now = ["a"] * 30 + ["b"] * 30 + [None] * 10 + ["new"] * 30
    expected = (0.3 - 0.6) * np.log(0.3 / 0.6) + (0.3 - 1e-4) * np.log(0.3 / 1e-4)
    assert psi(column(before), column(now)) == pytest.approx(expected)


def test_ks_is_the_largest_distance_of_the_distribution_functions() -> None:
    before, now = np.array([1.0, 2.0, 3.0, 4.0]), np.array([3.5, 4.5, np.nan])
    grid = np.linspace(0, 5, 501)
    apart = [abs((before <= x).mean() - (now[:2] <= x).mean()) for x in grid]
    assert ks(before, now) == max(apart) == 0.75
    assert np.isnan(ks(before, np.array([np.nan])))


def table(random: np.random.Generator, *, shift: float) -> pa.Table:
    numbers = {f"n{number}": random.normal(shift, size=1_000) for number in range(3)}
    return pa.table({"key": ["k"] * 1_000, "city": random.choice(["x", "y"], 1_000)} | numbers)


@pytest.fixture
def flow() -> Flow:
    return Flow.model_validate(orders_flow().model_dump() | {"drift": {}})


def test_a_shift_of_most_features_is_drift_and_the_furthest_is_named_and_drawn(flow: Flow) -> None:
    random = np.random.default_rng(1)
    before = table(random, shift=0.0)
    assert features_drift(flow, before, table(random, shift=0.0)).passed
    found = features_drift(flow, before, table(random, shift=1.5))
    assert not found.passed
    assert "3 of 4 features have a PSI above 0.25" in found.said
    assert [name for name, _, _ in found.table][-1] == "city"
    assert set(found.charts) == {"n0", "n1", "n2"}


def test_scores_that_move_are_drift_of_any_class(flow: Flow) -> None:
    random = np.random.default_rng(2)
    before, same, moved = (random.beta(2, b, 2_000).astype(np.float32) for b in (8, 8, 3))
    assert scores_drift(flow, before, same).passed
    assert not scores_drift(flow, before, moved).passed
    several = [np.stack([scores, 1 - scores], axis=1) for scores in (before, moved)]
    assert not scores_drift(flow, *several).passed


def slices(random: np.random.Generator, *rates: float) -> list[ScoredSlice]:
    """Return slices of 10,000 rows whose label is 1 with a rate of their own, all scored 0.2."""
    made, scores = [], np.full(10_000, 0.2)
    for number, rate in enumerate(rates):
        labels = (random.random(10_000) < rate).astype(float)
        made.append(ScoredSlice(number * 10_000, labels, scores, np.empty(0)))
    return made


@pytest.mark.parametrize(
    ("rates", "since", "passed"),
    [
        ((0.2, 0.2, 0.2), 0, True),
        ((0.2, 0.2, 0.4), 10_000, False),
        ((0.2, 0.4, 0.4), 15_000, True),  # a full training has learned it since
        ((0.4, 0.2, 0.2), 0, True),  # a loss that falls is no alarm
    ],
)
def test_a_loss_that_rises_after_the_last_full_training_is_drift(
    flow: Flow, rates: tuple[float, ...], since: int, passed: bool
) -> None:
    found = loss_drift(flow, slices(np.random.default_rng(3), *rates), since=since)
    assert found.passed is passed, found.said
    if not passed:
        assert "rose from 0.5" in found.said
        assert "rise at " in found.charts["loss"]


def test_the_defaults_start_a_training_and_wait_a_week_before_the_next() -> None:
    settings = DriftSettings()
    assert settings.retrain
    assert settings.cool_down.days == 7


def test_features_that_were_changed_are_no_drift_and_their_training_is_said_to_be_due(tmp_path: Path) -> None:
    """The head's graph wants columns that the table may not have any more."""
    story = Story(tmp_path)
    story.live(4)
    judge_and_promote(story.flow, story.registry, train_full(story.flow, story.store, story.registry))
    (tmp_path / "features.sql").write_text(
        "select o.order_id as key, o.request_time, o.shop as store from requests o", encoding="utf-8"
    )
    story.live()
    found = {drift.name: drift for drift in find_drift(story.flow, story.store, story.registry)}
    assert all(drift.passed for drift in found.values())
    assert "the features changed since version 1" in found["drift_features"].said

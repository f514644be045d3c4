"""Running metrics: at every prefix what scikit-learn says of the rows so far, however the stream was cut."""

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

from ml_core.training.metrics import RunningMetrics

# coarse scores, so that ties and the edges of bins are common
SCORES = st.one_of(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.7, 1.0]), st.floats(0, 1, allow_subnormal=False))
ROWS = st.lists(st.tuples(st.booleans(), SCORES), min_size=1, max_size=60)


def pieces(rows: int, cuts: list[int]) -> Iterator[slice]:
    """Yield consecutive slices of `rows`, cut at the given places."""
    bounds = [0, *sorted({cut % (rows + 1) for cut in cuts}), rows]
    return itertools.starmap(slice, itertools.pairwise(bounds))


@settings(max_examples=100, deadline=None)
@given(rows=ROWS, cuts=st.lists(st.integers(0, 60), max_size=8), window=st.none() | st.integers(1, 30))
def test_figures_are_scikit_learns_at_every_prefix(
    rows: list[tuple[bool, float]], cuts: list[int], window: int | None
) -> None:
    labels, scores = (np.array(side, np.float64) for side in zip(*rows, strict=True))
    metrics = RunningMetrics(window)
    for piece in pieces(labels.size, cuts):
        metrics.add(labels[piece], scores[piece])
        if not piece.stop:
            continue
        first = 0 if window is None else max(0, piece.stop - window)
        truth, said = labels[first : piece.stop], scores[first : piece.stop]
        found = metrics.evaluation
        assert found.rows == metrics.rows == truth.size
        clipped = np.clip(said, 1e-15, 1 - 1e-15)
        loss = log_loss(truth, clipped, labels=[0, 1])
        assert found.log_loss == pytest.approx(loss, rel=1e-12, abs=1e-15)
        assert found.brier == pytest.approx(brier_score_loss(truth, said), rel=1e-12, abs=1e-15)
        assert (found.label_rate, found.mean_score) == pytest.approx((truth.mean(), said.mean()), rel=1e-12)
        if len(set(truth)) > 1:
            assert found.auc == pytest.approx(roc_auc_score(truth, said), rel=1e-12, abs=1e-15)
            entropy = log_loss(truth, np.full(truth.size, truth.mean()))
            assert found.normalised_entropy == pytest.approx(loss / entropy, rel=1e-9)
        else:
            assert np.isnan(found.auc)
        share, mean, counted = metrics.calibration()
        their_share, their_mean = calibration_curve(truth, said, n_bins=10)
        np.testing.assert_allclose(share, their_share, rtol=1e-12)
        np.testing.assert_allclose(mean, their_mean, rtol=1e-12, atol=1e-15)
        assert counted.sum() == truth.size


def test_no_class_is_needed_twice_before_there_is_an_area() -> None:
    metrics = RunningMetrics()
    metrics.add(np.array([1.0]), np.array([0.5]))
    assert np.isnan(metrics.evaluation.auc)
    metrics.add(np.array([0.0]), np.array([0.5]))
    assert metrics.evaluation.auc == 0.5

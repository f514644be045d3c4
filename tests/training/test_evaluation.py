"""Figures against scikit-learn, and the scored slice that carries the evidence."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, log_loss

from ml_core.errors import PackageError
from ml_core.training.evaluation import Evaluation, ScoredSlice, row_log_loss


def slice_of(first: int, rows: int, *, parent: bool = True) -> ScoredSlice:
    random = np.random.default_rng(rows)
    labels = random.integers(0, 2, rows).astype(np.float64)
    return ScoredSlice(first, labels, random.random(rows), random.random(rows if parent else 0))


def test_figures_equal_scikit_learns() -> None:
    scored = slice_of(0, 500)
    evaluation = Evaluation.of(scored.labels, scored.scores)
    assert evaluation.log_loss == pytest.approx(log_loss(scored.labels, scored.scores), rel=1e-12)
    assert evaluation.brier == pytest.approx(brier_score_loss(scored.labels, scored.scores), rel=1e-12)
    assert row_log_loss(scored.labels, scored.scores).shape == (500,)


def test_predicting_the_base_rate_has_a_normalised_entropy_of_one() -> None:
    labels = np.array([0.0, 0.0, 0.0, 1.0])
    assert Evaluation.of(labels, np.full(4, 0.25)).normalised_entropy == pytest.approx(1.0)


def test_one_class_alone_gives_no_auc_and_logs_no_figure_for_it() -> None:
    """MLflow would store a NaN as a metric and every plot of it would break."""
    evaluation = Evaluation.of(np.zeros(3), np.full(3, 0.1))
    assert np.isnan(evaluation.auc)
    assert "auc" not in evaluation.figures()


def test_a_slice_is_cut_by_offsets_not_by_positions() -> None:
    scored = slice_of(100, 50)
    cut = scored.between(90, 120)
    assert (cut.first, cut.next) == (100, 120)
    np.testing.assert_array_equal(cut.scores, scored.scores[:20])
    np.testing.assert_array_equal(cut.parent_scores, scored.parent_scores[:20])
    assert scored.last(10).first == 140
    assert scored.between(200, 300).labels.size == 0


def test_a_saved_slice_is_read_back_bit_for_bit(tmp_path: Path) -> None:
    scored = slice_of(7, 31, parent=False)
    loaded = ScoredSlice.load(scored.save(tmp_path))
    assert loaded.first == 7
    np.testing.assert_array_equal(loaded.labels, scored.labels)
    np.testing.assert_array_equal(loaded.scores, scored.scores)
    assert loaded.parent_scores.size == 0


def test_a_damaged_slice_is_refused_by_name(tmp_path: Path) -> None:
    file = slice_of(0, 5).save(tmp_path)
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(PackageError, match="scored_slice"):
        ScoredSlice.load(file)

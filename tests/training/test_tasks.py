"""Losses and figures under each task, against scikit-learn, and the gate on models of known quality."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, log_loss, mean_absolute_error, mean_squared_error, r2_score

from ml_core.project import GateSettings
from ml_core.training.evaluation import Evaluation, ScoredSlice
from ml_core.training.gate import judge
from ml_core.training.tasks import figures, row_loss, task_of

ROWS = 4_000


def classes(noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels of three classes and what a model says that sees the truth through noise."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 1.5, (ROWS, 3))
    labels = (logits + random.gumbel(size=logits.shape)).argmax(axis=1).astype(np.float64)
    said = np.exp(logits + np.random.default_rng(seed + 1).normal(0, noise, logits.shape) if noise else logits)
    return labels, said / said.sum(axis=1, keepdims=True)


def numbers(noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels of a regression in the hundreds, and what such a model says."""
    random = np.random.default_rng(seed)
    truth = random.normal(300, 80, ROWS)
    return truth + random.normal(0, 20, ROWS), truth + np.random.default_rng(seed + 1).normal(0, noise, ROWS)


def test_each_count_of_classes_is_one_task() -> None:
    assert [task_of(count) for count in (0, 2, 3)] == ["regression", "binary", "multiclass"]


def test_figures_of_several_classes_equal_scikit_learns() -> None:
    labels, scores = classes(0.3)
    shown = figures("multiclass", labels, scores)
    assert shown["loss"] == shown["log_loss"] == pytest.approx(log_loss(labels, scores), rel=1e-12)
    assert shown["accuracy"] == accuracy_score(labels, scores.argmax(axis=1))
    assert row_loss("multiclass", labels, scores).shape == (ROWS,)


def test_figures_of_numbers_equal_scikit_learns() -> None:
    labels, scores = numbers(10)
    shown = figures("regression", labels, scores)
    assert shown["mse"] == pytest.approx(mean_squared_error(labels, scores))
    assert shown["mae"] == pytest.approx(mean_absolute_error(labels, scores))
    assert shown["r2"] == pytest.approx(r2_score(labels, scores))


def test_two_classes_keep_the_figures_they_had() -> None:
    labels = np.array([0.0, 1.0, 1.0, 0.0])
    shown = figures("binary", labels, np.array([0.2, 0.7, 0.9, 0.4]))
    kept = Evaluation.of(labels, np.array([0.2, 0.7, 0.9, 0.4])).figures()
    assert {name: shown[name] for name in kept} == kept
    assert shown["skill_ratio"] == kept["normalised_entropy"]


@pytest.mark.parametrize("task", ["multiclass", "regression"])
def test_the_mean_answer_has_a_skill_ratio_of_one(task: str) -> None:
    if task == "multiclass":
        labels, _ = classes(0)
        mean = np.tile(np.bincount(labels.astype(int)) / ROWS, (ROWS, 1))
    else:
        labels, _ = numbers(0)
        mean = np.full(ROWS, labels.mean())
    shown = figures(task, labels, mean)  # type: ignore[arg-type]  # one of the tasks
    assert shown["skill_ratio"] == pytest.approx(1.0)
    assert shown["calibration_error"] == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(
    ("task", "world", "slight", "heavy"), [("multiclass", classes, 0.05, 1.5), ("regression", numbers, 1.0, 60.0)]
)
def test_the_gate_lets_an_equal_pass_and_refuses_a_degraded_one(task: str, world, slight, heavy) -> None:  # type: ignore[no-untyped-def]
    """The same defaults have to make sense whatever the flow predicts."""
    labels, champion = world(slight)

    def verdict(noise: float, policy: str):  # type: ignore[no-untyped-def]
        scored = ScoredSlice(0, labels, world(noise)[1], np.empty(0), task)  # type: ignore[arg-type]  # one of the tasks
        return judge(GateSettings(), policy, scored, None if policy == "first" else champion)

    assert verdict(slight, "first").accepted
    assert verdict(slight * 1.01, "non-inferiority").accepted
    assert not verdict(heavy, "non-inferiority").accepted
    assert not verdict(slight, "superiority").accepted


@pytest.mark.parametrize(("task", "world"), [("multiclass", classes), ("regression", numbers)])
def test_a_slice_of_any_task_is_read_back_bit_for_bit_and_cut_by_rows(task: str, world, tmp_path) -> None:  # type: ignore[no-untyped-def]
    """Labels that are not 0 or 1 must not be stored as if they were."""
    labels, scores = world(0.1)
    scored = ScoredSlice(5, labels, scores, scores[::-1], task)  # type: ignore[arg-type]  # one of the tasks
    loaded = ScoredSlice.load(scored.save(tmp_path))
    assert loaded.task == task
    np.testing.assert_array_equal(loaded.labels, labels)
    np.testing.assert_array_equal(loaded.last(10).scores, scores[-10:])
    assert loaded.last(10).task == task

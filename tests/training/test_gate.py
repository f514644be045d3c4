"""The gate's verdicts on models whose quality is known because the test made them."""

import re

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import wasserstein_distance
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from ml_core.project import GateSettings
from ml_core.training.evaluation import ScoredSlice
from ml_core.training.gate import judge, score_shift
from ml_core.training.intervals import paired_interval

SETTINGS = GateSettings()
ROWS = 10_000


def world(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels and the probabilities they were drawn from."""
    random = np.random.default_rng(seed)
    truth = 1 / (1 + np.exp(-random.normal(-1.2, 1.0, ROWS)))
    return (random.random(ROWS) < truth).astype(np.float64), truth


def blurred(truth: np.ndarray, seed: int, noise: float) -> np.ndarray:
    """Score that world as a model would: the truth seen through noise on the logit."""
    logit = np.log(truth / (1 - truth)) + np.random.default_rng(seed).normal(0, noise, truth.size)
    return 1 / (1 + np.exp(-logit))


def worse_by(share: float, labels: np.ndarray, champion: np.ndarray, truth: np.ndarray, seed: int) -> np.ndarray:
    """Blur the truth until its log loss on these very rows is that share above the champion's."""
    wanted = (1 + share) * log_loss(labels, champion)
    noise = brentq(lambda noise: log_loss(labels, blurred(truth, seed, noise)) - wanted, 0.1, 3.0, xtol=1e-6)
    scores = blurred(truth, seed, noise)
    assert log_loss(labels, scores) == pytest.approx(wanted, rel=1e-4)
    return scores


def scored(labels: np.ndarray, scores: np.ndarray) -> ScoredSlice:
    return ScoredSlice(0, labels, scores, np.empty(0))


def test_an_equally_good_increment_passes_and_a_degraded_one_is_refused_over_many_seeds() -> None:
    """A gate that turned equals away would freeze the flow; one that let 5 % worse through would be no gate."""
    passed = refused = 0
    for seed in range(100):
        labels, truth = world(seed)
        champion = blurred(truth, seed + 1_000, 0.1)
        equal = blurred(truth, seed + 2_000, 0.1)
        degraded = worse_by(0.05, labels, champion, truth, seed + 3_000)
        passed += judge(SETTINGS, "non-inferiority", scored(labels, equal), champion).accepted
        refused += not judge(SETTINGS, "non-inferiority", scored(labels, degraded), champion).accepted
    assert passed >= 95
    assert refused >= 95


def test_a_full_retrain_that_is_only_as_good_does_not_replace_the_champion() -> None:
    """Superiority means the whole interval lies below zero."""
    labels, truth = world(7)
    verdict = judge(SETTINGS, "superiority", scored(labels, blurred(truth, 1, 0.1)), blurred(truth, 2, 0.1))
    assert not verdict.accepted
    assert "superiority" in verdict.reasons[0]


def test_a_clearly_better_full_retrain_replaces_the_champion() -> None:
    labels, truth = world(7)
    verdict = judge(SETTINGS, "superiority", scored(labels, truth), blurred(truth, 2, 0.9))
    assert verdict.accepted
    assert verdict.figures["log_loss_difference_upper"] < 0


def test_a_majority_class_model_is_refused_as_a_first_version() -> None:
    """On skewed data its accuracy is high; its log loss is that of knowing nothing."""
    labels, _ = world(3)
    verdict = judge(SETTINGS, "first", scored(labels, np.full(ROWS, labels.mean())), None)
    assert not verdict.accepted
    assert "normalised entropy" in verdict.reasons[0]


def test_a_single_nan_among_the_judged_rows_refuses_the_challenger() -> None:
    labels, truth = world(4)
    truth[ROWS // 2] = np.nan
    verdict = judge(SETTINGS, "first", scored(labels, truth), None)
    assert not verdict.accepted
    assert "1 of 10000 scores are not finite" in verdict.reasons[0]


def test_too_few_rows_refuse_even_a_perfect_challenger() -> None:
    labels, truth = world(5)
    verdict = judge(SETTINGS, "first", scored(labels[:500], truth[:500]), None)
    assert verdict.reasons == ("judged on 500 rows, at least 1000 wanted",)


def test_a_miscalibrated_challenger_is_refused_whatever_its_ranking() -> None:
    labels, truth = world(6)
    verdict = judge(SETTINGS, "first", scored(labels, truth**0.2), None)
    assert any("mean score and label rate" in reason for reason in verdict.reasons)


def test_a_leaked_model_whose_held_out_loss_is_worse_is_refused() -> None:
    """It learned a feature that was written after the outcome; when the gate's rows are scored nobody knows it yet."""
    labels, truth = world(8)
    honest, half = np.log(truth / (1 - truth)), ROWS // 2
    afterwards = np.where(np.arange(ROWS) < half, labels + np.random.default_rng(1).normal(0, 0.3, ROWS), 0.0)
    leaky = np.stack([honest, afterwards], axis=1)
    model = LogisticRegression().fit(leaky[:half], labels[:half])
    learned = model.predict_proba(leaky)[:, 1]
    assert log_loss(labels[:half], learned[:half]) < 0.5 * log_loss(labels[:half], truth[:half])
    champion = blurred(truth, 2, 0.1)[half:]
    verdict = judge(SETTINGS, "superiority", scored(labels[half:], learned[half:]), champion)
    assert not verdict.accepted
    assert verdict.figures["log_loss_difference_lower"] > 0


def test_a_challenger_whose_scores_are_spread_otherwise_is_refused() -> None:
    """Whoever acts on a threshold would act on other rows overnight."""
    labels, truth = world(9)
    settings = SETTINGS.model_copy(update={"max_score_shift": 0.05})
    verdict = judge(settings, "superiority", scored(labels, truth), np.full(ROWS, labels.mean()))
    assert verdict.figures["score_shift"] == pytest.approx(wasserstein_distance(truth, [labels.mean()]))
    assert [reason for reason in verdict.reasons if "are spread" in reason] == list(verdict.reasons)
    two_classes = np.stack([truth, 1 - truth], axis=1)
    assert score_shift(scored(labels, two_classes), two_classes[::-1]) == 0.0


def test_a_challenger_slower_than_its_budget_is_refused() -> None:
    labels, truth = world(10)
    assert judge(SETTINGS, "first", scored(labels, truth), None, latency_ms=50.0).accepted
    verdict = judge(SETTINGS, "first", scored(labels, truth), None, latency_ms=50.1)
    assert verdict.reasons == ("a row takes 50.1 ms, at most 50 ms allowed",)


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_the_paired_interval_covers_the_true_mean_as_often_as_it_says(confidence: float) -> None:
    """Rows are made dependent on purpose: an interval that took them for independent would be far too narrow."""
    random = np.random.default_rng(11)
    covered = 0
    for _ in range(200):
        shocks = random.normal(0, 1, 3_004)
        differences = 0.1 + np.convolve(shocks, np.ones(5) / 5, mode="valid")
        lower, upper = paired_interval(differences, confidence=confidence)
        covered += lower <= 0.1 <= upper
    assert covered / 200 > confidence - 0.1


def test_a_gate_on_numbers_names_their_own_loss() -> None:
    """A person who predicts minutes knows of no log loss and of no label rate."""
    random = np.random.default_rng(12)
    labels = random.normal(300, 80, ROWS)
    told = ScoredSlice(0, labels, labels + random.normal(40, 120, ROWS), np.empty(0), "regression")
    mean, first = judge(SETTINGS, "first", told, None).reasons
    assert re.fullmatch(
        r"mean score and mean label differ by 0\.\d+ standard deviations of the labels, at most 0.1 allowed", mean
    )
    assert first.startswith("squared error over the variance of the labels 2.")
    verdict = judge(SETTINGS, "superiority", told, told.scores)
    assert verdict.reasons[-1] == (
        "squared error over the variance of the labels may exceed the champion's by 0 (upper end of the 95% interval),"
        " less than 0 wanted for superiority"
    )
    assert {"champion_loss", "loss_difference_lower", "loss_difference_upper"} < verdict.figures.keys()

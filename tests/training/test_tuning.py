"""Tuning in one pass: each candidate is what it would be alone, and the best one is really the best."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import log_loss

from ml_core.errors import DataError, ProjectError
from ml_core.pipeline import PipelineModel
from ml_core.pipeline.sidebyside import SideBySide
from ml_core.project import PipelineSettings
from ml_core.training import passes
from ml_core.training.tuning import grid_of, tune
from tests.training.test_lineage import Story

STAGES = (
    {"stage": "hash", "columns": ["shop"], "bits": 8},
    {"stage": "standardise", "columns": ["recent_days"]},
)
ESTIMATORS = {
    "binary": [
        {"name": "FTRLClassifier", "alpha": 0.05},
        {"name": "FTRLClassifier", "l1": 0.5, "optimizer": "adagrad"},
        {"name": "FMClassifier", "n_factors": 2},
    ],
    "multiclass": [{"name": "FTRLClassifier", "n_classes": 3, "alpha": alpha} for alpha in (0.05, 0.5)],
    "regression": [{"name": "FTRLRegressor", "alpha": alpha} for alpha in (0.05, 0.5)],
}


@pytest.fixture
def story(tmp_path: Path) -> Story:
    made = Story(tmp_path)
    made.live(3)
    return made


@pytest.mark.parametrize("task", list(ESTIMATORS))
def test_each_model_ends_with_the_bits_it_would_have_alone(story: Story, task: str) -> None:
    schema = story.store.schema()
    settings = [PipelineSettings(stages=STAGES, estimator=each) for each in ESTIMATORS[task]]
    together = SideBySide([PipelineModel.build(each, schema) for each in settings])
    batches = list(story.store.example_batches(0, 360, rows=100))
    said = [scores for _, scores in together.learn(batches)]
    for place, each in enumerate(settings):
        alone = PipelineModel.build(each, schema)
        scores = [alone.learn(batch, batch.column("label").to_numpy(zero_copy_only=False)) for batch in batches]
        assert together.models[place].state_digest() == alone.state_digest()
        assert np.array_equal(np.concatenate([part[place] for part in said]), np.concatenate(scores))


def test_the_ranking_is_that_of_the_prequential_losses_of_each_alone(story: Story) -> None:
    grid = grid_of(story.flow, story.store, {"alpha": [0.01, 0.3], "l2": [0.0, 5.0]})
    ranked = tune(story.flow, story.store, grid)
    pairs = [{}, *({"alpha": alpha, "l2": l2} for alpha in (0.01, 0.3) for l2 in (0.0, 5.0))]
    assert sorted((dict(each.changed) for each in ranked), key=lambda changed: list(changed.values())) == pairs
    for each in ranked:
        estimator = {**story.flow.pipeline.estimator, **each.changed}
        settings = story.flow.pipeline.model_copy(update={"estimator": estimator})
        alone = passes.learn(PipelineModel.build(settings, story.store.schema()), story.store, 0, 360)
        assert each.loss == pytest.approx(log_loss(alone.labels, alone.scores), rel=1e-12)
        assert each.late_loss == pytest.approx(log_loss(alone.labels[180:], alone.scores[180:]), rel=1e-12)
    assert [each.loss for each in ranked] == sorted(each.loss for each in ranked)


def test_only_the_newest_rows_may_be_asked_for(story: Story) -> None:
    (newest,) = tune(story.flow, story.store, [{}], newest=100)
    alone = passes.learn(passes.build(story.flow, story.store), story.store, 260, 360)
    assert newest.loss == pytest.approx(log_loss(alone.labels, alone.scores), rel=1e-12)


def test_without_values_the_learning_rate_is_varied_around_the_flows_own(story: Story) -> None:
    own = float(PipelineModel.build(story.flow.pipeline, story.store.schema()).head.settings()["alpha"])
    grid = grid_of(story.flow, story.store, {})
    assert [each.get("alpha", own) / own for each in grid] == pytest.approx([1.0, 0.25, 0.5, 2.0, 4.0])


def test_a_candidate_that_diverges_is_told_apart_and_the_others_go_on(story: Story) -> None:
    settings = story.flow.pipeline.model_copy(update={"estimator": {"name": "FTRLRegressor", "optimizer": "sgd"}})
    flow = story.flow.model_copy(update={"pipeline": settings})
    best, *_, worst = tune(flow, story.store, [{"alpha": 0.01}, {"alpha": 1e200}])
    assert (best.changed, best.failure) == ({"alpha": 0.01}, "")
    assert np.isfinite(best.loss)
    assert worst.loss == float("inf")
    assert worst.failure


def test_what_cannot_be_tuned_says_why(story: Story, tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match="no parameter 'alhpa'"):
        tune(story.flow, story.store, [{"alhpa": 1.0}])
    batch = {"name": "sklearn.linear_model.LogisticRegression"}
    flow = story.flow.model_copy(update={"pipeline": story.flow.pipeline.model_copy(update={"estimator": batch})})
    with pytest.raises(ProjectError, match="only what learns row by row can learn side by side"):
        tune(flow, story.store, [{}])
    with pytest.raises(DataError, match="found none"):
        tune(story.flow, Story(tmp_path / "empty").store, [{}])

"""How versions follow each other where parts come from other libraries: exactly, as far as a library goes, or anew."""

import itertools
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pytest

from ml_core.errors import ProjectError
from ml_core.flow.version import ModelVersion
from ml_core.pipeline import PipelineModel
from ml_core.training import judge_and_promote, train_full, train_increment
from tests.training.test_lineage import Story

SEED = [
    {"stage": "impute", "columns": ["recent_days"], "indicator": False},
    {"stage": "sklearn.preprocessing.StandardScaler", "columns": ["recent_days"], "policy": "frozen"},
    {"stage": "sklearn.preprocessing.OneHotEncoder", "columns": ["shop"], "policy": "frozen"},
]
LOGISTIC = {"name": "sklearn.linear_model.LogisticRegression"}
TREES = {"name": "lightgbm.LGBMClassifier", "n_estimators": 5, "min_child_samples": 5}
PLAIN = [
    {"stage": "passthrough", "columns": ["recent_days"]},
    {"stage": "onehot", "columns": ["shop"], "cap": 4},
]


def story_of(root: Path, stages: list[dict[str, Any]], estimator: dict[str, Any], **incremental: Any) -> Story:
    """Return a story whose flow has this pipeline, after two days."""
    story = Story(root)
    changed = {"pipeline": {"stages": stages, "estimator": estimator}, "incremental_training": incremental}
    flow = type(story.flow).model_validate(story.flow.model_dump() | changed)
    story.flow = flow.model_copy(update={"name": "orders"})
    story.live(2)
    return story


def accepted(story: Story, version: ModelVersion | None) -> ModelVersion:
    assert version is not None
    assert judge_and_promote(story.flow, story.registry, version).accepted
    return version


def lineage(story: Story, increments: int) -> list[ModelVersion]:
    """Train in full, then so many increments of a day each; all are accepted."""
    versions = [accepted(story, train_full(story.flow, story.store, story.registry))]
    for _ in range(increments):
        story.live()
        versions.append(accepted(story, train_increment(story.flow, story.store, story.registry)))
    return versions


def test_a_flow_that_cannot_continue_is_refused_before_it_is_trained(tmp_path: Path) -> None:
    """With the part in the way and both remedies, not as a failure on the second night."""
    story = story_of(tmp_path, SEED, LOGISTIC)
    with pytest.raises(ProjectError, match=r'LogisticRegression.*start_from.*policy = "refit"'):
        train_full(story.flow, story.store, story.registry)


def test_a_refitted_flow_learns_its_window_and_says_so(tmp_path: Path) -> None:
    """The new version is the batch fit of the window; the parent's graph is all that is needed of it."""
    story = story_of(tmp_path, SEED, LOGISTIC, policy="refit", window="30 hours")
    first, second = lineage(story, 1)
    assert (first.way, second.way, second.kind, second.parent) == ("refit", "refit", "incremental", 1)
    assert (first.watermark, second.watermark, second.metrics["slice_rows"]) == (240, 360, 120)
    newest = story.store.examples(359, 360).column("labelled_at")[0].as_py()
    start = story.store.offset_at(newest - story.flow.incremental_training.window)
    assert 0 < start < 240
    window = story.store.examples(start, 360)
    expected = PipelineModel.build(story.flow.pipeline, story.store.schema())
    expected.fit(window, window.column("label").to_numpy())
    assert story.digest(second, tmp_path) == expected.state_digest()


def test_a_forest_keeps_only_its_graph_and_is_refitted(tmp_path: Path) -> None:
    """Nothing of it has a form without pickle, and nothing else is needed."""
    forest = {"name": "sklearn.ensemble.RandomForestClassifier", "n_estimators": 5, "max_depth": 3, "random_state": 0}
    versions = lineage(story_of(tmp_path, PLAIN, forest, policy="refit"), 2)
    assert [version.way for version in versions] == ["refit"] * 3


def test_trees_go_on_from_their_parents_trees(tmp_path: Path) -> None:
    """LightGBM's own continuation; what was scored was scored before it was learned."""
    story = story_of(tmp_path, PLAIN, TREES)
    versions = lineage(story, 2)
    assert {version.way for version in versions} == {"continued"}
    grown = []
    for version in versions:
        with story.registry.proved(version) as package:
            arrays = PipelineModel.load(package.directory / "state", story.flow.pipeline).head.arrays()
        grown.append(lightgbm.Booster(model_str=arrays["text"].tobytes().decode()))
    # an increment is learned in two halves, so that the second one judges what the first one taught
    assert [booster.num_trees() for booster in grown] == [5, 15, 25]
    rows = np.random.default_rng(0).normal(size=(50, 6))
    for before, after in itertools.pairwise(grown):
        same = after.predict(rows, num_iteration=before.num_trees(), raw_score=True)
        np.testing.assert_array_equal(before.predict(rows, raw_score=True), same)


def test_an_online_learner_takes_over_from_a_batch_fit(tmp_path: Path) -> None:
    """The seed pipeline kept fresh: the batch model's own scores until the first new example, exact from then on."""
    online = {"name": "FTRLClassifier", "start_from": LOGISTIC}
    cut = story_of(tmp_path / "cut", SEED, online)
    versions = lineage(cut, 2)
    assert {version.way for version in versions} == {"online"}
    batch = PipelineModel.build(cut.flow.pipeline.model_copy(update={"estimator": LOGISTIC}), cut.store.schema())
    with cut.registry.proved(versions[0]) as package:
        begun = PipelineModel.load(package.directory / "state", cut.flow.pipeline)
    assert begun.n_trained == 240
    learned = cut.store.examples(0, 180)
    batch.fit(learned, learned.column("label").to_numpy())
    new = PipelineModel.build(cut.flow.pipeline, cut.store.schema())
    new.fit(learned, learned.column("label").to_numpy())
    rest = cut.store.examples(180, 240)
    assert np.abs(batch.predict(rest) - new.predict(rest)).max() < 1e-9
    new.learn(rest, rest.column("label").to_numpy())
    assert new.state_digest() == begun.state_digest()
    later = cut.store.examples(240, 480)
    new.learn(later, later.column("label").to_numpy())
    assert cut.digest(versions[2], tmp_path) == new.state_digest()

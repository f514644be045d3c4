"""Training in shards, its tasks run in this process: the same bits in sequence, and evidence that stays honest."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ml_core.data.spark import tasks
from ml_core.errors import InputError, ProjectError
from ml_core.flow.version import ModelVersion
from ml_core.pipeline import PipelineModel
from ml_core.training import judge_and_promote, spark, train_full, train_increment
from ml_core.training.evaluation import evidence_of
from ml_core.training.rebasing import catch_up
from ml_core.training.reproducing import reproduce
from tests.training.test_lineage import Story

STAGES = [
    {"stage": "onehot", "columns": ["shop"], "cap": 4},
    {"stage": "standardise", "columns": ["recent_days"]},
]
ESTIMATOR = {"name": "FTRLClassifier", "alpha": 0.3}
SEQUENTIAL = {"mode": "sequential", "shard_rows": 70}
NOTHING = {"min_rows": 0, "max_rows": 0}
AVERAGE = {"mode": "average", "shards": 3, "shard_rows": 40}


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Run tasks in this process, on copies of what is sent and returned; return how many each job had."""
    jobs: list[int] = []

    def run(data: object, function: Any, shared: Any, pieces: Any) -> Any:
        del data
        jobs.append(len(pieces))
        return [copy.deepcopy(function(*copy.deepcopy((shared, piece)))) for piece in pieces]

    monkeypatch.setattr(tasks, "run", run)
    return jobs


def story_of(root: Path, settings: dict[str, Any] | None, **pipeline: Any) -> Story:
    """Return a story whose flow trains on Spark as `settings` say, or not at all, after three days of 120 rows."""
    story = Story(root)
    changed = {"pipeline": {"stages": STAGES, "estimator": ESTIMATOR} | pipeline, "spark_training": settings}
    flow = type(story.flow).model_validate(story.flow.model_dump() | changed)
    story.flow = flow.model_copy(update={"name": "orders"})
    story.live(3)
    return story


def full(story: Story) -> ModelVersion:
    return train_full(story.flow, story.store, story.registry)


def accepted_full(story: Story) -> ModelVersion:
    version = full(story)
    assert judge_and_promote(story.flow, story.registry, version).accepted
    return version


def increment(story: Story) -> ModelVersion:
    version = train_increment(story.flow, story.store, story.registry)
    assert version is not None
    return version


def tags(story: Story, version: ModelVersion) -> dict[str, str]:
    from mlflow import MlflowClient

    client = MlflowClient(story.registry.tracking_uri)
    return dict(client.get_model_version("orders", str(version.version)).tags)


def lineage(story: Story) -> list[ModelVersion]:
    """Train in full, then two increments; nothing is left in the folder that Spark reads."""
    versions = [accepted_full(story)]
    for _ in range(2):
        story.live()
        versions.append(increment(story))
        assert judge_and_promote(story.flow, story.registry, versions[-1]).accepted
    folder = story.store.spark_folder
    assert not folder.exists() or not list(folder.iterdir())
    return versions


def test_in_sequence_a_lineage_has_the_bits_and_the_evidence_of_a_training_without_spark(tmp_path: Path) -> None:
    """A flow may be moved to Spark, and back, at any time."""
    ours, plain = story_of(tmp_path / "ours", SEQUENTIAL), story_of(tmp_path / "plain", None)
    for one, other in zip(lineage(ours), lineage(plain), strict=True):
        assert ours.digest(one, tmp_path / "a") == plain.digest(other, tmp_path / "b")
        assert one.manifest_sha256 == other.manifest_sha256
        assert (one.way, one.watermark, one.metrics) == (other.way, other.watermark, other.metrics)
        said, theirs = evidence_of(ours.registry, one), evidence_of(plain.registry, other)
        assert said.first == theirs.first
        np.testing.assert_array_equal(said.labels, theirs.labels)
        np.testing.assert_array_equal(said.scores, theirs.scores)
        np.testing.assert_array_equal(said.parent_scores, theirs.parent_scores)
        assert tags(ours, one)["spark_training"] == "sequential"
        assert "spark_training" not in tags(plain, other)


def test_averaged_the_evidence_is_what_the_published_model_said_of_rows_no_shard_had_seen(
    tmp_path: Path, here: list[int]
) -> None:
    """Learn everything before the rows held back, and nothing of them: the next scores are the evidence."""
    story = story_of(tmp_path, AVERAGE)
    version = full(story)
    said = evidence_of(story.registry, version)
    assert (said.first, said.labels.size, version.watermark) == (270, 90, 360)
    assert here == [1, 3, 3, 1, 1, 1]  # in sequence to begin with, two groups of three shards, then those held back
    new = PipelineModel.build(story.flow.pipeline, story.store.schema())
    nothing_held = story.flow.model_copy(update={"gate": story.flow.gate.model_copy(update=NOTHING)})
    before, _ = spark.learn(nothing_held, story.store, new, 0, 270)
    assert before.n_trained == 270
    held = story.store.examples(270, 360)
    np.testing.assert_array_equal(said.scores, before.learn(held, held.column("label").to_numpy()))
    assert before.state_digest() == story.digest(version, tmp_path)
    assert tags(story, version)["spark_training"] == "average"
    assert version.metrics["slice_rows"] == 90


def test_averaged_the_same_rows_give_the_same_bits(tmp_path: Path) -> None:
    story = story_of(tmp_path, AVERAGE)
    once, again = full(story), full(story)
    assert once.manifest_sha256 == again.manifest_sha256


def test_averaged_an_increment_continues_at_the_watermark_and_is_held_against_its_parent(tmp_path: Path) -> None:
    story = story_of(tmp_path, AVERAGE)
    first, second, third = lineage(story)
    assert [version.watermark for version in (first, second, third)] == [360, 480, 600]
    assert (second.parent, third.parent) == (1, 2)
    said = evidence_of(story.registry, third)
    assert (said.first, said.parent_scores.size) == (550, 50)  # a quarter would be less than the gate wants
    package = story.registry.download(second, tmp_path / "parent")
    parent = PipelineModel.load(package / "state", story.flow.pipeline)
    np.testing.assert_array_equal(said.parent_scores, parent.predict(story.store.examples(550, 600)))
    kept = PipelineModel.load(story.registry.download(third, tmp_path / "child") / "state", story.flow.pipeline)
    assert kept.n_trained == 600


def test_averaged_what_the_stages_count_is_what_one_pass_counts(tmp_path: Path) -> None:
    """Only weights depend on where rows were cut."""
    ours, plain = story_of(tmp_path / "ours", AVERAGE), story_of(tmp_path / "plain", None)
    averaged, whole = (
        PipelineModel.load(story.registry.download(full(story), tmp_path / name) / "state", story.flow.pipeline)
        for name, story in (("a", ours), ("b", plain))
    )
    assert averaged.stages[0].vocabularies == whole.stages[0].vocabularies
    np.testing.assert_allclose(averaged.stages[1].moments, whole.stages[1].moments, rtol=1e-12)
    assert averaged.n_trained == whole.n_trained


def test_rows_come_in_order_until_a_frozen_stage_is_settled(tmp_path: Path, here: list[int]) -> None:
    """Its statistics are those of the first rows, whoever learns them."""
    frozen = [STAGES[0], STAGES[1] | {"policy": "frozen", "rows": 100}]
    story = story_of(tmp_path, AVERAGE, stages=frozen)
    full(story)
    assert here == [1, 1, 1, 3, 1, 1, 1, 1]


def test_an_averaged_version_cannot_be_made_again_from_examples_alone_nor_can_its_children(tmp_path: Path) -> None:
    """Its child, trained without Spark, would otherwise seem to differ from itself."""
    story = story_of(tmp_path, AVERAGE)
    version = accepted_full(story)
    assert version.way == "continued"
    story.flow = story.flow.model_copy(update={"spark_training": None})
    story.live()
    child = increment(story)
    assert child.way == "online"
    for each in (version, child):
        with pytest.raises(ProjectError, match="version 1 is continued; only versions of an online lineage"):
            reproduce(story.flow, story.store, story.registry, each)


def test_an_averaged_retrain_that_was_left_behind_is_continued_and_says_so(tmp_path: Path) -> None:
    story = story_of(tmp_path, AVERAGE)
    version = full(story)
    story.live()
    later = catch_up(story.flow, story.store, story.registry, version, stop=480)
    assert (later.watermark, later.way, tags(story, later)["spark_training"]) == (480, "continued", "average")
    assert evidence_of(story.registry, later).labels.size == 90 + 120


def test_a_full_training_catches_up_with_the_head_in_order(tmp_path: Path) -> None:
    """What the champion had learned beyond the window is learned, too, and judged whole."""
    story = story_of(tmp_path, AVERAGE)
    accepted_full(story)
    early = story.store.examples(240, 241).column("labelled_at")[0].as_py()
    again = train_full(story.flow, story.store, story.registry, until=early)
    said = evidence_of(story.registry, again)
    assert again.watermark == 360
    assert (said.first, said.labels.size) == (180, 180)


@pytest.mark.parametrize(
    ("settings", "pipeline", "named"),
    [
        (AVERAGE, {"estimator": {"name": "FMClassifier"}}, "orders.*'FMClassifier' cannot be averaged.*sequential"),
        (
            AVERAGE,
            {"stages": [{"stage": "hash", "columns": ["shop"], "bits": 4, "count_collisions": True}]},
            r"stages\[0\] 'hash' cannot be averaged.*sequential",
        ),
        (
            SEQUENTIAL,
            {"stages": [STAGES[0], {"stage": "sklearn.preprocessing.StandardScaler", "columns": ["recent_days"]}]},
            "'sklearn.preprocessing.StandardScaler', which is fitted on all rows.*remove the table spark_training",
        ),
        (
            SEQUENTIAL,
            {"estimator": {"name": "lightgbm.LGBMClassifier", "n_estimators": 2}},
            "'lightgbm.LGBMClassifier', which is fitted on all rows",
        ),
    ],
    ids=["factors", "collisions", "scaler", "trees"],
)
def test_a_part_that_cannot_is_refused_by_name_before_anything_runs(
    tmp_path: Path, here: list[int], settings: dict[str, Any], pipeline: dict[str, Any], named: str
) -> None:
    story = story_of(tmp_path, settings, **pipeline)
    with pytest.raises(ProjectError, match=named):
        full(story)
    assert here == []


def test_factors_are_learned_in_sequence(tmp_path: Path) -> None:
    """What cannot be averaged can still be handed on."""
    machine = {"estimator": {"name": "FMClassifier", "n_factors": 2}}
    ours, plain = story_of(tmp_path / "a", SEQUENTIAL, **machine), story_of(tmp_path / "b", None, **machine)
    assert full(ours).manifest_sha256 == full(plain).manifest_sha256


def test_rows_that_the_model_refuses_end_the_training_with_their_offsets(tmp_path: Path) -> None:
    """As a value from the task, so that no other executor tries them again."""
    story = story_of(tmp_path, SEQUENTIAL, estimator={"name": "FTRLRegressor", "alpha": 1e200, "beta": 0.0})
    with pytest.raises(InputError, match=r"orders: examples \[\d+, \d+\): learning diverged"):
        full(story)
    assert not list(story.store.spark_folder.iterdir())

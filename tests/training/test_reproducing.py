"""Training as of a past day: the version of that day, bit for bit, whatever became known since."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from ml_core.errors import ProjectError, StateError
from ml_core.training import train_full
from ml_core.training.reproducing import reproduce
from tests.data.conftest import arrived, ordered
from tests.training.test_lineage import Story
from tests.training.test_rollback import learn


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    """Return a story of four versions, one of them rolled back past, and of what became known since."""
    story = Story(tmp_path_factory.mktemp("story"))
    versions = [learn(story, 2), learn(story, 1), learn(story, 1)]
    story.registry.rollback("orders", to=2, why="a broken feed", resume_at=versions[-1].watermark)
    learn(story, 1)
    clock = story.store.progress().clock
    assert clock is not None
    story.store.log.append("ordered", ordered(("late", "north", 10, 10)), through=clock + timedelta(hours=1))
    story.store.log.append("arrived", arrived(("late", "north", 3, 20)), through=clock + timedelta(hours=1))
    assert story.store.absorb().late_facts == 2
    story.live(2)
    story.store.rebuild()
    return story


def test_every_version_of_a_lineage_is_made_again_bit_for_bit_from_examples_alone(story: Story) -> None:
    """Though days passed, late facts came in, a version was rolled back, and the feature table was built anew."""
    versions = story.registry.versions("orders")
    assert len(versions) == 4
    for version in versions:
        made = reproduce(story.flow, story.store, story.registry, version)
        assert made.differs == {}
        assert made.manifest_sha256 == version.manifest_sha256
    assert [stop - first for first, stop in made.learned] == [240, 120, 120], "the rows that were skipped stay out"


@pytest.mark.slow
def test_a_full_training_until_a_past_day_is_the_version_of_that_day(tmp_path: Path) -> None:
    then, now = Story(tmp_path / "then"), Story(tmp_path / "now")
    then.live(3)
    of_that_day = train_full(then.flow, then.store, then.registry)
    now.live(6)
    as_of = train_full(now.flow, now.store, now.registry, until=then.store.progress().clock)
    assert as_of.watermark == of_that_day.watermark
    assert as_of.manifest_sha256 == of_that_day.manifest_sha256


def test_other_features_or_another_pipeline_are_named_before_anything_is_trained(story: Story) -> None:
    version = story.registry.version("orders", 1)
    other = story.flow.pipeline.model_copy(update={"estimator": {**story.flow.pipeline.estimator, "alpha": 0.3}})
    with pytest.raises(StateError, match="version 1 was trained with the pipeline at"):
        reproduce(story.flow.model_copy(update={"pipeline": other}), story.store, story.registry, version)
    with pytest.raises(StateError, match=r"trained with features\.sql at .* check that revision"):
        reproduce(story.flow, story.store, story.registry, replace(version, feature_fingerprint="0" * 64))


def test_what_a_library_fits_in_batch_is_refused(story: Story) -> None:
    version = replace(story.registry.version("orders", 1), way="refit")
    with pytest.raises(ProjectError, match="only versions of an online lineage"):
        reproduce(story.flow, story.store, story.registry, version)


def test_a_version_whose_examples_were_changed_is_told_apart_by_file(story: Story) -> None:
    """The comparison can fail: one label turned round changes state, graph and golden rows."""
    turn = 'update examples set label = 1 - label where "offset" = 7'
    for differs in (True, False):
        with story.store.session(), story.store.reading() as connection:
            connection.execute(turn)
        made = reproduce(story.flow, story.store, story.registry, story.registry.version("orders", 1))
        assert ("model.onnx" in made.differs) is differs is not made.same

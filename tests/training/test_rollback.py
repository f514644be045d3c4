"""Rolling back: what is trained afterwards, and when it happens by itself."""

from pathlib import Path

import numpy as np
import pytest

from ml_core.flow.version import ModelVersion
from ml_core.pipeline import PipelineModel
from ml_core.training import train_full, train_increment
from ml_core.training.gate import judge_and_promote
from ml_core.training.live import WHO, broken, roll_back_if_worse
from tests.training.test_lineage import Story


def learn(story: Story, days: int) -> ModelVersion:
    """Let days pass, then train what the flow is due, and promote it."""
    story.live(days)
    if story.registry.head("orders") is None:
        version: ModelVersion | None = train_full(story.flow, story.store, story.registry)
    else:
        version = train_increment(story.flow, story.store, story.registry)
    assert version is not None
    assert judge_and_promote(story.flow, story.registry, version).accepted
    return story.registry.version("orders", version.version)


def test_after_a_rollback_training_goes_on_bit_for_bit_as_if_the_rest_had_never_been(tmp_path: Path) -> None:
    """The weights are those of a flow that went from that version straight on."""
    story, never = Story(tmp_path / "rolled-back"), Story(tmp_path / "never")
    for each in (story, never):
        learn(each, 2)
        learn(each, 1)
    learn(story, 1)
    learn(story, 1)
    story.registry.rollback("orders", to=2, why="late planes")
    again = learn(story, 1)
    straight = learn(never, 3)
    assert (again.parent, again.watermark) == (straight.parent, straight.watermark) == (2, 720)
    assert story.digest(again, tmp_path / "a") == never.digest(straight, tmp_path / "b")


def test_after_a_rollback_training_may_go_on_from_a_chosen_point(tmp_path: Path) -> None:
    story = Story(tmp_path)
    learn(story, 2)
    second = learn(story, 1)
    third = learn(story, 1)
    story.registry.rollback("orders", to=2, why="a broken feed", resume_at=third.watermark)
    again = learn(story, 1)
    assert (again.parent, again.watermark, again.metrics["slice_rows"]) == (2, 600, 120)

    package = story.registry.download(second, tmp_path / "second")
    model = PipelineModel.load(package / "state", story.flow.pipeline)
    for batch in story.store.example_batches(third.watermark, 600):
        model.learn(batch, batch.column("label").to_numpy(zero_copy_only=False))
    assert story.digest(again, tmp_path / "again") == model.state_digest()


def test_a_champion_that_proves_worse_on_live_labels_is_rolled_back_by_itself(tmp_path: Path) -> None:
    """The world turns round for a day, the gate judges on that day, and the labels after it tell."""
    story = Story(tmp_path)
    first = learn(story, 6)
    story.live(2, late={"north": 0.1, "south": 0.9})
    turned = train_increment(story.flow, story.store, story.registry)
    assert turned is not None
    judge_and_promote(story.flow, story.registry, turned)
    assert roll_back_if_worse(story.flow, story.store, story.registry) is None, "nothing was labelled since"
    story.live(2)
    entry = roll_back_if_worse(story.flow, story.store, story.registry)
    assert entry is not None
    assert (entry.kind, entry.before, entry.champion, entry.who) == ("rollback", turned.version, first.version, WHO)
    assert "the loss of version 2 exceeds that of version 1" in entry.why
    assert roll_back_if_worse(story.flow, story.store, story.registry) is None, "once is enough"
    head = story.registry.head("orders")
    assert head is not None
    assert head.version == first.version


def test_what_a_person_forced_is_not_rolled_back_by_itself(tmp_path: Path) -> None:
    story = Story(tmp_path)
    learn(story, 6)
    story.live(2, late={"north": 0.1, "south": 0.9})
    turned = train_increment(story.flow, story.store, story.registry)
    assert turned is not None
    story.registry.force_promote("orders", turned.version, reason="the world has turned round")
    story.live(2)
    assert roll_back_if_worse(story.flow, story.store, story.registry) is None
    assert story.registry.version("orders", turned.version).stage == "Production"


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2, 3, 4))])
def test_a_champion_as_good_as_before_stays_and_one_that_is_not_finite_goes(tmp_path: Path, seed: int) -> None:
    story = Story(tmp_path)
    version = learn(story, 1)
    random = np.random.default_rng(seed)
    truth = random.uniform(0.1, 0.9, 5_000)
    labels = (random.random(5_000) < truth).astype(np.float64)
    ours, theirs = (np.clip(truth + random.normal(0, 0.02, 5_000), 0.01, 0.99) for _ in range(2))
    assert broken(story.flow, version, version, labels, (ours, theirs)) is None
    ours[17] = np.nan
    found = broken(story.flow, version, version, labels, (ours, theirs))
    assert found is not None
    assert "1 live scores of version 1 are not finite" in found


def test_a_rollback_by_itself_keeps_what_a_person_left_out(tmp_path: Path) -> None:
    story = Story(tmp_path)
    first = learn(story, 2)
    wrong = learn(story, 1)
    story.registry.rollback("orders", to=first.version, why="wrong labels", resume_at=wrong.watermark)
    learn(story, 1)
    story.live()
    strict = story.flow.model_copy(update={"gate": story.flow.gate.model_copy(update={"max_live_regression": -1.0})})
    entry = roll_back_if_worse(strict, story.store, story.registry)
    assert entry is not None
    head = story.registry.head("orders")
    assert head is not None
    assert (head.version, head.next_example) == (first.version, wrong.watermark)

"""Two producers of one flow: one wins, the other is brought up to the new head and judged again; nothing is lost."""

from pathlib import Path

import pytest

from ml_core.training import train_full, train_increment
from ml_core.training.gate import judge_and_promote
from ml_core.training.rebasing import settle
from tests.training.test_lineage import Story


def started(root: Path) -> Story:
    """Two days learned in full, and the second of two increments still to be judged."""
    story = Story(root)
    story.live(2)
    judge_and_promote(story.flow, story.registry, train_full(story.flow, story.store, story.registry))
    return story


def test_an_increment_that_lost_the_race_is_trained_again_from_the_winner(tmp_path: Path) -> None:
    story = started(tmp_path / "raced")
    story.live()
    slow = train_increment(story.flow, story.store, story.registry)
    fast = train_increment(story.flow, story.store, story.registry)
    assert slow is not None
    assert fast is not None
    assert settle(story.flow, story.store, story.registry, fast)[1].accepted
    story.live()
    judged, verdict = settle(story.flow, story.store, story.registry, slow)
    assert verdict.accepted
    assert (judged.parent, judged.watermark) == (fast.version, 480)
    lost = story.registry.version("orders", slow.version)
    assert (lost.stage, lost.verdict and lost.verdict.policy) == ("Archived", "superseded")

    alone = started(tmp_path / "alone")
    for _ in range(2):
        alone.live()
        version = train_increment(alone.flow, alone.store, alone.registry)
        assert version is not None
        judge_and_promote(alone.flow, alone.registry, version)
    assert story.digest(judged, tmp_path / "a") == alone.digest(version, tmp_path / "b")


def test_an_increment_with_nothing_left_to_learn_is_archived_with_the_reason(tmp_path: Path) -> None:
    story = started(tmp_path)
    story.live()
    slow, fast = (train_increment(story.flow, story.store, story.registry) for _ in range(2))
    assert slow is not None
    assert fast is not None
    settle(story.flow, story.store, story.registry, fast)
    judged, verdict = settle(story.flow, story.store, story.registry, slow)
    assert (judged.version, verdict.accepted, verdict.policy) == (slow.version, False, "superseded")
    assert "the head moved on" in verdict.reasons[0]
    head = story.registry.head("orders")
    assert head is not None
    assert head.version == fast.version


@pytest.mark.parametrize("better", [True, False])
def test_a_retrain_that_finished_behind_the_head_learns_the_rest_before_it_is_judged(
    tmp_path: Path, better: bool
) -> None:
    """Promoting it as it was would serve a model that forgot a day."""
    story = started(tmp_path / "behind")
    retrain = train_full(story.flow, story.store, story.registry)
    story.live()
    increment = train_increment(story.flow, story.store, story.registry)
    assert increment is not None
    settle(story.flow, story.store, story.registry, increment)
    margin = -1.0 if better else 1.0  # the same data: neither is better, so the limit decides
    gate = story.flow.gate.model_copy(update={"superiority_margin": margin})
    flow = story.flow.model_copy(update={"gate": gate})
    judged, verdict = settle(flow, story.store, story.registry, retrain)
    assert (judged.kind, judged.watermark, verdict.policy) == ("full", 360, "superiority")
    assert verdict.accepted is better
    assert story.registry.version("orders", retrain.version).stage == "Archived"
    head = story.registry.head("orders")
    assert head is not None
    assert head.version == (judged.version if better else increment.version)

    whole = Story(tmp_path / "whole")
    whole.live(3)
    full = train_full(whole.flow, whole.store, whole.registry)
    assert story.digest(judged, tmp_path / "a") == whole.digest(full, tmp_path / "b")


def test_a_retrain_of_a_refitted_flow_that_finished_behind_is_fitted_anew(tmp_path: Path) -> None:
    """Its state cannot be continued, so it is trained again on everything; what it was before is archived."""

    def refitted(story: Story) -> Story:
        settings = story.flow.incremental_training.model_copy(update={"policy": "refit"})
        gate = story.flow.gate.model_copy(update={"superiority_margin": -1.0})
        story.flow = story.flow.model_copy(update={"incremental_training": settings, "gate": gate})
        return story

    story = refitted(started(tmp_path / "behind"))
    retrain = train_full(story.flow, story.store, story.registry)
    story.live()
    increment = train_increment(story.flow, story.store, story.registry)
    assert increment is not None
    assert increment.way == "refit"
    assert settle(story.flow, story.store, story.registry, increment)[1].accepted
    judged, verdict = settle(story.flow, story.store, story.registry, retrain)
    assert (judged.kind, judged.watermark, verdict.accepted) == ("full", 360, True)
    assert story.registry.version("orders", retrain.version).stage == "Archived"
    whole = refitted(Story(tmp_path / "whole"))
    whole.live(3)
    full = train_full(whole.flow, whole.store, whole.registry)
    assert story.digest(judged, tmp_path / "a") == whole.digest(full, tmp_path / "b")


def test_a_version_that_serves_by_the_time_it_is_settled_stays_as_it_was_judged(tmp_path: Path) -> None:
    """Two processes may see the same version waiting."""
    story = Story(tmp_path)
    story.live(2)
    judge_and_promote(story.flow, story.registry, train_full(story.flow, story.store, story.registry))
    story.live()
    version = train_increment(story.flow, story.store, story.registry)
    assert version is not None
    verdict = judge_and_promote(story.flow, story.registry, version)
    assert verdict.accepted
    assert settle(story.flow, story.store, story.registry, version) == (version, verdict)

"""Every example trains once per lineage: the weights do not depend on where slices were cut, or on what was refused."""

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from ml_core.data import FeatureStore
from ml_core.errors import DataError, HeadMovedError, RegistryError, StateError
from ml_core.flow.registry import Registry
from ml_core.flow.verdict import Verdict
from ml_core.flow.version import ModelVersion
from ml_core.pipeline import PipelineModel
from ml_core.project import Flow
from ml_core.training import judge_and_promote, passes, train_full, train_increment
from tests.data.conftest import FEATURES, arrived, at, ordered, orders_flow
from tests.registries import empty_registry

REFUSED = Verdict(accepted=False, policy="non-inferiority", rows=1, reasons=("a test said so",), figures={})


class Story:
    """A store that is fed day by day, and a registry."""

    def __init__(self, root: Path) -> None:
        root.mkdir(exist_ok=True)
        (root / "features.sql").write_text(FEATURES, encoding="utf-8")
        gate = {
            "min_rows": 50,
            "first_max_normalised_entropy": 1.5,
            "max_calibration_error": 0.5,
            "max_score_shift": 1.0,
        }
        settings = orders_flow().model_dump()
        flow = Flow.model_validate(settings | {"gate": gate | {"non_inferiority_margin": 0.5}})
        self.flow = flow.model_copy(update={"name": "orders"})
        self.store = FeatureStore(self.flow, root=root, home=root / "home")
        self.registry = Registry(empty_registry(root / "mlflow.db"))
        self._day = 0

    def live(self, days: int = 1, rows: int = 120, late: Mapping[str, float] | None = None) -> None:
        """Let days pass: orders of two shops, one of which is late far more often."""
        rates = late or {"north": 0.7, "south": 0.1}
        for _ in range(days):
            random, start = np.random.default_rng(self._day), self._day * 1_440
            minutes = np.sort(random.integers(1, 1_000, rows))
            shops = random.choice(["north", "south"], rows)
            took = np.where(random.random(rows) < np.where(shops == "north", rates["north"], rates["south"]), 5, 1)
            facts = [
                (f"{self._day}-{row}", str(shops[row]), start + int(minutes[row]), int(took[row]))
                for row in range(rows)
            ]
            self._day += 1
            through = at(self._day * 1_440)
            self.store.log.append("ordered", ordered(*((k, s, m, m) for k, s, m, _ in facts)), through=through)
            self.store.log.append("arrived", arrived(*((k, s, d, m + 60) for k, s, m, d in facts)), through=through)
        self.store.absorb()

    def digest(self, version: ModelVersion, scratch: Path) -> str:
        """Return the digest of a version's whole trainer state."""
        package = self.registry.download(version, scratch / f"v{version.version}")
        return PipelineModel.load(package / "state", self.flow.pipeline).state_digest()


@pytest.fixture
def story(tmp_path: Path) -> Story:
    return Story(tmp_path)


def test_weights_do_not_depend_on_where_the_slices_were_cut(tmp_path: Path) -> None:
    """Full training and increments are one pass over one order of examples."""
    cut, whole = Story(tmp_path / "cut"), Story(tmp_path / "whole")
    cut.live(2)
    judge_and_promote(cut.flow, cut.registry, train_full(cut.flow, cut.store, cut.registry))
    for days in (1, 2):
        cut.live(days)
        version = train_increment(cut.flow, cut.store, cut.registry)
        assert version is not None
        assert judge_and_promote(cut.flow, cut.registry, version).accepted
    whole.live(5)
    full = train_full(whole.flow, whole.store, whole.registry)
    head = cut.registry.head("orders")
    assert head is not None
    assert (head.version, head.parent, head.kind) == (3, 2, "incremental")
    assert head.watermark == full.watermark == 600
    assert cut.digest(head, tmp_path) == whole.digest(full, tmp_path)


def test_what_a_refused_version_learned_is_learned_again_by_the_next_child(story: Story) -> None:
    story.live(2)
    judge_and_promote(story.flow, story.registry, train_full(story.flow, story.store, story.registry))
    story.live()
    refused = train_increment(story.flow, story.store, story.registry)
    assert refused is not None
    story.registry.refuse("orders", refused.version, verdict=REFUSED)
    story.live()
    child = train_increment(story.flow, story.store, story.registry)
    assert child is not None
    assert (child.parent, child.watermark) == (1, 480)
    assert child.metrics["slice_rows"] == 240


def test_a_version_published_before_a_crash_and_never_judged_loses_nothing(story: Story, tmp_path: Path) -> None:
    """The head is still its parent: training again gives the same bits."""
    story.live(2)
    judge_and_promote(story.flow, story.registry, train_full(story.flow, story.store, story.registry))
    story.live()
    lost, again = (train_increment(story.flow, story.store, story.registry) for _ in range(2))
    assert lost is not None
    assert again is not None
    assert story.digest(lost, tmp_path) == story.digest(again, tmp_path)
    assert judge_and_promote(story.flow, story.registry, again).accepted


def test_an_increment_judged_after_the_head_moved_is_not_promoted(story: Story) -> None:
    story.live(2)
    judge_and_promote(story.flow, story.registry, train_full(story.flow, story.store, story.registry))
    story.live()
    first, second = (train_increment(story.flow, story.store, story.registry) for _ in range(2))
    assert first is not None
    assert second is not None
    verdict = judge_and_promote(story.flow, story.registry, first)
    with pytest.raises(HeadMovedError):
        story.registry.promote("orders", second.version, verdict=verdict, expected_champion=1)


def test_nothing_new_is_no_version_and_no_head_is_an_error(story: Story) -> None:
    story.live()
    with pytest.raises(RegistryError, match="run its full training first"):
        train_increment(story.flow, story.store, story.registry)
    judge_and_promote(story.flow, story.registry, train_full(story.flow, story.store, story.registry))
    assert train_increment(story.flow, story.store, story.registry) is None


def test_an_empty_window_is_refused_by_name(story: Story) -> None:
    story.live()
    with pytest.raises(DataError, match="found none at offsets"):
        train_full(story.flow, story.store, story.registry, until=at(0) - timedelta(days=1))


def test_a_store_that_is_behind_the_head_trains_nothing(story: Story, tmp_path: Path) -> None:
    """A version of it would say that it learned what is not there."""
    story.live(3)
    full = train_full(story.flow, story.store, story.registry)
    judge_and_promote(story.flow, story.registry, full)
    anew = Story(tmp_path / "anew")
    anew.live(2)
    for train in (train_full, train_increment):
        with pytest.raises(DataError, match="has learned 360 examples, the store holds 240"):
            train(story.flow, anew.store, story.registry)
    assert [version.version for version in story.registry.versions("orders")] == [full.version]


def edit_features(root: Path) -> None:
    file = root / "features.sql"
    file.write_text(FEATURES.replace("interval 1 day", "interval 2 hour"), encoding="utf-8")


def test_a_version_is_of_the_features_it_read_not_of_those_in_the_file(story: Story, tmp_path: Path) -> None:
    story.live(2)
    before = story.store.fingerprint()
    edit_features(tmp_path)
    version = train_full(story.flow, story.store, story.registry)
    assert version.feature_fingerprint == before != story.store.fingerprint()


def test_features_that_are_built_anew_during_a_training_end_it(
    story: Story, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has read rows of both definitions."""
    story.live(2)
    advance = passes.joined

    def meanwhile(evidence: object) -> object:
        edit_features(tmp_path)
        story.live()
        return advance(evidence)

    monkeypatch.setattr(passes, "joined", meanwhile)
    with pytest.raises(StateError, match="edited meanwhile; run the full training"):
        train_full(story.flow, story.store, story.registry)
    assert not story.registry.versions("orders")

"""The model card: what a person reads of a version in Dagster, in MLflow and in a terminal."""

import xml.etree.ElementTree as ET
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ml_core.flow.verdict import Verdict
from ml_core.flow.version import ModelVersion
from ml_core.pipeline import PipelineModel
from ml_core.training import judge_and_promote, passes, train_full, train_increment
from ml_core.training.card import CARD_FILE, Facts, card, card_of, charts, files_of
from ml_core.training.evaluation import ScoredSlice
from ml_core.training.influence import influence
from tests.training.test_lineage import REFUSED, Story
from tests.training.test_rollback import learn


def mlflow_version(story: Story, version: ModelVersion) -> str:
    """Return what the MLflow pages show as the description of a version."""
    found = story.registry._shelf.find("orders", version.version)
    assert found is not None
    return str(found.description)


def test_a_version_carries_its_card_in_mlflow_and_the_verdict_is_added_to_it(tmp_path: Path) -> None:
    story = Story(tmp_path)
    story.live(3)
    version = train_full(story.flow, story.store, story.registry)
    assert "**Not judged by the gate yet.**" in mlflow_version(story, version)
    second = learn(story, 1)
    text = mlflow_version(story, second)
    assert "**The gate accepted it**: first" in text
    assert "| labels known | 2024-05-01" in text
    assert "| `shop` |" in text, "the column that decides is named"
    kept = story.registry._shelf.fetch(second.mlflow_run_id, "card", tmp_path)
    assert {file.name for file in kept.iterdir()} == {CARD_FILE, "loss.svg", "calibration.svg", "roc.svg"}
    assert (kept / CARD_FILE).read_text(encoding="utf-8") == text == files_of(story.registry, second)[CARD_FILE]
    shown = card_of(story.registry, second)
    assert shown.count("data:image/svg+xml;base64,") == 3, "where charts are shown they are inside"


def test_the_card_of_an_increment_names_its_parent_and_draws_both_losses(tmp_path: Path) -> None:
    story = Story(tmp_path)
    parent = learn(story, 3)
    story.live()
    child = train_increment(story.flow, story.store, story.registry)
    assert child is not None
    story.registry.refuse("orders", child.version, verdict=REFUSED)
    files = files_of(story.registry, story.registry.version("orders", child.version))
    assert f"| parent | version {parent.version} |" in files[CARD_FILE]
    assert "**The gate refused it** (non-inferiority): a test said so." in files[CARD_FILE]
    lines = ET.fromstring(files["loss.svg"]).findall("{http://www.w3.org/2000/svg}polyline")  # noqa: S314 - our own
    assert len(lines) == 2


@pytest.mark.parametrize("broken", [1, 360])
def test_a_version_that_answers_with_no_number_is_published_and_refused_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: int
) -> None:
    """Its card is drawn from the rows that have an answer, and is no reason to fail before the gate has spoken."""
    story = Story(tmp_path)
    story.live(3)
    learned = passes.learn

    def learn_badly(*of: Any, **more: Any) -> ScoredSlice:
        said = learned(*of, **more)
        said.scores[-broken:] = np.nan
        return said

    monkeypatch.setattr(passes, "learn", learn_badly)
    version = train_full(story.flow, story.store, story.registry)
    verdict = judge_and_promote(story.flow, story.registry, version)
    assert not verdict.accepted
    text = mlflow_version(story, version)
    assert f"{broken} of its rows were not answered with a number." in text
    assert "**The gate refused it**" in text


def test_a_card_fits_what_mlflow_keeps_of_a_description_and_ends_with_a_whole_section() -> None:
    version = ModelVersion(
        flow="f", version=1, stage="None", kind="full", parent=None, watermark=9, trained_through=datetime.now(UTC),
        feature_fingerprint="a" * 64, manifest_sha256="b" * 64, dagster_run_id="", mlflow_run_id="c" * 32, source="",
        metrics={f"metric_{number}": 1.0 for number in range(120)},
        verdict=Verdict(accepted=False, policy="first", rows=1, reasons=("much " * 900,), figures={}),
    )  # fmt: skip
    facts = Facts(None, {f"column_{number}" * 8: 1.0 for number in range(80)})
    nothing = ScoredSlice(0, np.empty(0), np.empty(0), np.empty(0))
    text = card(version, nothing, facts)
    assert len(text) <= 5_000
    assert "### Calibration" in text
    assert "### Influence" not in text
    assert "### Influence" in card(replace(version, metrics={}), nothing, Facts(None, {"a": 0.1}))


def test_every_task_has_its_charts() -> None:
    random = np.random.default_rng(0)
    share = random.dirichlet(np.ones(3), 200)
    classes = ScoredSlice(0, random.integers(0, 3, 200).astype(float), share, np.empty(0), "multiclass")
    numbers = ScoredSlice(0, random.normal(size=200), random.normal(size=200), np.empty(0), "regression")
    for scored in (classes, numbers):
        drawn = charts(scored)
        assert set(drawn) == {"loss", "calibration"}
        for svg in drawn.values():
            assert "nan" not in svg
            ET.fromstring(svg)  # noqa: S314 - our own


def test_the_influence_of_a_column_is_how_far_scores_move_when_it_is_dealt_out_anew(tmp_path: Path) -> None:
    """Held against the plain loop over the columns; a column the model does not read has none."""
    story = Story(tmp_path)
    version = learn(story, 3)
    model = PipelineModel.load(story.registry.download(version, tmp_path) / "state", story.flow.pipeline)
    rows = story.store.examples(0, 200)
    found = influence(model, rows)
    before = model.predict(rows)
    for name in model.signature:
        order = next(
            drawn
            for random in [np.random.default_rng(0)]
            for other, drawn in ((each, random.permutation(200)) for each in model.signature)
            if other == name
        )
        dealt = rows.set_column(rows.column_names.index(name), name, rows.column(name).take(pa.array(order)))
        assert found[name] == float(np.abs(model.predict(dealt) - before).mean())
    assert max(found, key=lambda name: found[name]) == "shop"

"""Bad models and rows that another predictor has served in silence, or died of: each has its right ending here."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ml_core.errors import InputError, PackageError
from ml_core.flow.package import GOLDEN, GRAPH, MANIFEST, SIGNATURE, file_digest, verify_package, write_package
from ml_core.flow.read import ModelAddress, VersionRef
from ml_core.pipeline import PipelineModel
from serving.follower import Follower
from serving.following import FollowerSettings
from tests.pipeline.examples import ESTIMATORS, SCHEMA, STAGES, labels, pipeline, rows
from tests.serving.asking import ROW, scores_of

PRODUCTION = ModelAddress.parse("models:/f/Production")
Damage = Callable[[Path], None]


def served(follower: Follower) -> int | None:
    return follower.current.version if follower.current else None


def recorded(registry: Any, version: int, **tags: str) -> None:
    """Record a package in the registry as it lies there, as a faulty publisher would."""
    ref = registry.refs[version]
    told = {**ref.tags, "manifest_sha256": file_digest(Path(ref.source) / MANIFEST), **tags}
    registry.refs[version] = VersionRef(ref.flow, version, ref.stage, ref.source, told)


def described_anew(package: Path) -> None:
    """Write the manifest for the files as they are now."""
    manifest = json.loads((package / MANIFEST).read_text())
    for name, described in manifest["files"].items():
        described |= {"sha256": file_digest(package / name), "size": (package / name).stat().st_size}
    (package / MANIFEST).write_text(json.dumps(manifest))


def fewer_files(package: Path) -> None:
    manifest = json.loads((package / MANIFEST).read_text())
    manifest["files"].popitem()
    (package / MANIFEST).write_text(json.dumps(manifest))


def with_labels(package: Path) -> None:
    """Make the graph answer with texts instead of numbers."""
    model = onnx.load(package / GRAPH)
    model.graph.node.append(helper.make_node("Cast", ["score"], ["label"], to=TensorProto.STRING))
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("label", TensorProto.STRING, ["n"]))
    (package / GRAPH).write_bytes(model.SerializeToString())
    described_anew(package)


def nan_for_nulls(package: Path) -> None:
    """Make the graph let a missing number through, while its golden rows hold none."""
    model = onnx.load(package / GRAPH)
    for node in model.graph.node:
        if node.op_type == "Where":
            node.op_type = "Max"
            del node.input[:2]
    (package / GRAPH).write_bytes(model.SerializeToString())
    golden = json.loads((package / GOLDEN).read_text())
    kept = [index for index, value in enumerate(golden["rows"]["delay"]) if value is not None]
    golden = {
        "rows": {name: [column[index] for index in kept] for name, column in golden["rows"].items()},
        "scores": [golden["scores"][index] for index in kept],
    }
    (package / GOLDEN).write_text(json.dumps(golden))
    described_anew(package)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda package: (package / GRAPH).write_bytes(b""), GRAPH),
        (lambda package: (package / GRAPH).write_bytes(os.urandom(5000)), GRAPH),
        (lambda package: (package / MANIFEST).write_bytes(b""), MANIFEST),
        (lambda package: (package / MANIFEST).write_bytes(b"{"), MANIFEST),
        (lambda package: (package / SIGNATURE).unlink(), SIGNATURE),
        (fewer_files, "not in the manifest"),
        (with_labels, "the output score"),
        (nan_for_nulls, "row of nulls"),
    ],
    ids=["empty", "junk", "empty manifest", "half a manifest", "one file", "wrong count", "texts", "NaN for nulls"],
)
def test_a_package_recorded_as_it_is_and_still_no_model_is_refused(
    registry: Any, follower: Follower, damage: Damage, told: str
) -> None:
    """The digests hold what a faulty publisher wrote; only proving the model itself finds out."""
    before = scores_of(follower, ROW)
    damage(Path(registry.add(8).source))
    recorded(registry, 8)
    registry.promote(8)
    follower.step()
    (entry,) = follower.quarantine
    assert (served(follower), entry.version, scores_of(follower, ROW)) == (7, 8, before)
    assert told in entry.reason


@pytest.mark.parametrize("change", ["shorter", "longer"])
def test_a_pipeline_with_another_number_of_weights_than_slots_is_refused(tmp_path: Path, change: str) -> None:
    """It was loaded elsewhere, and served wrong scores without a word."""
    model = PipelineModel.build(pipeline(ESTIMATORS[0], STAGES), SCHEMA)
    table = rows()
    model.learn(table, labels())
    model.save(tmp_path / "state")
    golden = table.slice(0, 20).select(list(model.signature))
    graph = onnx.load_model_from_string(model.to_onnx())
    tensors = [each for each in graph.graph.initializer if each.data_type == TensorProto.DOUBLE]
    weights = max(tensors, key=lambda tensor: numpy_helper.to_array(tensor).size)
    values = numpy_helper.to_array(weights)
    assert values.shape == (18,), "expected the one-hot slots' weights to be the longest constant"
    moved = values[:9] if change == "shorter" else np.concatenate([[0.5], values])
    weights.CopyFrom(numpy_helper.from_array(moved, weights.name))
    write_package(
        tmp_path / "package",
        graph=graph.SerializeToString(),
        state=tmp_path / "state",
        signature=model.signature,
        golden=golden,
        golden_scores=model.predict(golden),
        feature_fingerprint="f" * 64,
    )
    with pytest.raises(PackageError, match=f"{GRAPH}|{GOLDEN}"):
        verify_package(tmp_path / "package")


def test_a_version_that_is_visible_before_it_is_whole_is_served_once_it_is(registry: Any, tmp_path: Path) -> None:
    """Seen too early, it must not be taken for known ever after."""
    ref = registry.add(8)
    registry.promote(8)
    whole = tmp_path / "whole"
    shutil.copytree(ref.source, whole)
    (Path(ref.source) / GRAPH).unlink()
    hand = [0.0]
    follower = Follower(PRODUCTION, "folder", registry=registry, monotonic=lambda: hand[0])
    follower.step()
    assert served(follower) is None
    assert not follower.ready
    shutil.copytree(whole, ref.source, dirs_exist_ok=True)
    hand[0] += 2
    follower.step()
    assert served(follower) == 8
    assert follower.quarantine == ()


def test_a_version_dated_2099_does_not_block_the_ones_after_it(registry: Any, follower: Follower) -> None:
    """Order is what the registry says stands there, not what clocks once said."""
    registry.add(8)
    recorded(registry, 8, trained_through="2099-01-01T00:00:00+00:00")
    registry.add(9)
    for version in (8, 9):
        registry.promote(version)
        follower.step()
        assert served(follower) == version
    assert follower.ready


def test_the_newest_version_deleted_falls_back_to_what_the_stage_says(registry: Any, follower: Follower) -> None:
    """Deleting a bad version is how some people take it back."""
    registry.add(8)
    registry.promote(8)
    follower.step()
    assert served(follower) == 8
    del registry.refs[8]
    registry.promote(7)
    follower.step()
    assert served(follower) == 7


def test_a_restart_serves_what_stands_there_now_not_what_its_cache_holds(registry: Any, tmp_path: Path) -> None:
    """The cache is for a registry that is down, and for nothing else."""
    settings = FollowerSettings(cache=tmp_path / "cache")
    for version in (1, 2):
        registry.add(version)
        registry.promote(version)
        follower = Follower(PRODUCTION, "folder", settings=settings, registry=registry)
        follower.load_first()
        assert served(follower) == version
    assert [swap.version for swap in follower.history] == [2]


def test_a_row_with_too_few_fields_is_never_filled_from_the_row_before(follower: Follower) -> None:
    """Elsewhere the missing fields came from whatever that thread had scored last."""
    assert follower.current is not None
    model = follower.current
    full = model.score_row(ROW)
    short = {name: value for name, value in ROW.items() if name != "delay"}
    for _ in range(3):
        with pytest.raises(InputError, match="delay"):
            model.score_row(short)
        with pytest.raises(InputError, match="delay"):
            model.rows.records([ROW, short])
        assert model.score_row(ROW) == full


@pytest.mark.parametrize("column", ["carrier", "delay"])
def test_nulls_and_nans_are_missing_values_alike_and_never_a_nan_score(follower: Follower, column: str) -> None:
    """A NaN for a probability passes every comparison down the line as false."""
    assert follower.current is not None
    null, nan = (follower.current.score_row({**ROW, column: value}) for value in (None, float("nan")))
    assert null == nan
    assert np.isfinite(null)


def test_an_unseen_category_is_scored_like_any_other_of_its_kind(follower: Follower) -> None:
    """New carriers appear before a model has learned them."""
    assert follower.current is not None
    scores = {follower.current.score_row({**ROW, "carrier": unseen}) for unseen in ("??", "ünseen", "x" * 500)}
    assert np.isfinite(list(scores)).all()

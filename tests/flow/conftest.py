"""A small real package, made from a pipeline model that learned a few rows."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ml_core.flow.package import write_package
from ml_core.flow.registry import Registry
from ml_core.flow.verdict import Verdict
from ml_core.flow.version import ModelVersion
from ml_core.pipeline import PipelineModel
from ml_core.project import PipelineSettings

SETTINGS = PipelineSettings(
    stages=({"stage": "hash", "columns": ["shop"], "bits": 8}, {"stage": "standardise", "columns": ["days"]}),
    estimator={"name": "FTRLClassifier"},
)
ACCEPTED = Verdict(accepted=True, policy="first", rows=100, reasons=(), figures={"log_loss": 0.5})


def rows() -> pa.Table:
    return pa.table(
        {
            "shop": pa.array(["a", "b", None, "", "\u00fcber", "a", "b", "c"]),
            "days": pa.array([1.0, 2.0, np.nan, 0.0, -3.5, 7.0, None, 1e6], pa.float32()),
        }
    )


@pytest.fixture
def make_package(tmp_path: Path) -> Callable[..., Path]:
    """Make packages; another `passes` gives another model."""

    def make(name: str = "package", passes: int = 1) -> Path:
        model = PipelineModel.build(SETTINGS, {"shop": "string", "days": "float"})
        for _ in range(passes):
            model.learn(rows(), np.array([0, 1, 0, 1, 1, 0, 0, 1], np.float32))
        state = tmp_path / f"{name}-state"
        state.mkdir()
        model.save(state)
        write_package(
            tmp_path / name,
            graph=model.to_onnx(),
            state=state,
            signature=model.signature,
            golden=rows(),
            golden_scores=model.predict_proba(rows()),
            feature_fingerprint="f" * 64,
        )
        return tmp_path / name

    return make


@pytest.fixture
def publish(make_package: Callable[..., Path], tmp_path: Path) -> Callable[..., ModelVersion]:
    """Publish versions of the flow `shop`."""
    evaluation = tmp_path / "evaluation"
    evaluation.mkdir()
    (evaluation / "scored_slice.npz").write_bytes(b"evidence")

    def make(registry: Registry, watermark: int, parent: int | None = None) -> ModelVersion:
        tags = {
            "kind": "full" if parent is None else "incremental",
            "parent": "" if parent is None else str(parent),
            "watermark": f'{{"examples": {watermark}}}',
            "trained_through": "2024-05-01T12:00:00+00:00",
            "feature_fingerprint": "f" * 64,
            "dagster_run_id": "a-run",
        }
        package = make_package(f"package-{watermark}", passes=watermark)
        return registry.publish("shop", package, tags=tags, metrics={"log_loss": 0.5}, evaluation=evaluation)

    return make

"""From a trained pipeline model to a published version: the package, its golden rows, its evidence, its tags.

Both trainers end here, so that a version says the same things about itself whichever of them made it. Publishing
neither judges nor promotes.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from ml_core.data.store import FeatureStore
from ml_core.disk import room_for
from ml_core.errors import StateError
from ml_core.flow.package import write_package
from ml_core.flow.registry import Registry
from ml_core.flow.version import ModelVersion
from ml_core.pipeline import PipelineModel
from ml_core.project import Flow
from ml_core.training.card import Facts, show
from ml_core.training.evaluation import ScoredSlice
from ml_core.training.influence import ROWS, influence
from ml_core.training.tasks import figures, loss_name

_GOLDEN_ROWS = 32


@dataclass(frozen=True, slots=True)
class Trained:
    """A pipeline model that has learned every example below its watermark, with its evidence.

    Attributes
    ----------
    kind : str
        ``full``, ``incremental`` or ``stream``.
    way : str
        How it follows its parent, and its children follow it: ``online``, ``continued`` or ``refit``.
    parent : int or None
        The version whose state it continued.
    watermark : int
        The offset of the next example to learn.
    features : str
        The fingerprint of the features it was trained on, as they were when it began.
    """

    kind: str
    way: str
    parent: int | None
    watermark: int
    model: PipelineModel
    evidence: ScoredSlice
    features: str


def publish(
    flow: Flow, store: FeatureStore, registry: Registry, trained: Trained, *, tags: Mapping[str, str]
) -> ModelVersion:
    """Register `trained` as a new version of `flow`, in no stage yet.

    Raises
    ------
    StateError
        The stored features were built anew, by another definition, while it was trained.
    """
    if store.built_by() != trained.features:
        raise StateError(
            f"{flow.name}: expected the features {trained.features[:12]}, which this training began with, found"
            f" {store.built_by()[:12]}: they were edited meanwhile; run the full training"
        )
    last = store.examples(max(trained.watermark - ROWS, 0), trained.watermark)
    start = trained.evidence.first
    first = store.examples(start, start + 1).column("labelled_at")
    own_tags = {
        "kind": trained.kind,
        "way": trained.way,
        "parent": "" if trained.parent is None else str(trained.parent),
        "watermark": f'{{"examples": {trained.watermark}}}',
        "trained_through": last.column("labelled_at")[-1].as_py().isoformat(),
        "feature_fingerprint": trained.features,
        "pipeline_fingerprint": flow.pipeline.fingerprint,
        "rows_learned": str(trained.model.n_trained),
    }
    facts = Facts(first[0].as_py() if len(first) and trained.model.by_row else None, influence(trained.model, last))
    with (
        room_for("a package, on its way to the registry", tempfile.gettempdir()),
        tempfile.TemporaryDirectory(prefix="modelflow-publish-") as scratch,
    ):
        package, evaluation = Path(scratch, "package"), Path(scratch, "evaluation")
        evaluation.mkdir()
        trained.evidence.save(evaluation)
        facts.save(evaluation)
        pack(trained.model, last, package, feature_fingerprint=trained.features)
        version = registry.publish(
            flow.name,
            package,
            tags=own_tags | dict(tags),
            metrics=_metrics(flow, trained),
            evaluation=evaluation,
        )
    show(registry, version, trained.evidence, facts)
    return version


def pack(model: PipelineModel, examples: pa.Table, package: Path, *, feature_fingerprint: str) -> str:
    """Write the package of a model whose newest `examples` become golden rows; return its manifest's digest."""
    golden = golden_rows(examples, model.signature)
    with tempfile.TemporaryDirectory(prefix="modelflow-state-") as state:
        model.save(Path(state))
        return write_package(
            package,
            graph=model.to_onnx(),
            state=Path(state),
            signature=model.signature,
            golden=golden,
            golden_scores=model.predict(golden),
            feature_fingerprint=feature_fingerprint,
        )


def _metrics(flow: Flow, trained: Trained) -> dict[str, float]:
    recent = trained.evidence.last(flow.gate.max_rows)
    metrics = figures(recent.task, recent.labels, recent.scores)
    metrics |= {name: float(count) for name, count in trained.model.counts().items()}
    metrics["slice_rows"] = float(trained.evidence.labels.size)
    if recent.parent_scores.size:
        parent = figures(recent.task, recent.labels, recent.parent_scores)
        metrics[f"parent_{loss_name(recent.task)}"] = parent["loss"]
    return metrics


def golden_rows(examples: pa.Table, signature: Mapping[str, str]) -> pa.Table:
    """Return the last examples' raw columns, a row of nothing but missing values, and one of strings never seen.

    Every predictor must score them all.
    """
    rows = examples.slice(max(0, examples.num_rows - _GOLDEN_ROWS)).select(list(signature))
    odd = pa.table(
        {
            field.name: pa.array(
                [None, "\u2603 never seen"] if pa.types.is_string(field.type) else [np.nan, 0.0], field.type
            )
            for field in rows.schema
        }
    )
    return pa.concat_tables([rows, odd])

"""Full training: a pipeline model learned from scratch over a window of examples.

It is the same pass an increment makes, from an empty state: every row is scored, then learned, in the examples'
one total order. Before it is published it catches up with the head of the flow, so that promoting it never loses
an example the champion had learned.
"""

from collections.abc import Mapping
from datetime import datetime

import numpy as np

from ml_core.data.store import FeatureStore
from ml_core.errors import DataError
from ml_core.flow.registry import Registry
from ml_core.flow.version import ModelVersion
from ml_core.pipeline import PipelineModel
from ml_core.project import Flow
from ml_core.training.evaluation import ScoredSlice
from ml_core.training.publishing import Trained, no_scores, publish
from ml_core.training.tasks import task_of


def train_full(
    flow: Flow,
    store: FeatureStore,
    registry: Registry,
    *,
    until: datetime | None = None,
    tags: Mapping[str, str] | None = None,
) -> ModelVersion:
    """Train from scratch and publish the result, unjudged.

    Parameters
    ----------
    until : datetime, optional
        Learn what was labelled before this instant; by default everything labelled by the flow's clock.
    tags : mapping, optional
        Further tags of the version, such as ``dagster_run_id``.

    Raises
    ------
    DataError
        The window holds no labelled example.
    """
    progress = store.progress()
    stop = progress.next_example if until is None else store.offset_at(until)
    end = until or progress.clock
    window = flow.full_training.window
    first = store.offset_at(end - window) if window is not None and end is not None else 0
    if stop <= first:
        raise DataError(
            f"{flow.name}: expected labelled examples in the training window, found none at offsets [{first}, {stop});"
            " ingest facts first, or widen full_training.window"
        )
    model = PipelineModel.build(flow.pipeline, store.schema())
    evidence = [_learn(model, store, first, stop)]
    while (head := registry.head(flow.name)) is not None and head.watermark > stop:
        evidence.append(_learn(model, store, stop, head.watermark))
        stop = head.watermark
    scored = ScoredSlice(
        first=first,
        labels=np.concatenate([part.labels for part in evidence]),
        scores=np.concatenate([part.scores for part in evidence]),
        parent_scores=no_scores(),
        task=task_of(model.n_classes),
    )
    trained = Trained(kind="full", parent=None, watermark=stop, model=model, evidence=scored)
    return publish(flow, store, registry, trained, tags=tags or {})


def _learn(model: PipelineModel, store: FeatureStore, first: int, stop: int) -> ScoredSlice:
    """Score, then learn, the examples at offsets [first, stop)."""
    labels, scores = [], []
    for batch in store.example_batches(first, stop):
        labels.append(batch.column("label").to_numpy(zero_copy_only=False))
        scores.append(model.learn(batch, labels[-1]))
    return ScoredSlice(first, np.concatenate(labels).astype(np.float64), np.concatenate(scores), no_scores())

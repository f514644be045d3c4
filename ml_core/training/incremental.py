"""Incremental training: the head of the flow continued over the examples it has not learned.

The invariant is promise 3 of the design: an increment starts at its parent's watermark and from its parent's exact
state, so each example trains once per lineage and the weights do not depend on where the slices were cut.
"""

from collections.abc import Mapping

import numpy as np

from ml_core.data.store import FeatureStore
from ml_core.errors import RegistryError, StateError
from ml_core.flow.package import STATE
from ml_core.flow.registry import Registry
from ml_core.flow.version import ModelVersion
from ml_core.pipeline import PipelineModel
from ml_core.project import Flow
from ml_core.training.evaluation import ScoredSlice
from ml_core.training.publishing import Trained, publish
from ml_core.training.tasks import task_of


def train_increment(
    flow: Flow, store: FeatureStore, registry: Registry, *, tags: Mapping[str, str] | None = None
) -> ModelVersion | None:
    """Continue the head of `flow` over what was labelled since, and publish the result, unjudged.

    Returns None when nothing new was labelled.

    Raises
    ------
    RegistryError
        The flow has no version to continue.
    PackageError
        The head's package is not whole.
    StateError
        The pipeline or the features changed since the head was trained: only a full training can follow.
    """
    head = registry.head(flow.name)
    if head is None:
        raise RegistryError(f"{flow.name} has no version to continue; run its full training first")
    stop = store.progress().next_example
    first = head.next_example  # its watermark, unless a rollback skips examples
    if stop <= first:
        return None
    if head.feature_fingerprint != store.fingerprint():
        raise StateError(
            f"{flow.name}: version {head.version} was trained on features {head.feature_fingerprint[:12]}, the feature"
            f" table is now {store.fingerprint()[:12]}; run the full training"
        )
    with registry.proved(head) as package:
        model = PipelineModel.load(package.directory / STATE, flow.pipeline)
    # The parent scores the whole slice first, as it would have served it; then the same object learns.
    parent_scores = [model.predict(batch) for batch in store.example_batches(first, stop)]
    labels, scores = [], []
    for batch in store.example_batches(first, stop):
        labels.append(batch.column("label").to_numpy(zero_copy_only=False))
        scores.append(model.learn(batch, labels[-1]))
    evidence = ScoredSlice(
        first=first,
        labels=np.concatenate(labels).astype(np.float64),
        scores=np.concatenate(scores),
        parent_scores=np.concatenate(parent_scores),
        task=task_of(model.n_classes),
    )
    trained = Trained(kind="incremental", parent=head.version, watermark=stop, model=model, evidence=evidence)
    return publish(flow, store, registry, trained, tags=tags or {})

"""Incremental training: the head of the flow continued over the examples it has not learned.

The invariant is promise 3 of the design: an increment starts at its parent's watermark and from its parent's exact
state, so each example trains once per lineage and the weights do not depend on where the slices were cut. Parts of
other libraries keep as much of it as `PipelineModel.way` says; a flow that is refitted keeps none, its versions are
fitted anew on a sliding window, and their tag `way` says so.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ml_core.data.store import FeatureStore
from ml_core.errors import ProjectError, RegistryError
from ml_core.flow.package import STATE, Package, as_feed
from ml_core.flow.registry import Registry
from ml_core.flow.version import ModelVersion
from ml_core.pipeline import PipelineModel
from ml_core.project import Flow
from ml_core.training import passes, spark
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
    DataError
        The store does not hold what the head has learned.
    StateError
        The pipeline or the features changed since the head was trained: only a full training can follow.
    """
    head = registry.head(flow.name)
    if head is None:
        raise RegistryError(f"{flow.name} has no version to continue; run its full training first")
    passes.check_reach(flow, store, head)
    stop = store.progress().next_example
    first = head.next_example  # its watermark, unless a rollback skips examples
    if stop <= first:
        return None
    passes.check_features(flow, store, head)
    with registry.proved(head) as package:
        continues = flow.incremental_training.policy == "continue"
        model, evidence = (_continue if continues else _refit)(flow, store, package, first, stop)
    way = passes.way_of(flow, model)
    trained = Trained("incremental", way, head.version, stop, model, evidence, head.feature_fingerprint)
    return publish(flow, store, registry, trained, tags=passes.tags_of(flow) | dict(tags or {}))


def _continue(
    flow: Flow, store: FeatureStore, package: Package, first: int, stop: int
) -> tuple[PipelineModel, ScoredSlice]:
    """Continue the parent's exact state over [first, stop)."""
    model = PipelineModel.load(package.directory / STATE, flow.pipeline)
    if model.hindrance is not None:
        raise ProjectError(f'{flow.name}: {model.hindrance}; set incremental_training.policy = "refit"')
    if flow.spark_training is not None:
        return spark.learn(flow, store, model, first, stop, compare=True)
    # The parent scores the whole slice first, as it would have served it; then the same object learns. Where it learns
    # a batch at a time the slice is cut in two, so that the second half was scored by a model that knows the first.
    parent = passes.score(model, store, first, stop)
    evidence = passes.learn(model, store, first, stop, rows=None if model.by_row else (stop - first + 1) // 2)
    return model, replace(evidence, parent_scores=parent.scores)


def _refit(
    flow: Flow, store: FeatureStore, package: Package, first: int, stop: int
) -> tuple[PipelineModel, ScoredSlice]:
    """Fit a new model on the window that ends at `stop`.

    Of the first half of [first, stop) it says what its parent said, which is all its lineage knew; the second half is
    scored by a model fitted on the window that ends between them.
    """
    model, middle = passes.build(flow, store), (first + stop) // 2
    parent = _parent_scores(package, store, first, stop)
    said = [parent[: middle - first]]
    if middle > first:
        _fit_window(flow, model, store, middle)
        said.append(passes.score(model, store, middle, stop).scores)
    else:
        said.append(parent)
    _fit_window(flow, model, store, stop)
    labels = store.examples(first, stop).column("label").to_numpy().astype(np.float64)
    return model, ScoredSlice(first, labels, np.concatenate(said), parent, task_of(model.n_classes))


def _fit_window(flow: Flow, model: PipelineModel, store: FeatureStore, stop: int) -> None:
    window, first = flow.incremental_training.window or flow.full_training.window, 0
    if window is not None:
        newest = store.examples(stop - 1, stop).column("labelled_at")[0].as_py()
        first = store.offset_at(newest - window)
    examples = store.examples(first, stop)
    model.fit(examples, examples.column("label").to_numpy())


def _parent_scores(parent: Package, store: FeatureStore, first: int, stop: int) -> NDArray[np.float64]:
    """Return what the parent says, by its graph: some versions keep nothing else."""
    scores = []
    for batch in store.example_batches(first, stop):
        columns = {name: batch.column(name).to_pylist() for name in parent.signature}
        scores.append(parent.score(as_feed(columns, parent.signature)).astype(np.float64))
    return np.concatenate(scores)

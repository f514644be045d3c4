"""How a model goes over examples: row by row, or where a library fits in batch, block after block.

The invariant of both: every score that is returned was given by a model that had not learned its row. A model that is
fitted in batch is fitted on all but the newest rows, scores those, and is then fitted on everything. Where the flow
says so, rows are learned on Spark (`ml_core.training.spark`), which keeps the same invariant.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from ml_core.data.store import FeatureStore
from ml_core.errors import DataError, InputError, ProjectError, StateError
from ml_core.flow.version import ModelVersion
from ml_core.pipeline import PipelineModel
from ml_core.project import Flow
from ml_core.training import spark
from ml_core.training.evaluation import ScoredSlice
from ml_core.training.tasks import no_scores, task_of

# The newest share of a first batch fit that is scored before it is learned.
_NEWEST = 4


def build(flow: Flow, store: FeatureStore) -> PipelineModel:
    """Build a flow's untrained model.

    Raises
    ------
    ProjectError
        The flow is incremental and a part of its pipeline cannot learn from new rows alone, or it trains on Spark and
        a part cannot; it is named.
    """
    model = PipelineModel.build(flow.pipeline, store.schema())
    spark.require_mergeable(flow, model)
    if flow.incremental_training.policy == "continue" and model.hindrance is not None:
        raise ProjectError(
            f'{flow.name}: {model.hindrance}. To fit every version anew, set incremental_training.policy = "refit"'
        )
    return model


def way_of(flow: Flow, model: PipelineModel) -> str:
    """Return how the flow's versions follow each other: ``online``, ``continued`` or ``refit``."""
    if flow.spark_training is not None and flow.spark_training.mode == "average":
        return "continued"
    return "refit" if flow.incremental_training.policy == "refit" else model.way


def tags_of(flow: Flow) -> dict[str, str]:
    """Return what a version says of how it was trained, where that was on Spark."""
    return {} if flow.spark_training is None else {"spark_training": flow.spark_training.mode}


def check_reach(flow: Flow, store: FeatureStore, head: ModelVersion) -> None:
    """Raise DataError where the store does not hold what the head has learned."""
    held = store.progress().next_example
    if head.watermark > held:
        raise DataError(
            f"{flow.name}: version {head.version} has learned {head.watermark} examples, the store holds {held};"
            " is MODELFLOW_HOME the one it was trained in?"
        )


def check_features(flow: Flow, store: FeatureStore, version: ModelVersion) -> None:
    """Raise StateError where a version was trained on other features than are defined, or stored, now."""
    for found in (store.fingerprint(), store.built_by()):
        if found != version.feature_fingerprint:
            raise StateError(
                f"{flow.name}: version {version.version} was trained on features {version.feature_fingerprint[:12]},"
                f" the feature table is now {found[:12]}; run the full training"
            )


@contextmanager
def refusals_of(flow: Flow, model: PipelineModel, store: FeatureStore, first: int, stop: int) -> Iterator[None]:
    """Say of which flow it is when `model` refuses examples of [first, stop) meanwhile.

    Raises
    ------
    ProjectError
        The estimator tells classes apart, and the flow's labels are not those.
    InputError
        The examples were refused for another reason.
    """
    try:
        yield
    except InputError as error:
        classes = np.arange(model.n_classes)
        labels = (batch.column("label").to_numpy(zero_copy_only=False) for batch in store.example_batches(first, stop))
        if not model.n_classes or all(np.isin(each, classes).all() for each in labels):
            raise InputError(f"flow {flow.name}: {error}", column=error.column, row=error.row) from error
        raise ProjectError(
            f"flow {flow.name}: {error}: {model.head.name} tells {model.n_classes} classes apart. In"
            f" [flows.{flow.name}.pipeline.estimator], set name to a regressor such as FTRLRegressor where the label is"
            " a number, or n_classes where there are more classes"
        ) from error


def begin(
    flow: Flow, model: PipelineModel, store: FeatureStore, first: int, stop: int
) -> tuple[PipelineModel, ScoredSlice]:
    """Learn the examples at offsets [first, stop) from nothing; return what was said of the last ones, or of all.

    A batch fit is scored on as many of the newest as the gate looks at; never on more than a quarter. How it is with an
    averaged training is said in `ml_core.training.spark.learning`.
    """
    if flow.spark_training is not None:
        return spark.learn(flow, store, model, first, stop)
    if not model.fits:
        return model, learn(model, store, first, stop)
    cut = stop - min(flow.gate.max_rows, (stop - first) // _NEWEST)
    examples = store.examples(first, cut)
    model.fit(examples, examples.column("label").to_numpy())
    return advance(flow, model, store, first, cut, stop)


def advance(  # noqa: PLR0917 - where it began, where it stands, where it goes
    flow: Flow, model: PipelineModel, store: FeatureStore, first: int, start: int, stop: int
) -> tuple[PipelineModel, ScoredSlice]:
    """Let a model of [first, start) take in [start, stop) too; return what it had said of those."""
    if flow.spark_training is not None:
        return spark.learn(flow, store, model, start, stop, average=False)
    if model.by_row:
        return model, learn(model, store, start, stop)
    said = score(model, store, start, stop)
    examples = store.examples(first, stop)
    model.fit(examples, examples.column("label").to_numpy())
    return model, said


def learn(model: PipelineModel, store: FeatureStore, first: int, stop: int, *, rows: int | None = None) -> ScoredSlice:
    """Score, then learn, the examples at offsets [first, stop), in batches of so many `rows`."""
    batches = store.example_batches(first, stop, **({} if rows is None else {"rows": rows}))
    learned = list(model.learn_batches(batches))
    return _slice(model, first, [labels for labels, _ in learned], [scores for _, scores in learned])


def score(model: PipelineModel, store: FeatureStore, first: int, stop: int) -> ScoredSlice:
    """Score the examples at offsets [first, stop)."""
    labels, scores = [], []
    for batch in store.example_batches(first, stop):
        labels.append(batch.column("label").to_numpy(zero_copy_only=False))
        scores.append(model.predict(batch))
    return _slice(model, first, labels, scores)


def joined(parts: list[ScoredSlice]) -> ScoredSlice:
    """Return slices that follow each other as one."""
    return ScoredSlice(
        first=parts[0].first,
        labels=np.concatenate([part.labels for part in parts]),
        scores=np.concatenate([part.scores for part in parts]),
        parent_scores=no_scores(),
        task=parts[0].task,
    )


def _slice(model: PipelineModel, first: int, labels: list[np.ndarray], scores: list[np.ndarray]) -> ScoredSlice:
    return ScoredSlice(
        first,
        np.concatenate([np.empty(0), *labels]).astype(np.float64),
        np.concatenate([no_scores(model.n_classes), *scores]),
        no_scores(),
        task_of(model.n_classes),
    )

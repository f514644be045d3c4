"""What a resident learner knows: its model, where it stands, how it does, and what the gate will want to see.

Invariant: model, position and evidence are of the same examples. They begin at the flow's head, or at a checkpoint of
the same state, and take in one batch after another; nothing here depends on a broker, or on the time.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from ml_core.data.store import FeatureStore
from ml_core.errors import ProjectError, StateError, StreamError
from ml_core.flow.package import STATE
from ml_core.flow.registry import Registry
from ml_core.flow.version import ModelVersion
from ml_core.pipeline import PipelineModel
from ml_core.project import Flow
from ml_core.streaming.breaker import Breaker
from ml_core.streaming.checkpoint import Checkpoints, Position
from ml_core.streaming.evidence import Evidence
from ml_core.training.evaluation import ScoredSlice
from ml_core.training.metrics import RunningMetrics
from ml_core.training.passes import check_features
from ml_core.training.publishing import golden_rows
from ml_core.training.tasks import no_scores, task_of

_RECENT_ROWS = 10_000
_GOLDEN_ROWS = 32


class LearnerState:
    """The state of a flow's learner; it has one once `begin` was called.

    Parameters
    ----------
    flow : Flow
    store : FeatureStore
    registry : Registry
    checkpoints : Checkpoints

    Attributes
    ----------
    model : PipelineModel
    position : Position
    breaker : Breaker
    recent : RunningMetrics
        Over the newest examples; of two classes only.
    golden : Table
        The rows a publication is proved with.
    through : str
        When the label of the last example learned was known.
    """

    model: PipelineModel
    position: Position
    breaker: Breaker
    golden: pa.Table
    through: str
    _evidence: Evidence
    _fingerprint: str

    def __init__(self, flow: Flow, store: FeatureStore, registry: Registry, checkpoints: Checkpoints) -> None:
        self.recent = RunningMetrics(_RECENT_ROWS)
        self._flow, self._store, self._registry, self._checkpoints = flow, store, registry, checkpoints

    def begin(self, head: ModelVersion) -> None:
        """Load the state of `head`, or of a checkpoint that continues it, and stand where that stands.

        Where it raises, the state is what it was.

        Raises
        ------
        ProjectError
            The pipeline does not learn row by row.
        StateError
            The pipeline or the features changed since the head was trained: only a full training can follow.
        StreamError
            The head has learned what the store does not have.
        """
        check_features(self._flow, self._store, head)
        kept = self._checkpoints.newest(head, self._flow.pipeline)
        if kept is None:
            with self._registry.proved(head) as package:
                model = PipelineModel.load(package.directory / STATE, self._flow.pipeline)
            nothing = ScoredSlice(head.next_example, np.empty(0), no_scores(model.n_classes), no_scores())
            kept = Position.at(head), model, nothing
        position, model, evidence = kept
        if not model.by_row:
            raise ProjectError(f"{self._flow.name}: its pipeline does not learn row by row; train it by increments")
        if position.watermark > self._store.progress().next_example:
            raise StreamError(
                f"{self._flow.name}: version {head.version} has learned {position.watermark} examples, the store"
                f" holds {self._store.progress().next_example}; is MODELFLOW_HOME the one it was trained in?"
            )
        last = self._store.examples(max(0, position.watermark - _GOLDEN_ROWS), position.watermark)
        # all that can fail has been done: a state of two lineages would be written down as one of the new
        self._fingerprint, self.position, self.model = head.feature_fingerprint, position, model
        settings = self._flow.stream.learn
        self.breaker = Breaker(task_of(model.n_classes), settings.breaker_rows, settings.breaker_ratio)
        self._keep(evidence)
        if evidence.labels.size:
            self.breaker.watch(evidence.labels, evidence.scores)
        self.golden = golden_rows(last, model.signature)
        self.through = head.trained_through.isoformat()
        if last.num_rows:
            self.through = last.column("labelled_at")[-1].as_py().isoformat()

    def learn(self, batch: pa.Table | pa.RecordBatch) -> int:
        """Learn the examples that come next; return how many.

        Raises
        ------
        StateError
            The feature table was built anew by another definition. Nothing of the batch was learned.
        """
        if not batch.num_rows:
            return 0
        built_by = self._store.built_by()
        # the owner of the store tells of a new table before anybody can read an example of it
        if built_by != self._fingerprint:
            raise StateError(
                f"{self._flow.name}: version {self.position.base} was trained on features {self._fingerprint[:12]}, the"
                f" feature table is now {built_by[:12]}; run the full training"
            )
        labels = np.asarray(batch.column("label").to_numpy(zero_copy_only=False), np.float64)
        scores = self.model.learn(batch, labels)
        self.breaker.watch(labels, scores)
        if self.breaker.task == "binary":
            self.recent.add(labels, scores)
        self._evidence.add(labels, scores)
        self.through = batch.column("labelled_at")[-1].as_py().isoformat()
        self.position = replace(self.position, watermark=self.position.watermark + labels.size)
        return labels.size

    def count_from(self, version: ModelVersion) -> None:
        """Stand on a version that was made of this state; what was learned beyond it stays learned."""
        self._keep(self.scored().between(version.watermark, self.position.watermark))
        self.position = replace(Position.at(version), watermark=self.position.watermark)

    def scored(self) -> ScoredSlice:
        """Return the labels and scores of the newest examples, as many as the gate looks at."""
        return self._evidence.until(self.position.watermark)

    def described(self) -> dict[str, Any]:
        """Return what a publication says of the model, as JSON values."""
        return {
            "flow": self._flow.name,
            "kind": "stream",
            "parent": self.position.base,
            "watermark": self.position.watermark,
            "trained_through": self.through,
            "feature_fingerprint": self._fingerprint,
            "signature": dict(self.model.signature),
            "golden": _as_json(self.golden),
        }

    def _keep(self, scored: ScoredSlice) -> None:
        self._evidence = Evidence(task_of(self.model.n_classes), scored, self._flow.gate.max_rows)


def _as_json(rows: pa.Table) -> dict[str, list[Any]]:
    """Return the columns of rows, NaN as null."""
    return {
        name: [None if isinstance(value, float) and np.isnan(value) else value for value in values]
        for name, values in rows.to_pydict().items()
    }

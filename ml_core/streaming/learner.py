"""The resident learner: one model that learns each example as it comes, and tells what it has learned.

Invariant: its state is what a child of the flow's head learns from the head's watermark on, bit for bit. So a refused
registration takes nothing back, an accepted one moves only what the state is counted from, and a process that was
killed begins at the head, or at a checkpoint that is a shortcut to the same state. What it publishes never runs ahead
of what it learned, and nothing it learns depends on whether it could publish.

Registering runs in a thread of its own, on a checkpoint; learning does not wait for it.
"""

import json
import logging
import math
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ml_core.data.store import FeatureStore
from ml_core.errors import ModelFlowError, ProjectError, RegistryError, StateError, StreamError, VersionNotFoundError
from ml_core.flow.package import STATE
from ml_core.flow.registry import Registry
from ml_core.flow.verdict import Verdict
from ml_core.flow.version import ModelVersion
from ml_core.pipeline import PipelineModel
from ml_core.project import Flow
from ml_core.streaming.breaker import Breaker
from ml_core.streaming.broker import Broker
from ml_core.streaming.checkpoint import Checkpoints, Position, read_checkpoint
from ml_core.streaming.examples import Examples
from ml_core.streaming.held import Held
from ml_core.streaming.publisher import ModelPublisher
from ml_core.training.evaluation import ScoredSlice
from ml_core.training.gate import judge_and_promote
from ml_core.training.metrics import RunningMetrics
from ml_core.training.passes import way_of
from ml_core.training.publishing import Trained, golden_rows, publish
from ml_core.training.tasks import no_scores, task_of

_LOG = logging.getLogger("modelflow.streaming")
_LOOK_S = 5.0
_TELL_S = 1.0
_RECENT_ROWS = 10_000


class Learner:
    """Learns a flow's examples from its topic and publishes the model.

    Parameters
    ----------
    flow : Flow
    store : FeatureStore
    registry : Registry
    broker : Broker
    monotonic : callable
        Stands in for `time.monotonic`.

    Attributes
    ----------
    model : PipelineModel
    position : Position
    breaker : Breaker

    Raises
    ------
    VersionNotFoundError
        The flow has no version to continue.
    ProjectError
        The pipeline does not learn row by row.
    StateError
        The pipeline or the features changed since the head was trained: only a full training can follow.
    StreamError
        Another process learns this flow.
    """

    def __init__(
        self,
        flow: Flow,
        store: FeatureStore,
        registry: Registry,
        broker: Broker,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.model: PipelineModel
        self.position: Position
        self.breaker: Breaker
        self._flow, self._store, self._registry, self._monotonic = flow, store, registry, monotonic
        self._settings = flow.stream.learn
        self._directory = store.directory / "learner"
        self._checkpoints = Checkpoints(self._directory)
        self._looking: Future[ModelVersion | None] | None = None
        self._registering: Future[tuple[ModelVersion, Verdict]] | None = None
        with ExitStack() as opened:  # what cannot be opened whole is let go, and may be tried again
            opened.enter_context(Held(self._directory / "lock", "learns this flow"))
            head = registry.head(flow.name)
            if head is None:
                raise VersionNotFoundError(f"{flow.name} has no version to continue; run its full training first")
            self._examples = opened.enter_context(closing(Examples(flow.name, store, broker, monotonic=monotonic)))
            self._publisher = opened.enter_context(
                closing(ModelPublisher(flow.name, broker, snapshot_every=self._settings.snapshot_every))
            )
            self._beside = opened.enter_context(ThreadPoolExecutor(1, thread_name_prefix="register"))
            self._opened = opened.pop_all()
        self.learned = 0
        self._recent = RunningMetrics(_RECENT_ROWS)
        self._published_at = self._checked_at = self._registered_at = self._looked_at = monotonic()
        self._told_at, self._untold = -math.inf, False
        self._continue(head)

    # -- learning ------------------------------------------------------------------------------------------------

    def step(self, timeout_s: float = 0.1) -> int:
        """Learn what is there, waiting at most `timeout_s` for it, and do whatever else is due; return how many.

        Raises
        ------
        BrokerDownError
            Nothing is lost; call it again.
        """
        before = self.learned
        for batch in self._examples.read(self.position.watermark, timeout_s):
            self._learn_and_tell(batch)
        self._publish_when_due()
        now = self._monotonic()
        if now - self._checked_at >= self._settings.checkpoint_every.total_seconds():
            self.checkpoint()
        self._follow_head(now)
        return self.learned - before

    @property
    def waiting(self) -> int:
        """How many examples the store has that were not learned."""
        return self._examples.waiting(self.position.watermark)

    def _learn_and_tell(self, batch: pa.Table | pa.RecordBatch) -> None:
        """Learn a batch, and publish at every `publish_rows` examples on the way, however many came together."""
        rows, first = self._settings.publish_rows, 0
        while first < batch.num_rows:
            due = batch.num_rows if rows is None else self._published.watermark + rows - self.position.watermark
            part = batch.slice(first, due if due > 0 else rows)  # overdue while the circuit breaker is open
            self._learn(part)
            self._publish_when_due()
            first += part.num_rows

    def _learn(self, batch: pa.Table | pa.RecordBatch) -> None:
        if not batch.num_rows:
            return
        labels = np.asarray(batch.column("label").to_numpy(zero_copy_only=False), np.float64)
        scores = self.model.learn(batch, labels)
        self.breaker.watch(labels, scores)
        if self.breaker.task == "binary":
            self._recent.add(labels, scores)
        self._evidence.append((labels, scores))
        self._evidence_rows += labels.size
        while self._evidence_rows - self._evidence[0][0].size >= self._flow.gate.max_rows:
            self._evidence_rows -= self._evidence.popleft()[0].size
        self._through = batch.column("labelled_at")[-1].as_py().isoformat()
        self.learned += labels.size
        self.position = replace(self.position, watermark=self.position.watermark + labels.size)

    # -- publishing ----------------------------------------------------------------------------------------------

    def publish(self, *, whole: bool = False) -> None:
        """Send the model to its topic, unless the circuit breaker is open, and tell how it stands."""
        self._send(whole=whole)
        self._tell()

    def _send(self, *, whole: bool = False) -> None:
        self._published_at = self._monotonic()
        if self.breaker.reason is None:
            described = {
                "flow": self._flow.name,
                "kind": "stream",
                "parent": self.position.base,
                "watermark": self.position.watermark,
                "trained_through": self._through,
                "feature_fingerprint": self._fingerprint,
                "signature": dict(self.model.signature),
                "golden": self._golden.to_pydict(),
            }
            scores = self.model.predict(self._golden).tolist()
            self._publisher.publish(self.model.to_onnx(), _plain(described), scores, whole=whole)
            self._published = self.position
        self._untold = True

    def _publish_when_due(self) -> None:
        age = self._monotonic() - self._published_at
        rows = self._settings.publish_rows
        fresh = self.position.watermark - self._published.watermark
        if fresh and (age >= self._settings.publish_every.total_seconds() or (rows is not None and fresh >= rows)):
            self._send()
        if self._untold and self._monotonic() - self._told_at >= _TELL_S:
            self._tell()

    def _tell(self) -> None:
        """Write down how it stands, for people and checks: `learner/status.json`."""
        self._told_at, self._untold = self._monotonic(), False
        told = {
            "base": self.position.base,
            "watermark": self.position.watermark,
            "trained_through": self._through,
            "waiting": self.waiting,
            "learned": self.learned,
            "from_store": self._examples.from_store,
            "loss": self.breaker.loss,
            "recent": self._recent.evaluation.figures() if self._recent.rows else None,
            "breaker": self.breaker.reason,
            "breaker_trips": self.breaker.trips,
            "published_watermark": self._published.watermark,
            "publications": self._publisher.publications,
            "published_bytes": self._publisher.sent_bytes,
            "refused": self._refused,
        }
        part = self._directory / "status.part"
        part.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
        part.replace(self._directory / "status.json")

    # -- checkpoints and versions --------------------------------------------------------------------------------

    def checkpoint(self) -> Path:
        """Keep state, watermark and evidence as one; return the folder."""
        self._checked_at = self._monotonic()
        return self._checkpoints.write(self.position, self.model, self._scored())

    def register(self) -> None:
        """Begin to register what was learned as a version and to judge it, unless that is going on."""
        self._registered_at = self._monotonic()
        if self._registering is None and self.position.watermark > self.position.started and not self.breaker.reason:
            self._registering = self._beside.submit(self._register, self.checkpoint())

    def settle(self) -> None:
        """Wait for a registration that is going on, and follow what it made of the head."""
        if self._registering is not None:
            self._registering.exception()
            self._follow_head(self._monotonic())

    def _register(self, folder: Path) -> tuple[ModelVersion, Verdict]:
        """Publish a checkpoint as a version and judge it; runs beside learning and shares nothing with it."""
        position, model, evidence = read_checkpoint(folder, self._flow.pipeline)
        base = self._registry.version(self._flow.name, position.base)
        with self._registry.proved(base) as package:
            parent = PipelineModel.load(package.directory / STATE, self._flow.pipeline)
        batches = self._store.example_batches(evidence.first, evidence.next)
        scored = replace(evidence, parent_scores=np.concatenate([parent.predict(batch) for batch in batches]))
        way = way_of(self._flow, model)
        trained = Trained("stream", way, base.version, position.watermark, model, scored)
        version = publish(self._flow, self._store, self._registry, trained, tags={})
        return version, judge_and_promote(self._flow, self._registry, version)

    def _follow_head(self, now: float) -> None:
        """Take in what registering came to, and look at the head now and then; continue it where it is another's."""
        if self._registering is not None:
            if self._registering.done():
                done, self._registering = self._registering, None
                self._registered(done)
        elif self._looking is not None:
            if self._looking.done():
                looked, self._looking = self._looking, None
                self._looked(looked)
        elif now - self._registered_at >= self._settings.register_every.total_seconds():
            self.register()
        elif now - self._looked_at >= _LOOK_S:
            self._looked_at = now
            self._looking = self._beside.submit(self._registry.head, self._flow.name)

    def _registered(self, done: Future[tuple[ModelVersion, Verdict]]) -> None:
        try:
            version, verdict = done.result()
        except ModelFlowError as error:
            # a version the gate could not judge is nobody's parent; the next look at the head says what is
            _LOG.warning("%s: not registered: %s", self._flow.name, error)
            return
        if not verdict.accepted:
            self._refused += 1
            _LOG.warning("%s: version %s refused: %s", self._flow.name, version.version, "; ".join(verdict.reasons))
            return
        _LOG.info("%s: version %s in Production", self._flow.name, version.version)
        self._restore_evidence(self._scored().between(version.watermark, self.position.watermark))
        self.position = replace(Position.at(version), watermark=self.position.watermark)

    def _looked(self, done: Future[ModelVersion | None]) -> None:
        try:
            head = done.result()
        except RegistryError as error:
            _LOG.warning("%s: the registry does not answer: %s", self._flow.name, error)
            return
        if head is not None and not self.position.continues(head):
            self._rebase(head)

    def _rebase(self, head: ModelVersion) -> None:
        """Continue a head that is not ours, from its watermark up to where we were, and publish it whole.

        Until it has caught up, the topic keeps what was published before.
        """
        _LOG.info("%s: continuing version %s, which others made", self._flow.name, head.version)
        reached = self.position.watermark
        self._continue(head)
        for batch in self._store.example_batches(self.position.watermark, reached):
            self._learn(batch)
        self._examples.seek(self.position.watermark)
        self.publish(whole=True)

    def _continue(self, head: ModelVersion) -> None:
        """Load the state of `head`, or of a checkpoint that continues it, and stand where that stands."""
        self._fingerprint = self._store.fingerprint()
        if head.feature_fingerprint != self._fingerprint:
            raise StateError(
                f"{self._flow.name}: version {head.version} was trained on features {head.feature_fingerprint[:12]},"
                f" the feature table is now {self._fingerprint[:12]}; run the full training"
            )
        kept = self._checkpoints.newest(head, self._flow.pipeline)
        if kept is None:
            with self._registry.proved(head) as package:
                model = PipelineModel.load(package.directory / STATE, self._flow.pipeline)
            nothing = ScoredSlice(head.next_example, np.empty(0), no_scores(model.n_classes), no_scores())
            kept = Position.at(head), model, nothing
        self.position, self.model, evidence = kept
        if not self.model.by_row:
            raise ProjectError(f"{self._flow.name}: its pipeline does not learn row by row; train it by increments")
        if self.position.watermark > self._store.progress().next_example:
            raise StreamError(
                f"{self._flow.name}: version {head.version} has learned {self.position.watermark} examples, the store"
                f" holds {self._store.progress().next_example}; is MODELFLOW_HOME the one it was trained in?"
            )
        task = task_of(self.model.n_classes)
        self.breaker = Breaker(task, self._settings.breaker_rows, self._settings.breaker_ratio)
        self._restore_evidence(evidence)
        if evidence.labels.size:
            self.breaker.watch(evidence.labels, evidence.scores)
        last = self._store.examples(max(0, self.position.watermark - 32), self.position.watermark)
        self._golden = golden_rows(last, self.model.signature)
        self._through = head.trained_through.isoformat()
        if last.num_rows:
            self._through = last.column("labelled_at")[-1].as_py().isoformat()
        self._published = replace(self.position, watermark=-1)
        self._refused = 0
        self._examples.seek(self.position.watermark)

    def _scored(self) -> ScoredSlice:
        """Return the labels and scores of the newest examples, as many as the gate looks at."""
        labels, scores = (np.concatenate(parts) for parts in zip(*self._evidence, strict=True))
        return ScoredSlice(
            self.position.watermark - labels.size, labels, scores, no_scores(), task_of(self.model.n_classes)
        )

    def _restore_evidence(self, scored: ScoredSlice) -> None:
        self._evidence: deque[tuple[NDArray[np.float64], NDArray[np.float64]]] = deque([(scored.labels, scored.scores)])
        self._evidence_rows = scored.labels.size

    def close(self) -> None:
        """Keep a checkpoint, let a registration end, and let go of the broker."""
        self._beside.shutdown()
        self.checkpoint()
        if self._untold:
            self._tell()
        self._opened.close()


def _plain(described: dict[str, Any]) -> dict[str, Any]:
    """Return what JSON gives back, NaN as null."""
    golden = {
        name: [None if isinstance(value, float) and np.isnan(value) else value for value in values]
        for name, values in described["golden"].items()
    }
    return described | {"golden": golden}

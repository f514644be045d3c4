"""The resident learner: one model that learns each example as it comes, and tells what it has learned.

Invariant: its state is what a child of the flow's head learns from the head's watermark on, bit for bit. So a refused
registration takes nothing back, an accepted one moves only what the state is counted from, and a process that was
killed begins at the head, or at a checkpoint that is a shortcut to the same state. What it publishes never runs ahead
of what it learned, and nothing it learns depends on whether it could publish.
"""

import json
import logging
import math
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from ml_core.data.store import FeatureStore
from ml_core.errors import ModelFlowError, VersionNotFoundError
from ml_core.flow.registry import Registry
from ml_core.flow.verdict import Verdict
from ml_core.flow.version import ModelVersion
from ml_core.pipeline import PipelineModel
from ml_core.project import Flow
from ml_core.streaming.breaker import Breaker
from ml_core.streaming.broker import Broker
from ml_core.streaming.checkpoint import Checkpoints, Position
from ml_core.streaming.examples import Examples
from ml_core.streaming.held import Held
from ml_core.streaming.publisher import ModelPublisher
from ml_core.streaming.registering import Registrar
from ml_core.streaming.state import LearnerState

_LOG = logging.getLogger("modelflow.streaming")
_LOOK_S = 5.0
_TELL_S = 1.0


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
        self._flow, self._store, self._registry, self._monotonic = flow, store, registry, monotonic
        self._settings = flow.stream.learn
        self._directory = store.directory / "learner"
        self._checkpoints = Checkpoints(self._directory)
        self._state = LearnerState(flow, store, registry, self._checkpoints)
        with ExitStack() as opened:  # what cannot be opened whole is let go, and may be tried again
            opened.enter_context(Held(self._directory / "lock", "learns this flow"))
            head = registry.head(flow.name)
            if head is None:
                raise VersionNotFoundError(f"{flow.name} has no version to continue; run its full training first")
            self._examples = opened.enter_context(closing(Examples(flow.name, store, broker, monotonic=monotonic)))
            self._publisher = opened.enter_context(
                closing(ModelPublisher(flow.name, broker, snapshot_every=self._settings.snapshot_every))
            )
            self._registrar = opened.enter_context(closing(Registrar(flow, store, registry)))
            self._continue(head)
            self._opened = opened.pop_all()
        self.learned = 0
        self._published_at = self._checked_at = self._registered_at = self._looked_at = monotonic()
        self._told_at, self._untold = -math.inf, False

    @property
    def model(self) -> PipelineModel:
        """The model as it is now."""
        return self._state.model

    @property
    def position(self) -> Position:
        """Where it stands."""
        return self._state.position

    @property
    def breaker(self) -> Breaker:
        """What holds publications back."""
        return self._state.breaker

    # -- learning ------------------------------------------------------------------------------------------------

    def step(self, timeout_s: float = 0.1) -> int:
        """Learn what is there, waiting at most `timeout_s` for it, and do whatever else is due; return how many.

        Raises
        ------
        BrokerDownError
            Nothing is lost; call it again.
        StateError
            The features changed since the head was trained: only a full training can follow. Nothing made of the new
            ones was learned.
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
        self.learned += self._state.learn(batch)

    # -- publishing ----------------------------------------------------------------------------------------------

    def publish(self, *, whole: bool = False) -> None:
        """Send the model to its topic, unless the circuit breaker is open, and tell how it stands."""
        self._send(whole=whole)
        self._tell()

    def _send(self, *, whole: bool = False) -> None:
        self._published_at = self._monotonic()
        if self.breaker.reason is None:
            scores = self.model.predict(self._state.golden).tolist()
            self._publisher.publish(self.model.to_onnx(), self._state.described(), scores, whole=whole)
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
            "trained_through": self._state.through,
            "waiting": self.waiting,
            "learned": self.learned,
            "from_store": self._examples.from_store,
            "loss": self.breaker.loss,
            "recent": self._state.recent.evaluation.figures() if self._state.recent.rows else None,
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
        return self._checkpoints.write(self.position, self.model, self._state.scored())

    def register(self) -> None:
        """Begin to register what was learned as a version and to judge it, unless that is going on.

        Where the circuit breaker is open, nothing is registered, and the log says so.
        """
        self._registered_at = self._monotonic()
        if self._registrar.registering or self.position.watermark <= self.position.started:
            return
        if self.breaker.reason:
            _LOG.warning(
                "%s: the examples from %d up to %d are not registered: the circuit breaker is open: %s",
                self._flow.name,
                self.position.started,
                self.position.watermark,
                self.breaker.reason,
            )
            return
        self._registrar.register(self.checkpoint())

    def settle(self) -> ModelFlowError | None:
        """Wait for a registration that is going on, and follow what it made of the head; return what it failed of."""
        self._registrar.wait()
        return self._take_registered()

    def finish(self) -> None:
        """Publish what was learned, and register it as a child of what the head is by then; wait for the verdict.

        Raises
        ------
        ModelFlowError
            It could not be registered.
        """
        self.settle()
        self.publish()
        self.register()
        while (failure := self.settle()) is not None:
            head = self._registry.head(self._flow.name)
            if head is None or self.position.continues(head):
                raise failure
            self._rebase(head)
            self.register()

    def _follow_head(self, now: float) -> None:
        """Take in what registering came to, and look at the head now and then; continue it where it is another's."""
        if self._registrar.registering:
            self._take_registered()
        elif self._registrar.looking:
            head = self._registrar.seen()
            if head is not None and not self.position.continues(head):
                self._rebase(head)
        elif now - self._registered_at >= self._settings.register_every.total_seconds():
            self.register()
        elif now - self._looked_at >= _LOOK_S:
            self._looked_at = now
            self._registrar.look()

    def _take_registered(self) -> ModelFlowError | None:
        """Take in what registering came to, if it has come to anything; return what it failed of."""
        try:
            registered = self._registrar.registered()
        except ModelFlowError as failure:
            _LOG.warning("%s: not registered: %s", self._flow.name, failure)
            return failure
        if registered is not None:
            self._take_in(*registered)
        return None

    def _take_in(self, version: ModelVersion, verdict: Verdict) -> None:
        if not verdict.accepted:
            self._refused += 1
            _LOG.warning("%s: version %s refused: %s", self._flow.name, version.version, "; ".join(verdict.reasons))
            return
        _LOG.info("%s: version %s in Production", self._flow.name, version.version)
        self._state.count_from(version)

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
        """Stand where `head` stands, or a checkpoint that continues it."""
        self._state.begin(head)
        self._published = replace(self.position, watermark=-1)
        self._refused = 0
        self._examples.seek(self.position.watermark)

    def close(self) -> None:
        """Keep a checkpoint, let a registration end, and let go of the broker."""
        self._registrar.close()
        self.checkpoint()
        if self._untold:
            self._tell()
        self._opened.close()

"""What a learner asks of the registry, in a thread of its own: to register a checkpoint, and what the head is.

Invariant: one thing is going on at a time, and it shares nothing with learning, which does not wait for it. A version
is made of a checkpoint's folder alone.
"""

import logging
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from ml_core.data.store import FeatureStore
from ml_core.errors import RegistryError
from ml_core.flow.package import STATE
from ml_core.flow.registry import Registry
from ml_core.flow.verdict import Verdict
from ml_core.flow.version import ModelVersion
from ml_core.pipeline import PipelineModel
from ml_core.project import Flow
from ml_core.streaming.checkpoint import read_checkpoint
from ml_core.training.gate import judge_and_promote
from ml_core.training.passes import way_of
from ml_core.training.publishing import Trained, publish

_LOG = logging.getLogger("modelflow.streaming")


class Registrar:
    """Registers versions of a flow, and looks at its head.

    Parameters
    ----------
    flow : Flow
    store : FeatureStore
    registry : Registry
    """

    def __init__(self, flow: Flow, store: FeatureStore, registry: Registry) -> None:
        self._flow, self._store, self._registry = flow, store, registry
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="register")
        self._registering: Future[tuple[ModelVersion, Verdict]] | None = None
        self._looking: Future[ModelVersion | None] | None = None

    @property
    def registering(self) -> bool:
        """Whether a registration was begun whose outcome nobody took."""
        return self._registering is not None

    @property
    def looking(self) -> bool:
        """Whether a look at the head was begun whose outcome nobody took."""
        return self._looking is not None

    def register(self, folder: Path) -> None:
        """Begin to publish a checkpoint as a version, and to judge it."""
        self._registering = self._thread.submit(self._register, folder)

    def registered(self) -> tuple[ModelVersion, Verdict] | None:
        """Take what registering came to; None while it goes on.

        Raises
        ------
        ModelFlowError
            It came to nothing. A version the gate could not judge is nobody's parent; the head says what is.
        """
        if self._registering is None or not self._registering.done():
            return None
        done, self._registering = self._registering, None
        return done.result()

    def look(self) -> None:
        """Begin to look at the head."""
        self._looking = self._thread.submit(self._registry.head, self._flow.name)

    def seen(self) -> ModelVersion | None:
        """Take the head that was seen; None while looking goes on, and where there is none or no answer."""
        if self._looking is None or not self._looking.done():
            return None
        looked, self._looking = self._looking, None
        try:
            return looked.result()
        except RegistryError as error:
            _LOG.warning("%s: the registry does not answer: %s", self._flow.name, error)
            return None

    def wait(self) -> None:
        """Wait for a registration that is going on."""
        if self._registering is not None:
            self._registering.exception()

    def close(self) -> None:
        """Let what is going on end, and begin nothing more."""
        self._thread.shutdown()

    def _register(self, folder: Path) -> tuple[ModelVersion, Verdict]:
        position, model, evidence = read_checkpoint(folder, self._flow.pipeline)
        base = self._registry.version(self._flow.name, position.base)
        with self._registry.proved(base) as package:
            parent = PipelineModel.load(package.directory / STATE, self._flow.pipeline)
        batches = self._store.example_batches(evidence.first, evidence.next)
        scored = replace(evidence, parent_scores=np.concatenate([parent.predict(batch) for batch in batches]))
        way = way_of(self._flow, model)
        trained = Trained("stream", way, base.version, position.watermark, model, scored, base.feature_fingerprint)
        version = publish(self._flow, self._store, self._registry, trained, tags={})
        return version, judge_and_promote(self._flow, self._registry, version)

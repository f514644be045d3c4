"""What every follower is, wherever versions come from: one thread, one state machine, one reference that is swapped.

::

    idle ─► resolving ─► downloading ─► verifying ─► warming ─► swapped ─► idle
     ▲          │             │             │           │
     └──────────┴─────────────┴─────────────┴───────────┘   nothing new · source down · version quarantined

The reference is replaced only on the way from `warming` to `swapped`; requests that began with the old model finish
with it, and it is freed with the last of them. Whatever fails is recorded, and the last good model stays.
"""

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from ml_core.clock import Clock, SystemClock
from ml_core.errors import ModelFlowError, NotReadyError, RegistryError, StreamError
from serving.board import Peers
from serving.model import ServedModel

_LOG = logging.getLogger("modelflow.serving")
_REMEMBERED = 50


class State(StrEnum):
    """What the follower is doing."""

    IDLE = "idle"
    RESOLVING = "resolving"
    DOWNLOADING = "downloading"
    VERIFYING = "verifying"
    WARMING = "warming"
    SWAPPED = "swapped"


NEXT: dict[State, set[State]] = {
    State.IDLE: {State.RESOLVING, State.VERIFYING},  # a cached package needs no download
    State.RESOLVING: {State.IDLE, State.DOWNLOADING},
    State.DOWNLOADING: {State.IDLE, State.VERIFYING},
    State.VERIFYING: {State.IDLE, State.WARMING},
    State.WARMING: {State.IDLE, State.SWAPPED},
    State.SWAPPED: {State.IDLE},
}


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A version that could not be proved.

    Attributes
    ----------
    failures : int
        How often it was tried.
    retry_at : float
        When it is tried again, in seconds of the monotonic clock.
    """

    version: int
    reason: str
    failures: int
    since: datetime
    retry_at: float


@dataclass(frozen=True, slots=True)
class Swap:
    """One change of the served model."""

    at: datetime
    version: int
    before: int | None
    from_cache: bool


@dataclass(frozen=True, slots=True)
class FollowerSettings:
    """How a follower follows.

    Attributes
    ----------
    poll_interval_s : float
        The longest pause between two looks at a registry that answers within a tenth of it; one that takes longer is
        asked less often.
    registry_timeout_s : float
        How long one request to the registry may take.
    cache : Path or None
        A folder for the last good package.
    accept_new_signature : bool
        Whether to follow to a version that needs columns the served one does not; otherwise it is quarantined, because
        callers would be refused from that moment on.
    refuse_extra : bool
        Whether a column outside the signature is an error.
    max_staleness_s : float or None
        How old the newest example a served model has learned may be before the follower is no longer ready.
    """

    poll_interval_s: float = 1.0
    registry_timeout_s: float = 5.0
    cache: Path | None = None
    accept_new_signature: bool = False
    refuse_extra: bool = False
    max_staleness_s: float | None = None


class Following(ABC):
    """Keeps `current` at the version its source says.

    Parameters
    ----------
    address : ModelAddress or TopicAddress
    settings : FollowerSettings
    clock : Clock
        Stamps what happened; decisions are made on the monotonic clock.
    monotonic : callable, optional
        Stands in for `time.monotonic`.
    peers : Peers, optional
        The other workers of one sidecar, which swap together.

    Attributes
    ----------
    current : ServedModel or None
        Read it once per request and use what was read to the end.
    vacant : bool
        Whether the source said last that there is nothing; the last good model goes on answering.
    registry_answers : bool
        Whether the source answered last.
    """

    def __init__(
        self,
        address: Any,
        *,
        settings: FollowerSettings | None = None,
        clock: Clock | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        peers: Peers | None = None,
    ) -> None:
        self.address = address
        self.settings = settings or FollowerSettings()
        self.current: ServedModel | None = None
        self.state = State.IDLE
        self.registry_answers = False
        self.last_error: str | None = None
        self.last_contact: datetime | None = None
        self.vacant = False
        self.polls = self.failures = self.swaps = 0
        self.history: deque[Swap] = deque(maxlen=_REMEMBERED)
        self._quarantine: dict[tuple[int, str | None], Quarantined] = {}
        self._clock = clock or SystemClock()
        self._monotonic = monotonic
        self._peers = peers
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    @abstractmethod
    def step(self) -> float:
        """Look at the source once and follow it; return the pause until the next look. It never raises."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the source."""

    @property
    def quarantine(self) -> tuple[Quarantined, ...]:
        """The versions that could not be proved, since the address's own was last served; the last one tried last."""
        return tuple(self._quarantine.values())

    @property
    def alive(self) -> bool:
        """Whether it still follows, or has no more need to."""
        return self._thread is None or self._thread.is_alive() or self._settled

    @property
    def staleness_s(self) -> float | None:
        """Seconds since the newest example that the served model has learned; None where nothing says so."""
        model = self.current
        if model is None or model.trained_through is None:
            return None
        return (self._clock.now() - model.trained_through).total_seconds()

    @property
    def ready(self) -> bool:
        """Whether a verified model is loaded, and none too old where a limit is set."""
        limit = self.settings.max_staleness_s
        if self.current is None or limit is None:
            return self.current is not None
        age = self.staleness_s
        return age is not None and age <= limit

    def load_first(self) -> None:
        """Load what the address points at now; raise the reason when there is nothing to serve."""
        self.step()
        if self.current is None:
            raise NotReadyError(f"{self.address.flow}: nothing to serve: {self.last_error}")

    def start(self) -> None:
        """Follow in the background until stopped."""
        self._thread = threading.Thread(target=self._follow, name=f"follow-{self.address.flow}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop following; the current model goes on answering."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(timeout=self.settings.registry_timeout_s + 1)
        self.close()

    @property
    def _settled(self) -> bool:
        """Whether there is nothing to follow any more."""
        return False

    def _follow(self) -> None:
        pause = 0.0
        while not self._stopped.wait(pause) and not self._settled:
            pause = self.step()

    def _swap(self, model: ServedModel, *, told: int = logging.INFO) -> None:
        if self._peers is not None:
            self._peers.swap_together(model.ref)
        self._move(State.SWAPPED)
        before = self.current.version if self.current else None
        self.current = model
        self.swaps += 1
        self.history.append(Swap(model.loaded_at, model.version, before, model.from_cache))
        after = "the first" if before is None else f"after {before}"
        _LOG.log(told, "%s: serving version %s, %s", model.ref.flow, model.version, after)

    def _report(self, error: Exception) -> None:
        told = str(error) if isinstance(error, ModelFlowError) else f"{type(error).__name__}: {error}"
        if self.last_error != told:
            _LOG.warning("%s: %s", self.address.flow, told, exc_info=not isinstance(error, RegistryError | StreamError))
        self.last_error = told

    def _answered(self) -> None:
        self.registry_answers, self.last_contact = True, self._clock.now()

    def _put_aside(self, identity: tuple[int, str | None], error: Exception, retry_at: float) -> None:
        """Put a version into quarantine with its reason."""
        known = self._quarantine.pop(identity, None)
        reason = str(error) if isinstance(error, ModelFlowError) else f"{type(error).__name__}: {error}"
        since = known.since if known else self._clock.now()
        failures = known.failures + 1 if known else 1
        while len(self._quarantine) >= _REMEMBERED:
            self._quarantine.pop(next(iter(self._quarantine)))
        self._quarantine[identity] = Quarantined(identity[0], reason, failures, since, retry_at)
        self.failures += 1
        self.last_error = reason
        _LOG.error("%s: version %s is quarantined, attempt %s: %s", self.address.flow, identity[0], failures, reason)

    def _move(self, state: State) -> None:
        if state not in NEXT[self.state]:
            raise AssertionError(f"a follower does not go from {self.state} to {state}")
        self.state = state

"""Following a flow: one thread, one explicit state machine, one reference that is swapped.

::

    idle ─► resolving ─► downloading ─► verifying ─► warming ─► swapped ─► idle
     ▲          │             │             │           │
     └──────────┴─────────────┴─────────────┴───────────┘   nothing new · registry down · version quarantined

The reference is replaced only on the way from `warming` to `swapped`; requests that began with the old model finish
with it, and it is freed with the last of them. The first version loaded is the one the address points at now, never
"from now on". A version that fails is quarantined with its reason and tried again, each time after a longer pause with
jitter; any other version that comes to stand at the address, newer or older, is tried at once. With nothing to serve
and the registry down, or its version broken, the last good package of the cache serves, and after it the version the
flow served before (the alias `previous`).
"""

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from ml_core.clock import Clock, SystemClock
from ml_core.errors import (
    ModelFlowError,
    NotReadyError,
    PackageError,
    RegistryDownError,
    RegistryError,
    VersionNotFoundError,
)
from ml_core.flow.read import ModelAddress, RegistryReader, VersionRef, open_registry
from serving.board import Peers
from serving.cache import PackageCache
from serving.model import ServedModel, prove, warm_up

_LOG = logging.getLogger("modelflow.serving")
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 300.0
_LONGEST_DOWN_PAUSE_S = 5.0
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
        The longest pause between two looks at a registry that answers.
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
    registry_timeout_s: float = 2.0
    cache: Path | None = None
    accept_new_signature: bool = False
    refuse_extra: bool = False
    max_staleness_s: float | None = None


class Follower:
    """Keeps `current` at the version a model address points at.

    Parameters
    ----------
    address : ModelAddress
    tracking_uri : str
        The MLflow registry.
    settings : FollowerSettings
    clock : Clock
        Stamps what happened; decisions are made on the monotonic clock.
    registry : RegistryReader, optional
        Stands in for the one at `tracking_uri`.
    monotonic : callable, optional
        Stands in for `time.monotonic`.
    peers : Peers, optional
        The other workers of one sidecar, which swap together.

    Attributes
    ----------
    current : ServedModel or None
        Read it once per request and use what was read to the end.
    vacant : bool
        Whether the registry said last that nothing stands at the address; the last good model goes on answering.
    """

    def __init__(
        self,
        address: ModelAddress,
        tracking_uri: str,
        *,
        settings: FollowerSettings | None = None,
        clock: Clock | None = None,
        registry: RegistryReader | None = None,
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
        self._registry = registry or open_registry(tracking_uri, timeout_s=self.settings.registry_timeout_s)
        self._cache = PackageCache(self.settings.cache, origin=f"{tracking_uri} {address}")
        self._clock = clock or SystemClock()
        self._monotonic = monotonic
        self._peers = peers
        self._down_for = 0
        self._cache_failed = False
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

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
        self._registry.close()

    def step(self) -> float:
        """Look at the registry once, load what stands at the address when it is something else; return the next pause.

        It never raises: whatever fails is recorded, and the last good model stays.
        """
        self.polls += 1
        pause = self.settings.poll_interval_s * random.uniform(0.8, 1.0)  # noqa: S311 - followers must not march in step
        try:
            self._look()
        except RegistryDownError as error:
            self._report(error)
            self.registry_answers = False
            self._down_for = min(self._down_for + 1, 16)
            pause *= min(2.0**self._down_for, max(1.0, _LONGEST_DOWN_PAUSE_S / self.settings.poll_interval_s))
        except VersionNotFoundError as error:
            self._report(error)
            self._answered()
            self.vacant = True
        except Exception as error:  # the follower's thread is a process boundary: it must not die  # noqa: BLE001
            self._report(error)
        self.state = State.IDLE
        if self.current is None:
            self._fall_back()
        return pause

    @property
    def _settled(self) -> bool:
        """A number never points elsewhere, so once it is loaded from the registry there is nothing to follow."""
        return self.address.pinned and self.current is not None and not self.current.from_cache

    def _follow(self) -> None:
        pause = 0.0
        while not self._stopped.wait(pause) and not self._settled:
            pause = self.step()

    def _look(self) -> None:
        serving = self.current
        self._move(State.RESOLVING)
        ref = self._registry.resolve(self.address, serving=serving.version if serving else None)
        self._answered()
        self.vacant = False
        if serving is None or serving.from_cache or _identity(serving.ref) != _identity(ref):
            entry = self._quarantine.get(_identity(ref))
            if entry is not None and self._monotonic() < entry.retry_at:
                return
            self._load(ref)
        if self.current is not None and _identity(self.current.ref) == _identity(ref):
            self.last_error = None
            self._quarantine.clear()

    def _answered(self) -> None:
        self.registry_answers, self.last_contact, self._down_for = True, self._clock.now(), 0

    def _load(self, ref: VersionRef) -> None:
        """Download, prove and swap; a version that cannot be proved goes into quarantine, whatever the reason."""
        try:
            with self._cache.incoming() as folder:
                package = folder / "package"
                self._move(State.DOWNLOADING)
                self._registry.download(ref, package)
                model = self._prove(ref, package)
                self._cache.keep(ref, package)
        except RegistryDownError:
            raise  # it says nothing about the version
        except Exception as error:  # no version may stop the follower, however it fails  # noqa: BLE001
            self._put_into_quarantine(ref, error)
        else:
            self._swap(model)

    def _prove(self, ref: VersionRef, package: Path, *, from_cache: bool = False) -> ServedModel:
        self._move(State.VERIFYING)
        refuse_extra = self.settings.refuse_extra
        model = prove(ref, package, loaded_at=self._clock.now(), from_cache=from_cache, refuse_extra=refuse_extra)
        if self.current is not None and not self.settings.accept_new_signature:
            _check_signature(self.current, model)
        self._move(State.WARMING)
        warm_up(model)
        return model

    def _swap(self, model: ServedModel) -> None:
        if self._peers is not None:
            self._peers.swap_together(model.ref)
        self._move(State.SWAPPED)
        before = self.current.version if self.current else None
        self.current = model
        self.swaps += 1
        self.history.append(Swap(model.loaded_at, model.version, before, model.from_cache))
        _LOG.info("%s: serving version %s after %s", model.ref.flow, model.version, before)

    def _fall_back(self) -> None:
        """With nothing to serve: the cached package, or else the version the flow served before."""
        if self.last_contact is not None and not self._quarantine:
            return  # the registry answers, and says there is nothing at the address
        kept = None if self._cache_failed else self._cache.last()
        try:
            if kept is not None:
                self._cache_failed = True
                self._swap(self._prove(*kept, from_cache=True))
                self._cache_failed = False
            elif self.registry_answers and self.address.stage == "Production":
                self._move(State.RESOLVING)
                ref = self._registry.resolve(ModelAddress(self.address.flow, alias="previous"))
                if _identity(ref) not in self._quarantine:
                    self._load(ref)
        except Exception as error:  # like a version, a cached package may be broken in any way  # noqa: BLE001
            _LOG.warning("%s: nothing to fall back to: %s", self.address.flow, error)
        self.state = State.IDLE

    def _put_into_quarantine(self, ref: VersionRef, error: Exception) -> None:
        known = self._quarantine.pop(_identity(ref), None)
        failures = known.failures + 1 if known else 1
        pause = min(_FIRST_PAUSE_S * 2.0 ** (failures - 1), _LONGEST_PAUSE_S) * random.uniform(0.5, 1.0)  # noqa: S311 - jitter
        reason = str(error) if isinstance(error, ModelFlowError) else f"{type(error).__name__}: {error}"
        since = known.since if known else self._clock.now()
        while len(self._quarantine) >= _REMEMBERED:
            self._quarantine.pop(next(iter(self._quarantine)))
        if self._peers is not None:
            self._peers.refuse(ref)
        retry_at = self._monotonic() + pause
        self._quarantine[_identity(ref)] = Quarantined(ref.version, reason, failures, since, retry_at)
        self.failures += 1
        self.last_error = reason
        _LOG.error("%s: version %s is quarantined, attempt %s: %s", ref.flow, ref.version, failures, reason)

    def _report(self, error: Exception) -> None:
        told = str(error) if isinstance(error, ModelFlowError) else f"{type(error).__name__}: {error}"
        if self.last_error != told:
            _LOG.warning("%s: %s", self.address.flow, told, exc_info=not isinstance(error, RegistryError))
        self.last_error = told

    def _move(self, state: State) -> None:
        if state not in NEXT[self.state]:
            raise AssertionError(f"a follower does not go from {self.state} to {state}")
        self.state = state


def _identity(ref: VersionRef) -> tuple[int, str | None]:
    """Return what makes a version another one: a flow that was deleted and made anew reuses its numbers."""
    return ref.version, ref.manifest_sha256


def _check_signature(served: ServedModel, model: ServedModel) -> None:
    """Raise PackageError when callers of the served model would be refused by the new one."""
    new = {name: kind for name, kind in model.signature.items() if served.signature.get(name) != kind}
    if new:
        raise PackageError(
            f"{model.ref.flow} version {model.version}: it needs columns that version {served.version} does not:"
            f" {new}; once callers send them, start with --accept-new-signature"
        )

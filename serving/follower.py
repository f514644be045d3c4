"""Following a flow in the registry: the version its model address points at, verified, cached, and swapped in.

The first version loaded is the one the address points at now, never "from now on". A version that fails is quarantined
with its reason and tried again, each time after a longer pause with jitter; any other version that comes to stand at
the address, newer or older, is tried at once. With nothing to serve and the registry down, or its version broken, the
last good package of the cache serves, and after it the version the flow served before (the alias `previous`).

Many followers keep one registry alive together without knowing of each other: each looks with a jitter of its own,
waits nine times as long as its looks take, and doubles its pause each time it is not answered in time.
"""

import logging
import random
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from ml_core.clock import Clock
from ml_core.disk import is_full
from ml_core.errors import RegistryDownError, VersionNotFoundError
from ml_core.flow.read import ModelAddress, RegistryReader, VersionRef, open_registry
from serving.board import Peers
from serving.cache import PackageCache
from serving.following import FollowerSettings, Following, State
from serving.model import ServedModel, check_signature, prove, warm_up

_LOG = logging.getLogger("modelflow.serving")
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 300.0
_LONGEST_DOWN_PAUSE_S = 5.0
# a look takes a follower at most a tenth of its time: where a registry is slow because too many ask, all ask less;
# the fastest of the last looks counts, since one that was slow says little
_PAUSES_A_LOOK, _LOOKS = 9.0, 3
_LONGEST_SLOW_PAUSE_S = 30.0


class Follower(Following):
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
        super().__init__(address, settings=settings, clock=clock, monotonic=monotonic, peers=peers)
        self._registry = registry or open_registry(tracking_uri, timeout_s=self.settings.registry_timeout_s)
        self._cache = PackageCache(self.settings.cache, origin=f"{tracking_uri} {address}")
        self._down_for = 0
        self._looks_s: deque[float] = deque(maxlen=_LOOKS)
        self._cache_failed = False

    def close(self) -> None:
        """Let go of the registry."""
        self._registry.close()

    def step(self) -> float:
        """Look at the registry once, load what stands at the address when it is something else; return the next pause.

        It never raises: whatever fails is recorded, and the last good model stays.
        """
        self.polls += 1
        interval, jitter = self.settings.poll_interval_s, random.uniform(0.8, 1.0)  # noqa: S311 - not all in step
        began = self._monotonic()
        try:
            self._look()
            self._down_for = 0
        except RegistryDownError as error:
            self._report(error)
            self.registry_answers = False
            self._down_for = min(self._down_for + 1, 16)
            silent = (
                self._monotonic() - began >= self.settings.registry_timeout_s
            )  # it may be there, and asked too much
            longest = max(interval, _LONGEST_SLOW_PAUSE_S if silent else _LONGEST_DOWN_PAUSE_S)
            interval = min(interval * 2.0 ** (self._down_for - 1), longest)
            if silent:  # those who were turned away together come back one by one
                jitter = random.uniform(0.3, 1.0)  # noqa: S311
        except VersionNotFoundError as error:
            self._report(error)
            self._answered()
            self._down_for = 0
            self.vacant = True
        except Exception as error:  # the follower's thread is a process boundary: it must not die  # noqa: BLE001
            self._report(error)
        self.state = State.IDLE
        if self.current is None:
            self._fall_back()
        slow = min(_PAUSES_A_LOOK * min(self._looks_s, default=0.0), _LONGEST_SLOW_PAUSE_S)
        return jitter * max(interval, slow)

    @property
    def _settled(self) -> bool:
        """A number never points elsewhere, so once it is loaded from the registry there is nothing to follow."""
        return self.address.pinned and self.current is not None and not self.current.from_cache

    def _look(self) -> None:
        serving = self.current
        self._move(State.RESOLVING)
        began = self._monotonic()
        ref = self._registry.resolve(self.address, serving=serving.version if serving else None)
        self._looks_s.append(self._monotonic() - began)
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

    def _load(self, ref: VersionRef) -> None:
        """Download, prove and swap; a version that cannot be proved goes into quarantine, whatever the reason."""
        try:
            model = self._fetched(ref)
        except RegistryDownError:
            raise  # it says nothing about the version
        except Exception as error:  # no version may stop the follower, however it fails  # noqa: BLE001
            self._put_into_quarantine(ref, error)
        else:
            self._swap(model)

    def _fetched(self, ref: VersionRef) -> ServedModel:
        """Download and prove a version, and keep it; where the cache's disk is full, without keeping it."""
        try:
            with self._cache.incoming() as folder:
                model = self._downloaded(ref, folder)
                self._cache.keep(ref, folder / "package")
                return model
        except OSError as error:
            if self.settings.cache is None or not is_full(error):
                raise
            _LOG.warning("version %s cannot be kept: no room in %s: %s", ref.version, self.settings.cache, error)
        self._move(State.IDLE)
        self._move(State.RESOLVING)
        with self._cache.elsewhere() as folder:
            return self._downloaded(ref, folder)

    def _downloaded(self, ref: VersionRef, folder: Path) -> ServedModel:
        self._move(State.DOWNLOADING)
        self._registry.download(ref, folder / "package")
        return self._prove(ref, folder / "package")

    def _prove(self, ref: VersionRef, package: Path, *, from_cache: bool = False) -> ServedModel:
        self._move(State.VERIFYING)
        refuse_extra = self.settings.refuse_extra
        model = prove(ref, package, loaded_at=self._clock.now(), from_cache=from_cache, refuse_extra=refuse_extra)
        if self.current is not None and not self.settings.accept_new_signature:
            check_signature(self.current, model)
        self._move(State.WARMING)
        warm_up(model)
        return model

    def _fall_back(self) -> None:
        """With nothing to serve: the cached package, or else the version the flow served before."""
        if self.vacant:
            return  # the registry is the truth, and said last that there is nothing at the address
        kept = None if self._cache_failed else self._cache.last()
        try:
            if kept is not None:
                self._cache_failed = True
                self._swap(self._prove(*kept, from_cache=True))
                self._cache_failed = False
            elif self._quarantine and self.registry_answers and self.address.stage == "Production":
                self._move(State.RESOLVING)
                ref = self._registry.resolve(ModelAddress(self.address.flow, alias="previous"))
                if _identity(ref) not in self._quarantine:
                    self._load(ref)
        except Exception as error:  # like a version, a cached package may be broken in any way  # noqa: BLE001
            _LOG.warning("%s: nothing to fall back to: %s", self.address.flow, error)
        self.state = State.IDLE

    def _put_into_quarantine(self, ref: VersionRef, error: Exception) -> None:
        known = self._quarantine.get(_identity(ref))
        failures = known.failures if known else 0
        pause = min(_FIRST_PAUSE_S * 2.0**failures, _LONGEST_PAUSE_S) * random.uniform(0.5, 1.0)  # noqa: S311 - jitter
        if self._peers is not None:
            self._peers.refuse(ref)
        self._put_aside(_identity(ref), error, self._monotonic() + pause)


def _identity(ref: VersionRef) -> tuple[int, str | None]:
    """Return what makes a version another one: a flow that was deleted and made anew reuses its numbers."""
    return ref.version, ref.manifest_sha256

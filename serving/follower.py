"""Following a flow: load, verify, warm up, swap; one thread, one explicit state.

::

    waiting ──► loading ──► verifying ──► warming ──► serving ──┐
       ▲            │            │            │          ▲      │ another version stands at the address
       └────────────┴── failed ──┴────────────┘          └──────┘

The first version loaded is the one the address points at now, never "from now on". A version whose package fails to
verify is quarantined with the reason and tried again later, each time after a longer pause with jitter; a newer one is
tried at once. Until something better is proved, the last good model stays in the reference, and its package in the
cache, where a start with the registry down finds it.
"""

import json
import logging
import random
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml_core.clock import Clock, SystemClock
from ml_core.errors import ModelFlowError, PackageError, RegistryDownError, VersionNotFoundError
from ml_core.flow.package import Package, as_feed, verify_package
from ml_core.flow.read import ModelAddress, RegistryReader, VersionRef, open_registry

_LOG = logging.getLogger("modelflow.serving")
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0
_REF_FILE = "ref.json"


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A verified model in service: immutable, shared by all requests that started while it was current."""

    ref: VersionRef
    package: Package
    loaded_at: datetime

    @property
    def version(self) -> int:
        """The version's number."""
        return self.ref.version

    @property
    def signature(self) -> Mapping[str, str]:
        """The raw columns it takes."""
        return self.package.signature

    def score(self, feed: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Return the score of each row."""
        return self.package.score(feed)


@dataclass(slots=True)
class Quarantined:
    """A version that failed to verify: why, how often, and when (monotonic seconds) it is tried again."""

    reason: str
    failures: int = 1
    retry_at: float = 0.0


@dataclass(slots=True)
class Status:
    """What the follower is doing, for /status and /metrics."""

    state: str = "waiting"
    swaps: int = 0
    last_error: str = ""
    registry_answers: bool = False
    from_cache: bool = False
    quarantine: dict[int, Quarantined] = field(default_factory=dict)


class Follower:
    """Keeps `current` at the version a model address points at.

    Parameters
    ----------
    address : ModelAddress
    tracking_uri : str
        Ignored where `registry` is given.
    poll_interval_s : float
    cache : Path, optional
        A folder of its own for the last good package.
    clock : Clock
        Stamps when a model was loaded.
    registry : RegistryReader, optional
    """

    def __init__(
        self,
        address: ModelAddress,
        *,
        tracking_uri: str = "",
        poll_interval_s: float = 1.0,
        cache: Path | None = None,
        clock: Clock | None = None,
        registry: RegistryReader | None = None,
    ) -> None:
        self.address = address
        self.current: ServedModel | None = None
        self.status = Status()
        self.on_swap: Callable[[ServedModel], None] | None = None
        self._registry = registry or open_registry(tracking_uri, timeout_s=max(2.0, poll_interval_s))
        self._poll_interval_s = poll_interval_s
        self._clock = clock or SystemClock()
        self._cache = cache
        self._scratch = Path(tempfile.mkdtemp(prefix="modelflow-serving-"))
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def load_first(self) -> None:
        """Load the version the address points at now, or the cached one; raise the reason when neither can be."""
        try:
            self.poll()
        except ModelFlowError:
            if not self._load_cached():
                raise
        if self.current is None and not self._load_cached():
            reasons = "; ".join(entry.reason for entry in self.status.quarantine.values())
            raise PackageError(f"{self.address.flow}: no version could be verified: {reasons}")

    def start(self) -> None:
        """Follow in the background; a pinned version that is loaded needs no following."""
        if self.address.pinned and self.current is not None and not self.status.from_cache:
            return
        self._thread = threading.Thread(target=self._follow, name="modelflow-follower", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop following and remove what was downloaded; the current model goes on answering."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(timeout=10)
        shutil.rmtree(self._scratch, ignore_errors=True)

    def poll(self) -> None:
        """Look at the registry once, and load what the address points at when it is something else.

        A package that fails is quarantined, which is no error of the poll; raises RegistryError when the registry
        cannot be asked.
        """
        serving = self.current.version if self.current else None
        ref = self._registry.resolve(self.address, serving=serving)
        self.status.registry_answers = True
        if ref.version == serving and not self.status.from_cache:
            self.status.last_error = ""
            return
        entry = self.status.quarantine.get(ref.version)
        if entry is not None and time.monotonic() < entry.retry_at:
            return
        try:
            self._load(ref)
        except PackageError as error:
            self._quarantine(ref.version, error)

    def _load(self, ref: VersionRef) -> None:
        directory = self._scratch / f"{ref.version}-{time.monotonic_ns()}"
        try:
            self.status.state = "loading"
            self._registry.download(ref, directory)
            self.status.state = "verifying"
            package = verify_package(directory, expect_digest=ref.manifest_sha256)
            if self.current is not None and self.current.signature != package.signature and self.address.pinned:
                raise PackageError(f"{ref.flow} version {ref.version}: its signature changed under a pinned address")
            self.status.state = "warming"
            _warm(package)
            self._keep(ref, directory)
            self._swap(ServedModel(ref, package, self._clock.now()), from_cache=False)
        finally:
            # the session holds the graph in memory; the files have done their part
            shutil.rmtree(directory, ignore_errors=True)
            self.status.state = "serving" if self.current else "failed"

    def _swap(self, model: ServedModel, *, from_cache: bool) -> None:
        before = self.current
        self.current = model
        self.status.from_cache = from_cache
        self.status.last_error = ""
        self.status.quarantine.pop(model.version, None)
        self.status.swaps += before is not None and before.version != model.version
        _LOG.info("%s: serving version %s after %s", model.ref.flow, model.version, before and before.version)
        if self.on_swap is not None:
            self.on_swap(model)

    def _quarantine(self, version: int, error: PackageError) -> None:
        entry = self.status.quarantine.setdefault(version, Quarantined(str(error), failures=0))
        entry.reason, entry.failures = str(error), entry.failures + 1
        pause = min(_FIRST_PAUSE_S * 2 ** (entry.failures - 1), _LONGEST_PAUSE_S)
        entry.retry_at = time.monotonic() + pause * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not a secret
        self.status.last_error = str(error)
        _LOG.error("version %s is quarantined, attempt %s: %s", version, entry.failures, error)

    def _follow(self) -> None:
        """Poll until stopped; whatever happens, the last good model keeps serving."""
        pause = self._poll_interval_s
        while not self._stopped.wait(pause):
            pause = self._poll_interval_s
            try:
                self.poll()
            except RegistryDownError as error:
                self.status.registry_answers = False
                self._report(error)
                pause = min(self._poll_interval_s * 4, _LONGEST_PAUSE_S) * random.uniform(0.5, 1.0)  # noqa: S311 - jitter
            except VersionNotFoundError as error:
                self._report(error)
            except Exception as error:  # the follower's thread is a process boundary: it must not die  # noqa: BLE001
                self._report(error)

    def _report(self, error: Exception) -> None:
        if self.status.last_error != str(error):
            _LOG.warning("%s: %s", self.address.flow, error)
        self.status.last_error = str(error)

    def _keep(self, ref: VersionRef, directory: Path) -> None:
        """Put a proved package into the cache, whole or not at all; a full disk costs the cache, not the swap."""
        if self._cache is None:
            return
        try:
            self._cache.mkdir(parents=True, exist_ok=True)
            fresh, kept, old = (self._cache / name for name in ("fresh", "good", "old"))
            for leftover in (fresh, old):
                shutil.rmtree(leftover, ignore_errors=True)
            shutil.copytree(directory, fresh / "package")
            described = {"flow": ref.flow, "version": ref.version, "stage": ref.stage, "source": ref.source}
            (fresh / _REF_FILE).write_text(json.dumps(described | {"tags": dict(ref.tags)}), encoding="utf-8")
            if kept.exists():
                kept.rename(old)
            fresh.rename(kept)
            shutil.rmtree(old, ignore_errors=True)
        except OSError as error:
            _LOG.warning("version %s could not be cached in %s: %s", ref.version, self._cache, error)

    def _load_cached(self) -> bool:
        """Serve the last good package where the registry has none to give; say whether there was one."""
        if self._cache is None:
            return False
        kept = next((self._cache / name for name in ("good", "old") if (self._cache / name).is_dir()), None)
        if kept is None:
            return False
        try:
            ref = VersionRef(**json.loads((kept / _REF_FILE).read_text(encoding="utf-8")))
            package = verify_package(kept / "package", expect_digest=ref.manifest_sha256)
        except (OSError, ValueError, TypeError, PackageError) as error:
            _LOG.warning("the cached package in %s cannot be used: %s", kept, error)
            return False
        self._swap(ServedModel(ref, package, self._clock.now()), from_cache=True)
        self.status.state = "serving"
        return True


def _warm(package: Package) -> None:
    """Score one odd row and a batch, so that the first request finds everything allocated."""
    for rows in (1, 64):
        package.score(as_feed({name: [None] * rows for name in package.signature}, package.signature))

"""Hundreds of real followers in one process, so that a registry has their whole load without their machines.

Each is a `serving.follower.Follower` with a reader, a connection, a thread and a jitter of its own, and does all that
a follower does but one thing: the graph of a version is loaded and proved once for all of them, and every other one
holds the files it downloaded against the manifest. What a crowd cannot show is what each machine pays for itself.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from ml_core.errors import ModelFlowError
from ml_core.flow.package import read_manifest
from ml_core.flow.read import ModelAddress, RestReader, VersionRef
from serving.follower import Follower
from serving.following import FollowerSettings, State
from serving.model import ServedModel

_STACK_BYTES = 512 * 1024


@dataclass
class Seen:
    """What the followers of a crowd did, stamped in seconds of the monotonic clock."""

    requests: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    resolved: dict[int, dict[int, float]] = field(default_factory=dict)
    served: dict[int, dict[int, float]] = field(default_factory=dict)
    proved: dict[int, ServedModel] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def first(self, where: dict[int, dict[int, float]], version: int, who: int) -> None:
        """Note when a follower came to a version first."""
        with self.lock:
            where.setdefault(version, {}).setdefault(who, time.monotonic())


class _Reader(RestReader):
    """The followers' reader, counting."""

    def __init__(self, uri: str, seen: Seen, who: int, timeout_s: float) -> None:
        super().__init__(uri, timeout_s=timeout_s)
        self._seen, self._who = seen, who

    def resolve(self, address: ModelAddress, *, serving: int | None = None) -> VersionRef:
        found = super().resolve(address, serving=serving)
        self._seen.first(self._seen.resolved, found.version, self._who)
        return found

    def _request(self, method: str, path: str, body: bytes | None = None) -> bytes:
        kind = path.partition("?")[0].removeprefix("/api/2.0/").split("/artifacts/")[0]
        with self._seen.lock:
            self._seen.requests[kind] += 1
        try:
            return super()._request(method, path, body)
        except ModelFlowError as error:
            with self._seen.lock:
                self._seen.errors[f"{type(error).__name__}: {str(error)[:160]}"] += 1
            raise


class _Member(Follower):
    """A follower that shares the proved graph of a version with the others of its crowd."""

    def __init__(self, address: ModelAddress, uri: str, seen: Seen, who: int, settings: FollowerSettings) -> None:
        reader = _Reader(uri, seen, who, settings.registry_timeout_s)
        super().__init__(address, uri, settings=settings, registry=reader)
        self._seen, self._who = seen, who

    def leave(self) -> None:
        """Look no more."""
        self._stopped.set()

    def _prove(self, ref: VersionRef, package: Path, *, from_cache: bool = False) -> ServedModel:
        with self._seen.lock:
            model = self._seen.proved.get(ref.version)
            if model is None:
                model = self._seen.proved[ref.version] = super()._prove(ref, package, from_cache=from_cache)
                return model
        self._move(State.VERIFYING)
        read_manifest(package, expect_digest=ref.manifest_sha256)
        self._move(State.WARMING)
        return replace(model, loaded_at=self._clock.now())

    def _swap(self, model: ServedModel, *, told: int = 10) -> None:
        super()._swap(model, told=told)
        self._seen.first(self._seen.served, model.version, self._who)


class Crowd:
    """Followers of one address that run, each in a thread.

    Parameters
    ----------
    size : int
    settings : FollowerSettings
        Those of every follower.
    """

    def __init__(self, uri: str, address: str, size: int, settings: FollowerSettings) -> None:
        self.seen = Seen()
        logging.getLogger("modelflow.serving").setLevel(logging.CRITICAL)  # the rows count what went wrong
        parsed = ModelAddress.parse(address)
        self._members = [_Member(parsed, uri, self.seen, who, settings) for who in range(size)]

    def wait_served(self, version: int, timeout_s: float) -> bool:
        """Wait until every follower serves a version; say whether they all do."""
        return self._wait(self.seen.served, version, timeout_s)

    def wait_resolved(self, version: int, timeout_s: float) -> bool:
        """Wait until every follower has seen that a version stands at the address."""
        return self._wait(self.seen.resolved, version, timeout_s)

    def start(self) -> None:
        """Start every follower, all at once."""
        before = threading.stack_size(_STACK_BYTES)
        try:
            for member in self._members:
                member.start()
        finally:
            threading.stack_size(before)

    def stop(self) -> None:
        """Stop every follower: first all are told, then each is waited for."""
        for member in self._members:
            member.leave()
        for member in self._members:
            member.stop()

    def _wait(self, where: dict[int, dict[int, float]], version: int, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            with self.seen.lock:
                if len(where.get(version, {})) == len(self._members):
                    return True
            time.sleep(0.02)
        return False


@contextmanager
def crowd(uri: str, address: str, size: int, settings: FollowerSettings) -> Iterator[Crowd]:
    """Start a crowd, all at once, and stop every follower of it afterwards."""
    made = Crowd(uri, address, size, settings)
    try:
        made.start()
        yield made
    finally:
        made.stop()

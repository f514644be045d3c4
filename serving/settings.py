"""The sidecar's settings, as small values with units in their names; the one reader of the environment in serving."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from serving.following import FollowerSettings
from serving.log import LogSettings


@dataclass(frozen=True, slots=True)
class Limits:
    """What one sidecar takes from its callers.

    Attributes
    ----------
    body_bytes : int
        A larger body is refused (413) before it has been read.
    rows : int
        More rows in one request are refused (413).
    in_flight : int
        Requests being read or waiting to be scored; one more is refused (429, Retry-After).
    queue : int
        Large requests waiting for their turn; one more is refused (429, Retry-After).
    held_bytes : int
        Bytes of all large bodies together; what goes beyond is refused (429, Retry-After).
    deadline_s : float
        How long a body may take to arrive (408), a large batch to wait for its turn (429), and an answer to be read
        before the connection is closed.
    header_bytes, header_s : int, float
        How large a request's head may be (431), and how long it may take to arrive before the connection is closed.
    idle_s : float
        How long a connection may stand open between two requests.
    inline_bytes : int
        A body up to this size is scored on the event loop, a larger one in a thread; one that is read by its bytes or
        is Arrow's up to twice this size.
    drain_s : float
        How long requests in flight are waited for after TERM.
    """

    body_bytes: int = 16 * 1024 * 1024
    rows: int = 100_000
    in_flight: int = 512
    queue: int = 64
    held_bytes: int = 256 * 1024 * 1024
    deadline_s: float = 10.0
    header_bytes: int = 32 * 1024
    header_s: float = 10.0
    idle_s: float = 600.0
    inline_bytes: int = 128 * 1024
    drain_s: float = 10.0


@dataclass(frozen=True, slots=True)
class ChallengerSettings:
    """The second version beside the served one; see `serving.challenger`.

    Attributes
    ----------
    uri : str
        Its model address.
    shadow_share, canary_share : float
        The share of requests that it scores, too, and the share of keys that it answers.
    """

    uri: str
    shadow_share: float = 0.0
    canary_share: float = 0.0


@dataclass(frozen=True, slots=True)
class Settings:
    """What one sidecar process is told.

    Attributes
    ----------
    uri : str
        The model address it follows.
    tracking_uri : str
        The MLflow registry.
    host, port : str, int
        Loopback unless told otherwise.
    workers : int
        Processes that answer; see `serving.workers`.
    parent : int or None
        The process it must not outlive.
    access_log : bool
        Whether every request is logged, one JSON object a line.
    log : LogSettings or None
        Where and how predictions are logged.
    challenger : ChallengerSettings or None
        A second version beside the one that is served.
    tokens : Path or None
        A file of bearer tokens; see `serving.access`.
    certificate, key : Path or None
        PEM files; with them it speaks TLS.
    """

    uri: str
    tracking_uri: str
    host: str = "127.0.0.1"
    port: int = 8080
    workers: int = 1
    parent: int | None = None
    access_log: bool = False
    log: LogSettings | None = None
    challenger: ChallengerSettings | None = None
    tokens: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    follower: FollowerSettings = field(default_factory=FollowerSettings)
    limits: Limits = field(default_factory=Limits)


def kafka_environment() -> dict[str, str]:
    """Return how to prove oneself to a broker: the environment's ``KAFKA_*``, without the broker's own address."""
    return {
        name: value
        for name, value in os.environ.items()
        if name.startswith("KAFKA_") and name != "KAFKA_BOOTSTRAP_SERVERS"
    }


def kafka_bootstrap() -> str:
    """Return the broker of the environment, or Kafka's usual port on this machine."""
    return os.environ.get("KAFKA_BOOTSTRAP_SERVERS") or "127.0.0.1:9092"


def default_tracking_uri() -> str:
    """Return the registry of the environment, or MLflow's own default port on this machine."""
    return os.environ.get("MLFLOW_TRACKING_URI") or "http://127.0.0.1:5000"

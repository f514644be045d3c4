"""The sidecar's settings, as small values with units in their names."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Settings:
    """What one sidecar process is told.

    Attributes
    ----------
    uri : str
        The model address it follows.
    tracking_uri : str
    host, port : str, int
        Loopback unless told otherwise.
    poll_interval_s : float
    cache : Path or None
        Where the last good package is kept.
    parent : int or None
        The process it must not outlive.
    """

    uri: str
    tracking_uri: str
    host: str = "127.0.0.1"
    port: int = 8080
    poll_interval_s: float = 1.0
    cache: Path | None = None
    parent: int | None = None

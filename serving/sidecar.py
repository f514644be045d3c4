"""The sidecar process: a follower, its HTTP face, and an orderly end.

It listens as soon as it runs and is ready once a verified model is loaded, so a flow without a version yet is waited
for, not an error. TERM drains the requests in flight and exits 0.
"""

import contextlib
import logging
import signal
import socket
from collections.abc import Iterator

import uvicorn

from ml_core.errors import ModelFlowError, PlatformError
from ml_core.flow.read import ModelAddress
from ml_core.process import die_with_parent
from serving.follower import Follower
from serving.http import Sidecar
from serving.settings import Settings

_DRAIN_S = 10
# callers keep connections open between bursts; closing one under a caller's next request would fail that request
_IDLE_S = 600


def run(settings: Settings) -> None:
    """Serve until told to stop.

    Raises
    ------
    PlatformError
        The port is taken.
    """
    if settings.parent is not None:
        die_with_parent(settings.parent)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    listener = _listen(settings.host, settings.port)
    follower = Follower(
        ModelAddress.parse(settings.uri),
        tracking_uri=settings.tracking_uri,
        poll_interval_s=settings.poll_interval_s,
        cache=settings.cache,
    )
    # the follower says why there is none yet, in /status, and goes on looking
    with contextlib.suppress(ModelFlowError):
        follower.load_first()
    follower.start()
    server = _Server(
        uvicorn.Config(
            Sidecar(follower),
            loop="uvloop",
            http="httptools",
            lifespan="off",
            access_log=False,
            log_level="warning",
            server_header=False,
            date_header=False,
            timeout_graceful_shutdown=_DRAIN_S,
            timeout_keep_alive=_IDLE_S,
        )
    )
    try:
        server.run(sockets=[listener])
    finally:
        follower.stop()


class _Server(uvicorn.Server):
    """Ends with code 0 on TERM and INT: draining is what was asked for, so the signal is not raised again."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Let TERM and INT begin the drain."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.handle_exit)
        yield


def _listen(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise PlatformError(
            f"port {port} on {host} is in use ({error.strerror}); stop what holds it or choose another"
        ) from error
    return listener

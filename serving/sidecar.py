"""The sidecar process: a follower, its HTTP face, and an orderly end.

It listens as soon as it runs and is ready once a verified model is loaded, so a flow without a version yet is waited
for, not an error. TERM and INT drain the requests in flight and end it with code 0.
"""

import contextlib
import logging
import resource
import signal
import socket
from collections.abc import Iterator

import uvicorn

from ml_core.errors import PlatformError
from ml_core.flow.read import ModelAddress
from ml_core.process import die_with_parent
from serving.connection import bounded_protocol, closing_overdue
from serving.follower import Follower
from serving.http import Sidecar
from serving.settings import Settings

_LOG = logging.getLogger("modelflow.serving")


def run(settings: Settings) -> None:
    """Serve until told to stop.

    Raises
    ------
    PlatformError
        The port is taken.
    ProjectError
        The model address is none.
    """
    if settings.parent is not None:
        die_with_parent(settings.parent)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    listener = _listen(settings.host, settings.port)
    with contextlib.closing(listener):
        follower = Follower(ModelAddress.parse(settings.uri), settings.tracking_uri, settings=settings.follower)
        _allow_many_connections()
        follower.start()
        application = Sidecar(follower, limits=settings.limits, access_log=settings.access_log)
        _LOG.info("listening on http://%s:%s, following %s", settings.host, settings.port, settings.uri)
        try:
            _server(application, settings).run(sockets=[listener])
        finally:
            application.close()
            follower.stop()


class _Server(uvicorn.Server):
    """Ends with code 0 on TERM and INT: draining is what was asked for, so the signal is not raised again."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Let TERM and INT begin the drain."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.handle_exit)
        yield


def _server(application: Sidecar, settings: Settings) -> uvicorn.Server:
    limits = settings.limits
    server: uvicorn.Server
    server = _Server(
        uvicorn.Config(
            application,
            loop="uvloop",
            http=bounded_protocol(limits.header_bytes),
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            date_header=False,
            backlog=4096,
            timeout_keep_alive=int(limits.idle_s),
            timeout_graceful_shutdown=int(limits.drain_s),
            callback_notify=closing_overdue(lambda: server.server_state.connections, limits.header_s),
            timeout_notify=1,
        )
    )
    return server


def _listen(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise PlatformError(
            f"cannot listen on port {port} of {host}: {error.strerror}; stop what holds it or choose another --port"
        ) from error
    return listener


def _allow_many_connections() -> None:
    """Raise this process's own limit of open files to what it may have: every idle caller holds one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # then the limit stays as it was
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

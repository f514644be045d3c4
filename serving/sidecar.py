"""The sidecar process: a follower, its HTTP face, and an orderly end.

It listens as soon as it runs and is ready once a verified model is loaded, so a flow without a version yet is waited
for, not an error. TERM and INT drain the requests in flight and end it with code 0.
"""

import asyncio
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
from serving.access import Tokens
from serving.connection import close_overdue, connections_of
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
        tokens = Tokens(settings.tokens) if settings.tokens else None
        application = Sidecar(follower, limits=settings.limits, access_log=settings.access_log, tokens=tokens)
        scheme = "https" if settings.certificate else "http"
        _LOG.info("listening on %s://%s:%s, following %s", scheme, settings.host, settings.port, settings.uri)
        try:
            Server(application, settings).run(sockets=[listener])
        finally:
            application.close()
            follower.stop()


class Server(uvicorn.Server):
    """uvicorn with the sidecar's connections, one look a second at them, and an end with code 0 on TERM and INT.

    Draining is what TERM asks for, so the signal is not raised again.
    """

    def __init__(self, application: Sidecar, settings: Settings) -> None:
        limits = settings.limits
        super().__init__(
            uvicorn.Config(
                application,
                loop="uvloop",
                http=connections_of(application, limits),
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
                ssl_certfile=settings.certificate,
                ssl_keyfile=settings.key,
            )
        )
        self._application = application

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until told to stop, and until what was begun is answered."""
        watch = asyncio.create_task(self._watch())
        try:
            await super().serve(sockets)
        finally:
            watch.cancel()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Let TERM and INT begin the drain."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.handle_exit)
        yield

    async def _watch(self) -> None:
        while True:
            close_overdue(self.server_state.connections)
            self._application.tick()
            await asyncio.sleep(0.1 if self.should_exit else 1)


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

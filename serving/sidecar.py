"""The sidecar process: a follower, its HTTP face, and an orderly end.

It listens as soon as it runs and is ready once a verified model is loaded, so a flow without a version yet is waited
for, not an error. TERM and INT drain the requests in flight and end it with code 0.
"""

import asyncio
import contextlib
import logging
import os
import resource
import signal
import socket
import ssl
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace

import uvicorn

from ml_core.errors import PlatformError, ProjectError
from ml_core.process import die_with_parent, do_without, keep_what_is_loaded
from serving.access import Tokens
from serving.addresses import flow_of, follower_of
from serving.board import Board, Peers
from serving.challenger import Challenger
from serving.connection import close_overdue, connections_of
from serving.http import Sidecar
from serving.log import PredictionLog
from serving.settings import Settings
from serving.workers import Workers

_BACKLOG = 4096
_LOADING_S = 5.0
_LONGEST_TURN_S = 0.0005
"""How long one thread may compute while requests wait: loading a version takes a tenth of a second of it."""
_LOG = logging.getLogger("modelflow.serving")


def run(settings: Settings) -> int:
    """Serve until told to stop; return the process's exit code.

    Raises
    ------
    PlatformError
        The port is taken, or the files of tokens or of the certificate cannot be used.
    ProjectError
        The model address is none, or what is said of a challenger does not fit together.
    """
    if settings.parent is not None:
        die_with_parent(settings.parent)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    flow_of(settings.uri)  # an address that is none is told before anything is begun
    tokens = Tokens(settings.tokens) if settings.tokens else None
    _check_certificate(settings)
    _check_challenger(settings)
    _allow_many_connections()
    with contextlib.ExitStack() as held:
        listeners = [held.enter_context(contextlib.closing(each)) for each in _listen(settings)]
        scheme = "https" if settings.certificate else "http"
        _LOG.info("listening on %s://%s:%s, following %s", scheme, settings.host, settings.port, settings.uri)
        do_without("pandas")
        sys.setswitchinterval(_LONGEST_TURN_S)
        keep_what_is_loaded()  # and, where workers are forked, shared with them
        if settings.workers == 1:
            _serve(settings, tokens, listeners, None)
            return 0
        board = Board(settings.workers)

        def work(worker: int, own: Sequence[socket.socket]) -> None:
            _serve(settings, tokens, own, Peers(board, worker, patience_s=_patience_s(settings)))

        return Workers(listeners, board, work, drain_s=settings.limits.drain_s).run()


def _serve(
    settings: Settings,
    tokens: Tokens | None,
    listeners: Sequence[socket.socket],
    peers: Peers | None,
) -> None:
    """Be one worker."""
    follower = follower_of(settings.uri, settings.tracking_uri, settings=settings.follower, peers=peers)
    challenger = _challenger(settings)
    log = PredictionLog(settings.log, challenger=challenger) if settings.log else None
    application = Sidecar(
        follower,
        limits=settings.limits,
        access_log=settings.access_log,
        tokens=tokens,
        peers=peers,
        log=log,
        challenger=challenger,
    )
    if peers is not None and peers.own_page() is not None:
        follower.step()  # it takes another's place: callers who wait for that one wait a moment longer
    followers = [follower] if challenger is None else [follower, challenger.follower]
    for each in followers:
        each.start()
    try:
        Server(application, settings).run(sockets=list(listeners))
    finally:
        application.close()
        for each in followers:
            each.stop()


def _challenger(settings: Settings) -> Challenger | None:
    told = settings.challenger
    if told is None:
        return None
    # in the registry's hands alone: an old one from a cache is nobody's challenger
    own = replace(settings.follower, cache=None, accept_new_signature=True, max_staleness_s=None)
    follower = follower_of(told.uri, settings.tracking_uri, settings=own)
    return Challenger(follower, shadow_share=told.shadow_share, canary_share=told.canary_share)


def _check_challenger(settings: Settings) -> None:
    """Raise ProjectError unless a challenger has a part, of the same flow, that can be looked at later."""
    told = settings.challenger
    if told is None:
        return
    flow, other = flow_of(settings.uri), flow_of(told.uri)
    if flow != other:
        raise ProjectError(f"expected a challenger of the flow {flow}, found one of {other}")
    for name, share in (("--shadow-share", told.shadow_share), ("--canary-share", told.canary_share)):
        if not 0 <= share <= 1:
            raise ProjectError(f"expected {name} between 0 and 1, found {share}")
    if not told.shadow_share and not told.canary_share:
        raise ProjectError("expected --shadow-share or --canary-share with --challenger, found neither")
    if told.shadow_share and settings.log is None:
        raise ProjectError("expected --log with --shadow-share: what a shadow says goes nowhere else")


def _patience_s(settings: Settings) -> float:
    """Return how long a worker waits for the others: until they have looked at the registry, and loaded."""
    return settings.follower.poll_interval_s + settings.follower.registry_timeout_s + _LOADING_S


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
                backlog=_BACKLOG,
                timeout_keep_alive=int(limits.idle_s),
                timeout_graceful_shutdown=int(limits.drain_s),
                ssl_certfile=settings.certificate,
                ssl_keyfile=settings.key,
            )
        )
        self._application = application
        self._parent = settings.parent if settings.workers == 1 else None  # workers have the one that forked them

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
            if self._parent is not None and os.getppid() != self._parent:
                self.should_exit = True  # should the kernel's signal have gone astray while this process began
            await asyncio.sleep(0.1 if self.should_exit else 1)


def _listen(settings: Settings) -> Iterator[socket.socket]:
    """Yield a socket a worker, all bound to the one port."""
    with contextlib.closing(_bound(settings.host, settings.port, shared=False)) as first:
        port = first.getsockname()[1]
        if settings.workers == 1:
            yield first.dup()
            return
    # only now, that nobody else holds the port, is it shared
    for _ in range(settings.workers):
        yield _bound(settings.host, port, shared=True)


def _bound(host: str, port: int, *, shared: bool) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, shared)
    try:
        listener.bind((host, port))
        listener.listen(_BACKLOG)  # at once: two may bind one port as long as neither listens
    except OSError as error:
        listener.close()
        raise PlatformError(
            f"cannot listen on port {port} of {host}: {error.strerror}; stop what holds it or choose another --port"
        ) from error
    return listener


def _check_certificate(settings: Settings) -> None:
    """Raise PlatformError unless the certificate and its key fit each other, or neither is set."""
    if settings.certificate is None and settings.key is None:
        return
    if settings.certificate is None or settings.key is None:
        raise PlatformError("expected --certificate and --key together, found one of them")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(settings.certificate, settings.key)
    except OSError as error:
        raise PlatformError(
            f"expected a certificate in {settings.certificate} and its key in {settings.key}, both PEM, found: {error}"
        ) from error


def _allow_many_connections() -> None:
    """Raise this process's own limit of open files to what it may have: every idle caller holds one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # then the limit stays as it was
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

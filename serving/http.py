"""The sidecar's face: an ASGI application over one follower, and a short way into it for small requests.

========================================  ========================================================================
POST /invocations                         MLflow's scoring protocol, or rows as an Arrow IPC stream
POST /v2/models/{flow}/infer              the Open Inference Protocol; also `/v2`, `/v2/models/{flow}`, `.../ready`,
                                          and under `.../versions/{version}` for the version that is served
GET /ping, /health, /v2/health/ready      200 if and only if a verified model is loaded
GET /v2/health/live                       200 while the follower follows
GET /                                     the page: version, swaps, traffic and live figures, for people
GET /version, /status                     the served version; everything the sidecar knows, for programs
GET /metrics                              for Prometheus
GET /docs, /openapi.json                  this table, with every body and answer
========================================  ========================================================================

A request reads the current model once and is answered by it alone; `X-Model-Version` says which it was. A row is scored
on the event loop, because it takes tens of microseconds, less than handing it over would; a large body in a thread.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from http import HTTPStatus
from itertools import count
from os import getpid
from pathlib import Path
from time import perf_counter
from typing import Any

import orjson

from ml_core.errors import (
    LateRequestError,
    LimitError,
    ModelFlowError,
    NotReadyError,
    OverloadedError,
    UnauthorizedError,
)
from ml_core.flow.logged import CANARY, SERVED
from serving import arrow, inference, openapi, wire
from serving.access import Tokens
from serving.board import Peers
from serving.challenger import KEY_HEADER, Challenger
from serving.following import Following
from serving.log import PredictionLog
from serving.model import ServedModel
from serving.settings import Limits
from serving.status import status_of_follower
from serving.telemetry import CONTENT_TYPE, Telemetry

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Head = Mapping[bytes, bytes]
Headers = tuple[tuple[bytes, bytes], ...]

_LOG = logging.getLogger("modelflow.serving")
_ACCESS = logging.getLogger("modelflow.access")
_JSON = b"application/json"
_REQUEST_ID = b"x-request-id"
_BATCH_THREADS = 2
_LONGEST_ID = 128
_OPEN_TO_ALL = frozenset(("/", "/ping", "/health", "/v2/health/ready", "/v2/health/live"))
_PAGE = Path(__file__).with_name("page.html").read_bytes()  # it holds nothing: what it shows it asks /status for
_PAGE_HEADERS = (
    (b"content-security-policy", b"default-src 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"),
)
_READ = frozenset(
    (b"content-type", b"content-length", b"content-encoding", b"accept", b"authorization", _REQUEST_ID, KEY_HEADER)
) | {inference.JSON_LENGTH}


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer before it is sent."""

    status: int
    body: bytes
    content_type: bytes = _JSON
    headers: Headers = ()


@dataclass(frozen=True, slots=True)
class _Scored:
    """An answer to rows, and what is counted about it."""

    reply: Reply
    rows: int
    marks: tuple[float, float, float, float]


class Sidecar:
    """The ASGI application.

    Parameters
    ----------
    follower : Following
    limits : Limits
    access_log : bool
        Whether every request is logged.
    tokens : Tokens, optional
        Who may ask anything but whether the sidecar is alive and ready; without, everybody.
    peers : Peers, optional
        The other workers, whose counts are told with this one's.
    log : PredictionLog, optional
        Where what is scored is logged.
    challenger : Challenger, optional
        A second version, which answers for some keys.

    Attributes
    ----------
    short_ways : mapping of bytes to str
        The paths of small requests that a connection may hand to `answer` as soon as they have arrived.
    """

    def __init__(
        self,
        follower: Following,
        *,
        limits: Limits | None = None,
        access_log: bool = False,
        tokens: Tokens | None = None,
        peers: Peers | None = None,
        log: PredictionLog | None = None,
        challenger: Challenger | None = None,
    ) -> None:
        self.telemetry = Telemetry(follower, peers, log, challenger)
        self._challenger = challenger
        self._log = log
        self._follower = follower
        self._limits = limits or Limits()
        self._access_log = access_log
        self._tokens = tokens
        self._threads = ThreadPoolExecutor(_BATCH_THREADS, "large-batch")
        self._bytes_held = 0
        self._ids = count()
        model = f"/v2/models/{follower.address.flow}"
        self._gets: dict[str, Callable[[], Reply]] = {
            **dict.fromkeys(("/ping", "/health", "/v2/health/ready", f"{model}/ready"), self._ready),
            "/v2/health/live": self._live,
            "/v2": lambda: Reply(200, inference.SERVER),
            model: self._metadata,
            "/": lambda: Reply(200, _PAGE, b"text/html; charset=utf-8", _PAGE_HEADERS),
            "/version": self._version,
            "/status": self._status,
            "/metrics": lambda: Reply(200, self.telemetry.render(), CONTENT_TYPE),
            "/openapi.json": lambda: Reply(200, orjson.dumps(self._described())),
            "/docs": lambda: Reply(200, openapi.page(self._described()), b"text/html; charset=utf-8"),
        }
        self._codecs: dict[str, Callable[[Head], wire.Codec]] = {
            "/invocations": lambda head: arrow.CODEC if arrow.is_arrow(head) else wire.json_codec(head),
            f"{model}/infer": inference.codec,
        }
        self._versioned = f"{model}/versions/"
        self._model = model
        self.short_ways = {path.encode(): path for path in self._codecs}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        started = perf_counter()
        path, head = scope["path"], self._identified(_read(scope["headers"]))
        if path.startswith(self._versioned):
            path = self._of_served_version(path)
            head.pop(KEY_HEADER, None)
        try:
            reply = await self._answer(path, scope["method"], head, receive)
        except Exception as error:  # the process boundary: `_refusal` logs what is ours  # noqa: BLE001
            reply = self._refusal(path, error)
        if reply is None:
            return
        reply = self._told(path, scope["method"], head, reply, started=started, client=scope.get("client"))
        headers = [(b"content-type", reply.content_type), (b"content-length", b"%d" % len(reply.body)), *reply.headers]
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": reply.body})

    def answer(self, path: str, headers: Iterable[tuple[bytes, bytes]], body: bytes, *, client: Any = None) -> Reply:
        """Answer a small POST that has arrived whole, at once."""
        started = perf_counter()
        head = self._identified(_read(headers))
        try:
            codec = self._admitted(path, head)
            reply = self._count(self._score(codec, head, body))
        except Exception as error:  # the process boundary: `_refusal` logs what is ours  # noqa: BLE001
            reply = self._refusal(path, error)
        return self._told(path, "POST", head, reply, started=started, client=client)

    def late(self, path: str) -> Reply:
        """Return the answer to a small POST that did not arrive in time."""
        error = LateRequestError(f"expected the whole body within {self._limits.deadline_s} s")
        head = self._identified({})
        return self._told(path, "POST", head, self._refusal(path, error), started=perf_counter(), client=None)

    def tick(self) -> None:
        """Do what is due once a second."""
        self.telemetry.publish()
        if self._tokens is not None:
            self._tokens.reload()

    def close(self) -> None:
        """Let go of the threads, once what they have to log is written."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._log is not None:
            self._log.close()

    async def _answer(self, path: str, method: str, head: Head, receive: Receive) -> Reply | None:
        if path in self._codecs:
            if method != "POST":
                return _plain(HTTPStatus.METHOD_NOT_ALLOWED, f"{path} takes POST", ((b"allow", b"POST"),))
            return await self._predict(self._admitted(path, head), head, receive)
        show = self._gets.get(path)
        if show is None:
            return _plain(HTTPStatus.NOT_FOUND, "no such path, model or version; see /docs")
        if method not in {"GET", "HEAD"}:
            return _plain(HTTPStatus.METHOD_NOT_ALLOWED, f"{path} takes GET", ((b"allow", b"GET, HEAD"),))
        if path not in _OPEN_TO_ALL:
            self._check_token(head)
        return show()

    def _admitted(self, path: str, head: Head) -> wire.Codec:
        """Return the codec of a request whose head is in order; otherwise raise what is wrong with it."""
        self._check_token(head)
        codec = self._codecs[path](head)
        length = head.get(b"content-length", b"0")
        self._check_size(int(length) if len(length) < 20 and length.isdigit() else 0)  # noqa: PLR2004 - more is no size
        if self.telemetry.in_flight >= self._limits.in_flight:
            raise OverloadedError(
                f"expected at most {self._limits.in_flight} requests in flight; try again in a moment"
            )
        return codec

    async def _predict(self, codec: wire.Codec, head: Head, receive: Receive) -> Reply | None:
        telemetry = self.telemetry
        telemetry.in_flight += 1
        parts: list[bytes] = []
        try:
            if not await self._arrived(receive, parts):
                return None
            body = parts[0] if len(parts) == 1 else b"".join(parts)
            if len(body) <= self._limits.inline_bytes:
                return self._count(self._score(codec, head, body))
            return self._count(await self._in_thread(partial(self._score, codec, head, body)))
        finally:
            telemetry.in_flight -= 1
            self._bytes_held -= sum(map(len, parts))

    async def _in_thread(self, work: Callable[[], _Scored]) -> _Scored:
        telemetry = self.telemetry
        if telemetry.queued >= self._limits.queue:
            raise OverloadedError(
                f"expected at most {self._limits.queue} large requests waiting; try again in a moment"
            )
        telemetry.queued += 1
        try:
            async with asyncio.timeout(self._limits.deadline_s):
                return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except TimeoutError as error:
            raise OverloadedError("large requests take longer than allowed; try again in a moment") from error
        finally:
            telemetry.queued -= 1

    async def _arrived(self, receive: Receive, parts: list[bytes]) -> bool:
        """Take the body in, part by part; say whether the caller was there to the end."""
        try:
            async with asyncio.timeout(self._limits.deadline_s):
                size, more = 0, True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return False
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    self._bytes_held += len(parts[-1])
                    self._check_size(size)
                    if self._bytes_held > self._limits.held_bytes:
                        raise OverloadedError("too many large bodies at once; try again in a moment")
                    more = message.get("more_body", False)
                return True
        except TimeoutError as error:
            raise LateRequestError(f"expected the whole body within {self._limits.deadline_s} s") from error

    def _check_size(self, size: int) -> None:
        if size > self._limits.body_bytes:
            raise LimitError(f"expected a body of at most {self._limits.body_bytes} bytes; send the rows in parts")

    def _check_token(self, head: Head) -> None:
        if self._tokens is not None and not self._tokens.hold(head.get(b"authorization", b"")):
            raise UnauthorizedError("expected the header `Authorization: Bearer <token>` with a token known here")

    def _score(self, codec: wire.Codec, head: Head, body: bytes) -> _Scored:
        started = perf_counter()
        model, role = self._served(), SERVED
        if self._challenger is not None and (canary := self._challenger.canary(model, head.get(KEY_HEADER))):
            model, role = canary, CANARY
        asked, rows = codec.read(body, head, model.rows, self._limits.rows)
        parsed = perf_counter()
        scores = rows[0](model, rows[1])
        scored = perf_counter()
        if self._log is not None:
            self._log.add(model, rows, scores, head[_REQUEST_ID].decode(), role=role)
        content, content_type, headers = codec.write(scores, model, asked, head)
        reply = Reply(200, content, content_type, ((b"x-model-version", b"%d" % model.version), *headers))
        return _Scored(reply, len(scores), (started, parsed, scored, perf_counter()))

    def _count(self, scored: _Scored) -> Reply:
        self.telemetry.scored(scored.rows, scored.marks)
        return scored.reply

    def _refusal(self, path: str, error: Exception) -> Reply:
        status, code = wire.status_of(error)
        if not isinstance(error, ModelFlowError):
            _LOG.error("%s failed", path, exc_info=error)
        self.telemetry.errors[code] += 1
        headers: Headers = ()
        if getattr(error, "retryable", False):
            headers = ((b"retry-after", b"1"),)
        if isinstance(error, LimitError | LateRequestError):
            headers += ((b"connection", b"close"),)  # the rest of the body is not wanted
        if isinstance(error, UnauthorizedError):
            headers = ((b"www-authenticate", b"Bearer"),)
        return Reply(status, wire.error_body(error, path), headers=headers)

    def _told(self, path: str, method: str, head: Head, reply: Reply, *, started: float, client: Any) -> Reply:
        """Count an answer, log it where that is wanted, and give it the request's id."""
        known = path if path in self._codecs or path in self._gets else "other"
        self.telemetry.requests[known, reply.status] += 1
        identity = head.get(_REQUEST_ID)
        if identity is None:
            return reply
        reply = replace(reply, headers=(*reply.headers, (_REQUEST_ID, identity)))
        if self._access_log:
            _ACCESS.info(_access_line(method, path, reply, perf_counter() - started, client))
        return reply

    def _identified(self, head: dict[bytes, bytes]) -> dict[bytes, bytes]:
        """Give a request an id where it has none that can be told, and one is told or logged."""
        identity = head.get(_REQUEST_ID)
        if (identity is not None and not _is_plain(identity)) or (
            identity is None and (self._access_log or self._log is not None)
        ):
            head[_REQUEST_ID] = b"%x-%x" % (getpid(), next(self._ids))
        return head

    def _of_served_version(self, path: str) -> str:
        """Return the path without its version where that is the one served, and a path that leads nowhere otherwise."""
        version, _, rest = path.removeprefix(self._versioned).partition("/")
        model = self._follower.current
        if model is None or version != str(model.version):
            return "other"
        return f"{self._model}/{rest}".rstrip("/")

    def _ready(self) -> Reply:
        ready = self._follower.ready
        return Reply(200 if ready else 503, orjson.dumps({"ready": ready}))

    def _live(self) -> Reply:
        live = self._follower.alive
        return Reply(200 if live else 503, orjson.dumps({"live": live}))

    def _version(self) -> Reply:
        return Reply(200, orjson.dumps(self._served().described()))

    def _status(self) -> Reply:
        status = status_of_follower(self._follower) | {
            "workers": self.telemetry.workers(),
            "traffic": self.telemetry.traffic(),
            "live": self._log.live() if self._log is not None else None,
        }
        if self._challenger is not None:
            status["challenger"] = status_of_follower(self._challenger.follower) | {
                "shadow_share": self._challenger.shadow_share,
                "canary_share": self._challenger.canary_share,
            }
        return Reply(200, orjson.dumps(status))

    def _described(self) -> dict[str, Any]:
        return openapi.document(self._follower.address.flow, self._follower.current)

    def _metadata(self) -> Reply:
        return Reply(200, inference.metadata(self._served()))

    def _served(self) -> ServedModel:
        model = self._follower.current
        if model is None:
            raise NotReadyError("no verified model is loaded yet; see /status")
        return model


def _read(headers: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Return the headers that are looked at."""
    return {name: value for name, value in headers if name in _READ}


def _plain(status: HTTPStatus, message: str, headers: Headers = ()) -> Reply:
    return Reply(
        status, orjson.dumps({"error_code": status.name, "message": message, "error": message}), headers=headers
    )


def _is_plain(identity: bytes) -> bool:
    return len(identity) <= _LONGEST_ID and identity.isascii() and identity.decode().isprintable()


def _access_line(method: str, path: str, reply: Reply, seconds: float, client: Any) -> str:
    told = {name.decode(): value.decode() for name, value in reply.headers}
    line = {
        "method": method,
        "path": path,
        "status": int(reply.status),
        "ms": round(seconds * 1e3, 3),
        "bytes": len(reply.body),
        "version": told.get("x-model-version"),
        "request_id": told["x-request-id"],
        "client": client[0] if client else None,
    }
    return orjson.dumps(line).decode()

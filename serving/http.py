"""The sidecar's face: a plain ASGI application over one follower.

========================================  ========================================================================
POST /invocations                         MLflow's scoring protocol
POST /v2/models/{flow}/infer              the Open Inference Protocol; also `/v2`, `/v2/models/{flow}`, `.../ready`,
                                          and under `.../versions/{version}` for the version that is served
GET /ping, /health, /v2/health/ready      200 if and only if a verified model is loaded
GET /v2/health/live                       200 while the follower follows
GET /version, /status                     the served version; everything the follower knows
GET /metrics                              for Prometheus
========================================  ========================================================================

A request reads the current model once and is answered by it alone; `X-Model-Version` says which it was. A row is scored
on the event loop, because it takes tens of microseconds, less than handing it over would; a large body in a thread.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from time import perf_counter
from typing import Any

import orjson

from ml_core.errors import LateRequestError, LimitError, ModelFlowError, NotReadyError, OverloadedError
from serving import inference, wire
from serving.follower import Follower
from serving.model import ServedModel
from serving.settings import Limits
from serving.status import status_of_follower
from serving.telemetry import CONTENT_TYPE, Telemetry

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_LOG = logging.getLogger("modelflow.serving")
_ACCESS = logging.getLogger("modelflow.access")
_JSON = b"application/json"
_BATCH_THREADS = 2


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer before it is sent."""

    status: int
    body: bytes
    content_type: bytes = _JSON
    headers: tuple[tuple[bytes, bytes], ...] = ()


Read = Callable[..., Any]
Scored = tuple[bytes, int, tuple[float, float, float, float]]


class Sidecar:
    """The ASGI application.

    Parameters
    ----------
    follower : Follower
    limits : Limits
    access_log : bool
        Whether every request is logged.
    """

    def __init__(self, follower: Follower, *, limits: Limits | None = None, access_log: bool = False) -> None:
        self.telemetry = Telemetry(follower)
        self._follower = follower
        self._limits = limits or Limits()
        self._access_log = access_log
        self._threads = ThreadPoolExecutor(_BATCH_THREADS, "large-batch")
        model = f"/v2/models/{follower.address.flow}"
        self._gets: dict[str, Callable[[], Reply]] = {
            **dict.fromkeys(("/ping", "/health", "/v2/health/ready", f"{model}/ready"), self._ready),
            "/v2/health/live": self._live,
            "/v2": lambda: Reply(200, orjson.dumps({"name": "modelflow", "version": "2", "extensions": []})),
            model: self._metadata,
            "/version": self._version,
            "/status": lambda: Reply(200, orjson.dumps(status_of_follower(follower))),
            "/metrics": lambda: Reply(200, self.telemetry.render(), CONTENT_TYPE),
        }
        self._posts: dict[str, Callable[[ServedModel, bytes], Scored]] = {
            "/invocations": self._invoke,
            f"{model}/infer": self._infer,
        }
        self._versioned = f"{model}/versions/"
        self._model = model

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        started = perf_counter()
        path = scope["path"]
        if path.startswith(self._versioned):
            path = self._of_served_version(path)
        try:
            reply = await self._answer(path, scope, receive)
        except ModelFlowError as error:
            reply = self._refusal(path, error)
        except Exception as error:  # the process boundary: the caller learns nothing, the log all  # noqa: BLE001
            _LOG.exception("%s failed", path)
            reply = self._refusal(path, error)
        if reply is None:
            return
        known = path if path in self._posts or path in self._gets else "other"
        self.telemetry.requests[known, reply.status] += 1
        if self._access_log:
            _ACCESS.info(_access_line(scope, reply, perf_counter() - started))
        headers = [(b"content-type", reply.content_type), (b"content-length", b"%d" % len(reply.body)), *reply.headers]
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": reply.body})

    def close(self) -> None:
        """Let go of the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _answer(self, path: str, scope: Scope, receive: Receive) -> Reply | None:
        method = scope["method"]
        predict = self._posts.get(path)
        if predict is not None:
            if method != "POST":
                return _plain(HTTPStatus.METHOD_NOT_ALLOWED, f"{path} takes POST", ((b"allow", b"POST"),))
            return await self._predict(predict, scope, receive)
        show = self._gets.get(path)
        if show is None:
            return _plain(HTTPStatus.NOT_FOUND, "no such path, model or version; see /status")
        if method not in {"GET", "HEAD"}:
            return _plain(HTTPStatus.METHOD_NOT_ALLOWED, f"{path} takes GET", ((b"allow", b"GET, HEAD"),))
        return show()

    async def _predict(
        self, predict: Callable[[ServedModel, bytes], Scored], scope: Scope, receive: Receive
    ) -> Reply | None:
        telemetry, limits = self.telemetry, self._limits
        if telemetry.in_flight >= limits.in_flight:
            raise OverloadedError(f"expected at most {limits.in_flight} requests in flight; try again in a moment")
        if not self._speaks_json(scope):
            return _plain(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "expected content-type application/json")
        telemetry.in_flight += 1
        try:
            body = await self._body(receive)
            if body is None:
                return None
            model = self._follower.current
            if model is None:
                raise NotReadyError("no verified model is loaded yet; see /status")
            if len(body) <= limits.inline_bytes:
                content, rows, marks = predict(model, body)
            else:
                content, rows, marks = await self._in_thread(partial(predict, model, body))
        finally:
            telemetry.in_flight -= 1
        telemetry.scored(rows, marks)
        return Reply(200, content, headers=((b"x-model-version", b"%d" % model.version),))

    async def _in_thread(self, work: Callable[[], Scored]) -> Scored:
        try:
            async with asyncio.timeout(self._limits.deadline_s):
                return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except TimeoutError as error:
            raise OverloadedError("large requests take longer than allowed; try again in a moment") from error

    async def _body(self, receive: Receive) -> bytes | None:
        """Return the whole body; None when the caller went away."""
        try:
            async with asyncio.timeout(self._limits.deadline_s):
                message = await receive()
                body: bytes = message.get("body", b"")
                if message["type"] == "http.request" and not message.get("more_body"):
                    self._check_size(len(body))
                    return body
                chunks, size = [body], len(body)
                while message.get("more_body"):
                    message = await receive()
                    chunks.append(message.get("body", b""))
                    size += len(chunks[-1])
                    self._check_size(size)
                return None if message["type"] == "http.disconnect" else b"".join(chunks)
        except TimeoutError as error:
            raise LateRequestError(f"expected the whole body within {self._limits.deadline_s} s") from error

    def _check_size(self, size: int) -> None:
        if size > self._limits.body_bytes:
            raise LimitError(f"expected a body of at most {self._limits.body_bytes} bytes; send the rows in parts")

    def _speaks_json(self, scope: Scope) -> bool:
        """Say whether the body is announced as JSON or not announced; refuse it by its announced size."""
        json = True
        for name, value in scope["headers"]:
            if name == b"content-type":
                json = b"json" in value
            elif name == b"content-length" and len(value) < 20 and value.isdigit():  # noqa: PLR2004 - more is no size
                self._check_size(int(value))
        return json

    def _invoke(self, model: ServedModel, body: bytes) -> Scored:
        started = perf_counter()
        feed = wire.read_invocation(wire.read_json(body), model.rows, most_rows=self._limits.rows)
        parsed = perf_counter()
        scores = model.score(feed)
        scored = perf_counter()
        content = wire.write_invocation(scores)
        return content, len(scores), (started, parsed, scored, perf_counter())

    def _infer(self, model: ServedModel, body: bytes) -> Scored:
        started = perf_counter()
        request = wire.read_json(body)
        feed = inference.read_inference(request, model.rows, most_rows=self._limits.rows)
        parsed = perf_counter()
        scores = model.score(feed)
        scored = perf_counter()
        content = inference.write_inference(scores, model, request)
        return content, len(scores), (started, parsed, scored, perf_counter())

    def _refusal(self, path: str, error: Exception) -> Reply:
        status, code = wire.status_of(error)
        self.telemetry.errors[code] += 1
        headers: tuple[tuple[bytes, bytes], ...] = ()
        if getattr(error, "retryable", False):
            headers = ((b"retry-after", b"1"),)
        if isinstance(error, LimitError | LateRequestError):
            headers += ((b"connection", b"close"),)  # the rest of the body is not wanted
        return Reply(status, wire.error_body(error, path), headers=headers)

    def _of_served_version(self, path: str) -> str:
        """Return the path without its version where that is the one served, and a path that leads nowhere otherwise."""
        version, _, rest = path.removeprefix(self._versioned).partition("/")
        model = self._follower.current
        if model is None or version != str(model.version):
            return "other"
        return f"{self._model}/{rest}".rstrip("/")

    def _ready(self) -> Reply:
        ready = self._follower.current is not None
        return Reply(200 if ready else 503, orjson.dumps({"ready": ready}))

    def _live(self) -> Reply:
        live = self._follower.alive
        return Reply(200 if live else 503, orjson.dumps({"live": live}))

    def _version(self) -> Reply:
        return Reply(200, orjson.dumps(self._served().described()))

    def _metadata(self) -> Reply:
        return Reply(200, inference.metadata(self._served()))

    def _served(self) -> ServedModel:
        model = self._follower.current
        if model is None:
            raise NotReadyError("no verified model is loaded yet; see /status")
        return model


def _plain(status: HTTPStatus, message: str, headers: tuple[tuple[bytes, bytes], ...] = ()) -> Reply:
    return Reply(
        status, orjson.dumps({"error_code": status.name, "message": message, "error": message}), headers=headers
    )


def _access_line(scope: Mapping[str, Any], reply: Reply, seconds: float) -> str:
    version = next((value.decode() for name, value in reply.headers if name == b"x-model-version"), None)
    client = scope.get("client")
    line = {
        "method": scope["method"],
        "path": scope["path"],
        "status": int(reply.status),
        "ms": round(seconds * 1e3, 3),
        "version": version,
        "client": client[0] if client else None,
    }
    return orjson.dumps(line).decode()

"""The ASGI application: which way a request goes, and what every answer is given on its way out.

Invariant: whatever a request is, it gets exactly one answer, which is counted, unless its caller has left.
"""

import logging
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import replace
from time import perf_counter
from typing import Any

import orjson

from ml_core.errors import ModelFlowError
from serving import arrow, inference
from serving.access import Tokens
from serving.board import Peers
from serving.challenger import Challenger
from serving.following import Following
from serving.http.admission import Admission, Receive
from serving.http.heads import REQUEST_ID, Head, Heads
from serving.http.pages import OPEN_TO_ALL, Pages
from serving.http.replies import Reply, nowhere, refusal, wrong_method
from serving.http.scoring import Scoring
from serving.log import PredictionLog
from serving.model import ServedModel
from serving.settings import Limits
from serving.telemetry import Telemetry
from serving.wire import Codec, json_codec, status_of

Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_LOG = logging.getLogger("modelflow.serving")
_ACCESS = logging.getLogger("modelflow.access")


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
        self._follower = follower
        self._limits = limits or Limits()
        self._access_log = access_log
        self._heads = Heads(identify=access_log or log is not None)
        self._admission = Admission(self._limits, tokens, self.telemetry)
        self._scoring = Scoring(follower, self._limits, self.telemetry, log=log, challenger=challenger)
        self._model = f"/v2/models/{follower.address.flow}"
        self._versioned = f"{self._model}/versions/"
        self._gets = Pages(follower, self.telemetry, log, challenger).by_path(self._model)
        self._codecs: dict[str, Callable[[Head], Codec]] = {
            "/invocations": lambda head: arrow.CODEC if arrow.is_arrow(head) else json_codec(head),
            f"{self._model}/infer": inference.codec,
        }
        self.short_ways = {path.encode(): path for path in self._codecs}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        started = perf_counter()
        path, head = scope["path"], self._heads.read(scope["headers"])
        wanted = None
        if path.startswith(self._versioned):
            path, wanted = self._of_served_version(path)
        try:
            reply = await self._answer(path, scope["method"], head, receive, wanted)
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
        head = self._heads.read(headers)
        try:
            reply = self._scoring.at_once(self._admitted(path, head), head, body)
        except Exception as error:  # the process boundary: `_refusal` logs what is ours  # noqa: BLE001
            reply = self._refusal(path, error)
        return self._told(path, "POST", head, reply, started=started, client=client)

    def late(self, path: str) -> Reply:
        """Return the answer to a small POST that did not arrive in time."""
        refused = self._refusal(path, self._admission.late())
        return self._told(path, "POST", self._heads.read(()), refused, started=perf_counter(), client=None)

    def tick(self) -> None:
        """Do what is due once a second."""
        self.telemetry.publish()
        self._admission.reload()

    def close(self) -> None:
        """Let go of the threads, once what they have to log is written."""
        self._scoring.close()

    async def _answer(
        self, path: str, method: str, head: Head, receive: Receive, wanted: ServedModel | None
    ) -> Reply | None:
        """Answer a request, by the wanted version where one was asked for by its number."""
        if path in self._codecs:
            if method != "POST":
                return wrong_method(path, "POST", b"POST")
            return await self._predict(self._admitted(path, head), head, receive, wanted)
        show = self._gets.get(path)
        if show is None:
            return nowhere()
        if method not in {"GET", "HEAD"}:
            return wrong_method(path, "GET", b"GET, HEAD")
        if path not in OPEN_TO_ALL:
            self._admission.check_token(head)
        if wanted is not None and path == self._model:
            return Reply(200, inference.metadata(wanted))
        return show()

    def _admitted(self, path: str, head: Head) -> Codec:
        """Return the codec of a request whose head is in order; otherwise raise what is wrong with it."""
        self._admission.check_token(head)
        codec = self._codecs[path](head)
        self._admission.check_room(head)
        return codec

    async def _predict(self, codec: Codec, head: Head, receive: Receive, wanted: ServedModel | None) -> Reply | None:
        telemetry = self.telemetry
        telemetry.in_flight += 1
        parts: list[bytes] = []
        try:
            if not await self._admission.take(receive, parts):
                return None
            body = parts[0] if len(parts) == 1 else b"".join(parts)
            if self._scoring.is_short(codec, body):
                return self._scoring.at_once(codec, head, body, wanted)
            return await self._scoring.in_thread(codec, head, body, wanted)
        finally:
            telemetry.in_flight -= 1
            self._admission.release(parts)

    def _refusal(self, path: str, error: Exception) -> Reply:
        status, code = status_of(error)
        if not isinstance(error, ModelFlowError):
            _LOG.error("%s failed", path, exc_info=error)
        self.telemetry.errors[code] += 1
        return refusal(path, error, status)

    def _told(self, path: str, method: str, head: Head, reply: Reply, *, started: float, client: Any) -> Reply:
        """Count an answer, log it where that is wanted, and give it the request's id."""
        known = path if path in self._codecs or path in self._gets else "other"
        self.telemetry.requests[known, reply.status] += 1
        identity = head.get(REQUEST_ID)
        if identity is None:
            return reply
        reply = replace(reply, headers=(*reply.headers, (REQUEST_ID, identity)))
        if self._access_log:
            _ACCESS.info(_access_line(method, path, reply, perf_counter() - started, client))
        return reply

    def _of_served_version(self, path: str) -> tuple[str, ServedModel | None]:
        """Return the path without its version, and that version, which answers even where another is swapped in.

        Where it is not the one served, the path leads nowhere.
        """
        version, _, rest = path.removeprefix(self._versioned).partition("/")
        model = self._follower.current
        if model is None or version != str(model.version):
            return "other", None
        return f"{self._model}/{rest}".rstrip("/"), model


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

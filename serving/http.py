"""The sidecar's face: a plain ASGI application over one follower.

Routes: `POST /invocations` (MLflow), `POST /v2/models/{name}/infer` (Open Inference Protocol), `/ping`,
`/v2/health/live`, `/v2/health/ready`, `/version`, `/status`, `/metrics`. Ready means a verified model is loaded, and is
not staler than the limit where one is set. Every prediction says which version made it in `X-Model-Version`.

A request is scored on the event loop: a row takes tens of microseconds, less than handing it to a thread would.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from time import perf_counter
from typing import Any

import orjson

from ml_core.errors import ModelFlowError, NotReadyError
from serving import wire
from serving.follower import Follower, ServedModel
from serving.rows import feed_of
from serving.telemetry import Telemetry

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_JSON = (b"content-type", b"application/json")


class Sidecar:
    """The ASGI application.

    Parameters
    ----------
    follower : Follower
    max_body_bytes : int
        Larger bodies are refused with 413 before they are read whole.
    """

    def __init__(self, follower: Follower, *, max_body_bytes: int = 16 * 1024 * 1024) -> None:
        self._follower = follower
        self._max_body_bytes = max_body_bytes
        self._telemetry = Telemetry(follower)
        self._gets: dict[str, Callable[[], tuple[int, bytes]]] = {
            "/ping": self._ready,
            "/v2/health/ready": self._ready,
            f"/v2/models/{follower.address.flow}/ready": self._ready,
            "/v2/health/live": lambda: (200, b'{"live":true}'),
            "/version": self._version,
            "/status": self._status,
            f"/v2/models/{follower.address.flow}": self._metadata,
        }
        self._posts: dict[str, Callable[[ServedModel, bytes], bytes]] = {
            "/invocations": self._invoke,
            f"/v2/models/{follower.address.flow}/infer": self._infer,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        path, method = scope["path"], scope["method"]
        headers = [_JSON]
        try:
            if path in self._posts:
                if method != "POST":
                    raise wire.RequestRefusedError(405, f"{path} takes POST")
                body = await self._body(scope, receive)
                status, content, version = self._predict(path, body)
                if version:
                    headers.append((b"x-model-version", str(version).encode()))
            elif path == "/metrics":
                status, content = 200, self._telemetry.render()
                headers = [(b"content-type", self._telemetry.content_type.encode())]
            elif path in self._gets:
                status, content = self._gets[path]()
            else:
                raise wire.RequestRefusedError(404, "no such path")
        except wire.RequestRefusedError as error:
            status, content = error.status, wire.error_body(error.status, error.message)
        headers.append((b"content-length", str(len(content)).encode()))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    def _predict(self, path: str, body: bytes) -> tuple[int, bytes, int | None]:
        """Score one body with the model that is current now; all of its rows by that one."""
        started = perf_counter()
        model = self._follower.current
        try:
            if model is None:
                raise NotReadyError("no verified model is loaded yet")
            content = self._posts[path](model, body)
        except ModelFlowError as error:
            status = wire.status_of(error)
            self._telemetry.failed(type(error).__name__)
            return status, wire.error_body(status, str(error)), None
        self._telemetry.answered(perf_counter() - started)
        return 200, content, model.version

    def _invoke(self, model: ServedModel, body: bytes) -> bytes:
        return wire.write_invocation(model.score(feed_of(wire.read_invocation(body), model.signature)))

    def _infer(self, model: ServedModel, body: bytes) -> bytes:
        columns, identity = wire.read_inference(body)
        scores = model.score(feed_of(columns, model.signature))
        return wire.write_inference(scores, flow=model.ref.flow, version=model.version, identity=identity)

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        chunks, size, more = [], 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise wire.RequestRefusedError(400, "the client went away")
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > self._max_body_bytes:
                raise wire.RequestRefusedError(413, f"a body holds at most {self._max_body_bytes} bytes")
            chunks.append(chunk)
            more = message.get("more_body", False)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _ready(self) -> tuple[int, bytes]:
        ready = self._follower.current is not None
        return (200 if ready else 503), orjson.dumps({"ready": ready})

    def _version(self) -> tuple[int, bytes]:
        model = self._follower.current
        if model is None:
            return 503, wire.error_body(503, "no verified model is loaded yet")
        return 200, orjson.dumps(_described(model))

    def _metadata(self) -> tuple[int, bytes]:
        model = self._follower.current
        if model is None:
            return 503, wire.error_body(503, "no verified model is loaded yet")
        kinds = {"string": "BYTES", "float": "FP32"}
        inputs = [{"name": name, "datatype": kinds[kind], "shape": [-1]} for name, kind in model.signature.items()]
        output = {"name": "score", "datatype": "FP32", "shape": [-1]}
        described = {"name": model.ref.flow, "versions": [str(model.version)], "platform": "onnxruntime"}
        return 200, orjson.dumps(described | {"inputs": inputs, "outputs": [output]})

    def _status(self) -> tuple[int, bytes]:
        model, status = self._follower.current, self._follower.status
        described = {
            "ready": model is not None,
            "state": status.state,
            "serving": None if model is None else _described(model),
            "from_cache": status.from_cache,
            "registry_answers": status.registry_answers,
            "swaps": status.swaps,
            "last_error": status.last_error,
            "quarantine": {
                str(version): {"reason": entry.reason, "failures": entry.failures}
                for version, entry in status.quarantine.items()
            },
        }
        return 200, orjson.dumps(described)


def _described(model: ServedModel) -> dict[str, Any]:
    tags = model.ref.tags
    return {
        "flow": model.ref.flow,
        "version": model.version,
        "kind": tags.get("kind"),
        "parent": tags.get("parent") or None,
        "watermark": tags.get("watermark"),
        "trained_through": tags.get("trained_through"),
        "loaded_at": model.loaded_at.isoformat(),
    }

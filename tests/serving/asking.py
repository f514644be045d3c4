"""Asking the application without a server: what a request is answered with."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from serving.follower import Follower
from serving.http import Sidecar

ROW: dict[str, Any] = {"carrier": "UA", "origin": "EWR", "delay": 12.5, "hour": 7}
OTHER: dict[str, Any] = {"carrier": None, "origin": "JFK", "delay": None, "hour": 8}

Answer = tuple[int, dict[str, str], Any]
Ask = Callable[..., Answer]


def ask_application(application: Sidecar, path: str, body: Any = None, **options: Any) -> Answer:
    """Send one request through the application, as a server would."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode() if body is not None else b""
    method = options.get("method", "POST" if body is not None else "GET")
    headers = options.get("headers", {"content-type": "application/json", "content-length": str(len(content))})
    chunks = options.get("chunks", [content])
    sent: list[dict[str, Any]] = []

    async def arriving() -> AsyncIterator[dict[str, Any]]:
        for index, chunk in enumerate(chunks):
            yield {"type": "http.request", "body": chunk, "more_body": index + 1 < len(chunks)}
        await asyncio.sleep(60)

    async def run() -> None:
        messages = arriving()

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        }
        await application(scope, messages.__anext__, send)  # type: ignore[arg-type]  # a coroutine function, too
        await messages.aclose()

    asyncio.run(run())
    start, end = sent
    told = {name.decode(): value.decode() for name, value in start["headers"]}
    assert told["content-length"] == str(len(end["body"]))
    return start["status"], told, json.loads(end["body"]) if told["content-type"] == "application/json" else end["body"]


def scores_of(follower: Follower, *rows: dict[str, Any]) -> list[float]:
    assert follower.current is not None
    return [float(score) for score in follower.current.score(follower.current.rows.records(rows))]

"""The least an ASGI application can do on the sidecar's server: take a body in and say 200."""

from typing import Any

_HEAD = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]}
_BODY = {"type": "http.response.body", "body": b"{}"}


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Answer one request."""
    del scope
    while (await receive()).get("more_body"):
        pass
    await send(_HEAD)
    await send(_BODY)

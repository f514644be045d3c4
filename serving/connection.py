"""One caller's connection: uvicorn's own protocol, with an end to callers that are slow or send no end of headers.

uvicorn bounds neither the size of a request's head nor the time it may take to arrive. Both bounds are kept here, at
the cost of an addition a header and one look a second at the open connections.
"""

from collections.abc import Awaitable, Callable, Iterable
from time import monotonic
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_HEAD_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


def bounded_protocol(header_bytes: int) -> type[HttpToolsProtocol]:
    """Return the class of connections whose requests' heads hold at most `header_bytes`."""

    class BoundedProtocol(HttpToolsProtocol):
        """A connection that answers 431 to a head that is too large, and knows since when one has been arriving."""

        head_bytes = 0
        head_began: float | None = None

        def on_message_begin(self) -> None:
            self.head_bytes, self.head_began = 0, monotonic()
            super().on_message_begin()

        def on_url(self, url: bytes) -> None:
            self._count(len(url))
            super().on_url(url)

        def on_header(self, name: bytes, value: bytes) -> None:
            self._count(len(name) + len(value))
            super().on_header(name, value)

        def on_headers_complete(self) -> None:
            self.head_began = None
            super().on_headers_complete()

        def send_400_response(self, msg: str) -> None:
            """Answer a request that could not be read."""
            if self.head_bytes <= header_bytes:
                super().send_400_response(msg)
                return
            self.transport.write(_HEAD_TOO_LARGE)
            self.transport.close()

        def _count(self, size: int) -> None:
            self.head_bytes += size
            if self.head_bytes > header_bytes:
                raise ValueError(f"expected a head of at most {header_bytes} bytes")  # the parser stops and says so

    return BoundedProtocol


def closing_overdue(connections: Callable[[], Iterable[Any]], header_s: float) -> Callable[[], Awaitable[None]]:
    """Return what a server calls once a second: it closes connections whose head has been arriving for too long."""

    async def close_overdue() -> None:
        overdue = monotonic() - header_s
        for connection in list(connections()):
            if connection.head_began is not None and connection.head_began < overdue:
                connection.transport.close()

    return close_overdue

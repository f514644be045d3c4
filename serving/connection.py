"""One caller's connection: uvicorn's own protocol, with a short way for small requests and an end to slow callers.

A request that is short and arrives whole is answered where it was read, without a task, a queue or a message: that is
most of what a server costs. Everything else goes uvicorn's way through ASGI, to the same application and the same
answer. uvicorn bounds neither a request's head nor the time a caller may take to send it or to read the answer; these
bounds are kept here, by an addition a header and one look a second at the open connections.
"""

from collections.abc import Iterable
from time import monotonic
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from serving.http import Reply, Sidecar
from serving.settings import Limits

_HEAD_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
_LAST_REQUEST_S = 0.5  # how long a silent connection is kept after TERM, for a request that is on its way


def connections_of(application: Sidecar, limits: Limits) -> type["Connection"]:
    """Return the class of connections to an application."""
    return type("Connection", (Connection,), {"application": application, "limits": limits})


class Connection(HttpToolsProtocol):
    """A connection that knows since when its caller has kept it waiting.

    Attributes
    ----------
    application : Sidecar
    limits : Limits
    arriving_since : float or None
        When the request that is arriving began to; None while none is, or uvicorn's way has taken it over.
    quiet_since : float
        When the last answer was written, or the connection made.
    unread_since : float or None
        Since when the caller has not been reading what it asked for.
    """

    application: Sidecar
    limits: Limits
    head_bytes = 0
    short: str | None = None
    arriving_since: float | None = None
    unread_since: float | None = None
    quiet_since = 0.0
    draining_since: float | None = None

    def connection_made(self, transport: Any) -> None:
        """Begin."""
        self.quiet_since = monotonic()
        super().connection_made(transport)

    def on_message_begin(self) -> None:
        """Begin a request; what uvicorn needs of it is made only for what goes its way."""
        self.head_bytes, self.arriving_since, self.short = 0, monotonic(), None
        self.url, self.headers, self.expect_100_continue = b"", [], False

    def on_url(self, url: bytes) -> None:
        """Take a part of the address."""
        self._count(len(url))
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Choose the way."""
        path = self.application.short_ways.get(self.url)
        if path is not None and self._is_short():
            self.short, self.body = path, b""
            return
        self.arriving_since = None
        url, headers = self.url, self.headers
        expects = self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expects
        self.headers.extend(headers)
        super().on_headers_complete()
        if self.draining_since is not None:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        if self.short is None:
            super().on_body(body)
        else:
            self.body += body

    def on_message_complete(self) -> None:
        """Answer a short request."""
        if self.short is None:
            super().on_message_complete()
            return
        path, self.short, self.arriving_since = self.short, None, None
        self._write(self.application.answer(path, self.headers, self.body, client=self.client))

    def send_400_response(self, msg: str) -> None:
        """Answer a request that could not be read."""
        if self.head_bytes <= self.limits.header_bytes:
            super().send_400_response(msg)
            return
        self.transport.write(_HEAD_TOO_LARGE)
        self.transport.close()

    def on_response_complete(self) -> None:
        """Note when uvicorn's way has answered."""
        self.quiet_since = monotonic()
        super().on_response_complete()

    def pause_writing(self) -> None:
        """Stop reading from a caller that does not read."""
        self.unread_since = monotonic()
        super().pause_writing()
        if not self._busy:
            self.flow.pause_reading()

    def resume_writing(self) -> None:
        """Go on."""
        self.unread_since = None
        super().resume_writing()
        if not self._busy:
            self.flow.resume_reading()

    def shutdown(self) -> None:
        """Let the answer that is due, or the next one, be the last; `close_overdue` ends the silent ones."""
        self.draining_since = monotonic()
        if self._busy:
            super().shutdown()

    def close_overdue(self, now: float) -> None:
        """Close the connection if its caller has taken too long."""
        limits = self.limits
        if self.unread_since is not None and now - self.unread_since > limits.deadline_s:
            self.transport.abort()
        elif self.arriving_since is not None:
            if self.short is not None and now - self.arriving_since > limits.deadline_s:
                self._write(self.application.late(self.short))
            elif self.short is None and now - self.arriving_since > limits.header_s:
                self.transport.close()
        elif not self._busy:
            silent_s = now - max(self.quiet_since, self.draining_since or 0.0)
            if silent_s > (limits.idle_s if self.draining_since is None else _LAST_REQUEST_S):
                self.transport.close()

    @property
    def _busy(self) -> bool:
        """Whether uvicorn's way is at work for this connection."""
        return self.cycle is not None and not self.cycle.response_complete

    def _is_short(self) -> bool:
        """Say whether the request that begins is one to be answered where it is read."""
        if self._busy or self.pipeline or self.expect_100_continue or self.parser.get_method() != b"POST":
            return False
        for name, value in self.headers:
            if name == b"content-length":
                short = len(value) < 10 and value.isdigit() and int(value) <= self.limits.inline_bytes  # noqa: PLR2004
                return short and self.parser.get_http_version() == "1.1"
        return False

    def _write(self, reply: Reply) -> None:
        """Write an answer, its head and body at once."""
        self.arriving_since = None
        lines = [STATUS_LINE[reply.status], b"content-type: ", reply.content_type]
        keep = self.draining_since is None and self.parser.should_keep_alive()
        for name, value in reply.headers:
            lines += (b"\r\n", name, b": ", value)
            keep = keep and name != b"connection"
        if not keep and (b"connection", b"close") not in reply.headers:
            lines.append(b"\r\nconnection: close")
        lines.append(b"\r\ncontent-length: %d\r\n\r\n" % len(reply.body))
        lines.append(reply.body)
        self.transport.write(b"".join(lines))
        self.quiet_since = monotonic()
        if not keep:
            self.transport.close()

    def _count(self, size: int) -> None:
        self.head_bytes += size
        if self.head_bytes > self.limits.header_bytes:
            raise ValueError(f"expected a head of at most {self.limits.header_bytes} bytes")  # the parser says so


def close_overdue(connections: Iterable[Any]) -> None:
    """Close the connections whose callers have taken too long; called once a second."""
    now = monotonic()
    for connection in list(connections):
        connection.close_overdue(now)

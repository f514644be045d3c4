"""What is let in: callers with a token, and requests and bodies within the limits.

Invariant: what is refused is refused before it is held. Bodies are counted while they arrive, and until they are
released, so many slow ones together take no more memory than is allowed.
"""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

from ml_core.errors import LateRequestError, LimitError, OverloadedError, UnauthorizedError
from serving.access import Tokens
from serving.http.heads import Head
from serving.settings import Limits
from serving.telemetry import Telemetry

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class Admission:
    """Says who and what is let in.

    Parameters
    ----------
    limits : Limits
    tokens : Tokens or None
        Who may ask; None for everybody.
    telemetry : Telemetry
        Knows how many requests are in flight.
    """

    def __init__(self, limits: Limits, tokens: Tokens | None, telemetry: Telemetry) -> None:
        self._limits = limits
        self._tokens = tokens
        self._telemetry = telemetry
        self._bytes_held = 0

    def check_token(self, head: Head) -> None:
        """Raise UnauthorizedError unless the caller is known."""
        if self._tokens is not None and not self._tokens.hold(head.get(b"authorization", b"")):
            raise UnauthorizedError("expected the header `Authorization: Bearer <token>` with a token known here")

    def check_room(self, head: Head) -> None:
        """Raise LimitError or OverloadedError where the body is announced too large, or too much is going on."""
        length = head.get(b"content-length", b"0")
        self._check_size(int(length) if len(length) < 20 and length.isdigit() else 0)  # noqa: PLR2004 - more is no size
        if self._telemetry.in_flight >= self._limits.in_flight:
            raise OverloadedError(
                f"expected at most {self._limits.in_flight} requests in flight; try again in a moment"
            )

    async def take(self, receive: Receive, parts: list[bytes]) -> bool:
        """Take the body in, part by part; say whether the caller was there to the end.

        Raises
        ------
        LimitError, OverloadedError, LateRequestError
            What came until then is in `parts`, and held.
        """
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
            raise self.late() from error

    def release(self, parts: Sequence[bytes]) -> None:
        """Hold a body no longer."""
        self._bytes_held -= sum(map(len, parts))

    def late(self) -> LateRequestError:
        """Return the error of a body that did not arrive in time."""
        return LateRequestError(f"expected the whole body within {self._limits.deadline_s} s")

    def reload(self) -> None:
        """Read the tokens again if they have changed."""
        if self._tokens is not None:
            self._tokens.reload()

    def _check_size(self, size: int) -> None:
        if size > self._limits.body_bytes:
            raise LimitError(f"expected a body of at most {self._limits.body_bytes} bytes; send the rows in parts")

"""Heads of requests: the headers that are looked at, and the id that a request is answered and logged under."""

from collections.abc import Iterable, Mapping
from itertools import count
from os import getpid

from serving.challenger import KEY_HEADER
from serving.inference import JSON_LENGTH

Head = Mapping[bytes, bytes]
REQUEST_ID = b"x-request-id"

_LONGEST_ID = 128
_READ = frozenset(
    (b"content-type", b"content-length", b"content-encoding", b"accept", b"authorization", REQUEST_ID, KEY_HEADER)
) | {JSON_LENGTH}


class Heads:
    """Reads heads.

    Parameters
    ----------
    identify : bool
        Whether a request that brings no id is given one: where it is told or logged.
    """

    def __init__(self, *, identify: bool) -> None:
        self._identify = identify
        self._ids = count()

    def read(self, headers: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
        """Return the headers that are looked at; an id that cannot be told is replaced by one of ours."""
        head = {name: value for name, value in headers if name in _READ}
        identity = head.get(REQUEST_ID)
        if self._identify if identity is None else not _is_plain(identity):
            head[REQUEST_ID] = b"%x-%x" % (getpid(), next(self._ids))
        return head


def _is_plain(identity: bytes) -> bool:
    return len(identity) <= _LONGEST_ID and identity.isascii() and identity.decode().isprintable()

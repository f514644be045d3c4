"""Answers before they are sent: what one is, and those to requests that are refused or lead nowhere."""

from dataclasses import dataclass
from http import HTTPStatus

import orjson

from ml_core.errors import LateRequestError, LimitError, UnauthorizedError
from serving.wire import error_body

Headers = tuple[tuple[bytes, bytes], ...]

_JSON = b"application/json"


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer before it is sent."""

    status: int
    body: bytes
    content_type: bytes = _JSON
    headers: Headers = ()


def refusal(path: str, error: Exception, status: int) -> Reply:
    """Return the answer to a request that failed with `error`, which is told as `status`."""
    headers: Headers = ()
    if getattr(error, "retryable", False):
        headers = ((b"retry-after", b"1"),)
    if isinstance(error, LimitError | LateRequestError):
        headers += ((b"connection", b"close"),)  # the rest of the body is not wanted
    if isinstance(error, UnauthorizedError):
        headers = ((b"www-authenticate", b"Bearer"),)
    return Reply(status, error_body(error, path), headers=headers)


def nowhere() -> Reply:
    """Return the answer to a path that is none."""
    return _plain(HTTPStatus.NOT_FOUND, "no such path, model or version; see /docs")


def wrong_method(path: str, takes: str, allowed: bytes) -> Reply:
    """Return the answer to a method that a path does not take."""
    return _plain(HTTPStatus.METHOD_NOT_ALLOWED, f"{path} takes {takes}", ((b"allow", allowed),))


def _plain(status: HTTPStatus, message: str, headers: Headers = ()) -> Reply:
    return Reply(
        status, orjson.dumps({"error_code": status.name, "message": message, "error": message}), headers=headers
    )

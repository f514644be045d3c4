"""Who may ask: bearer tokens from a file, one a line, read again whenever the file changes.

Only digests are kept and compared, all of them for every request, so that the time an answer takes says nothing about
a token. A file that has become unreadable or empty changes nothing: the tokens known before stay.
"""

import hmac
import logging
from hashlib import sha256
from pathlib import Path

from ml_core.errors import PlatformError

_LOG = logging.getLogger("modelflow.serving")
_SCHEME = b"bearer "


class Tokens:
    """The tokens of a file; empty lines and lines that begin with ``#`` are none.

    Raises
    ------
    PlatformError
        The file cannot be read, or holds no token.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._digests: tuple[bytes, ...] = ()
        self._seen: tuple[int, int, int] | None = None
        try:
            self._read()
        except (OSError, ValueError) as error:
            raise PlatformError(f"{file}: expected a file of tokens, one a line, found: {error}") from error

    def hold(self, authorization: bytes) -> bool:
        """Say whether a header's value is ``Bearer`` and a token that is known."""
        told = authorization[len(_SCHEME) :].strip() if authorization[: len(_SCHEME)].lower() == _SCHEME else b""
        digest = sha256(told).digest()
        known = False
        for other in self._digests:
            known |= hmac.compare_digest(digest, other)
        return known

    def reload(self) -> None:
        """Read the file again if it has changed."""
        try:
            self._read()
        except (OSError, ValueError) as error:
            if self._seen is not None:
                _LOG.error("%s: the tokens known before stay: %s", self._file, error)
            self._seen = None

    def _read(self) -> None:
        stat = self._file.stat()
        seen = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
        if seen == self._seen:
            return
        lines = [line.strip() for line in self._file.read_bytes().splitlines()]
        tokens = [line for line in lines if line and not line.startswith(b"#")]
        if not tokens:
            raise ValueError("no token")
        self._digests = tuple(sha256(token).digest() for token in tokens)
        _LOG.info("%s: %s tokens", self._file, len(tokens))
        self._seen = seen

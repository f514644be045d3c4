"""The optional signature of a package: an HMAC that only holders of the flow's key can make.

What is signed is the digest of the manifest together with the flow's name, so a package cannot be passed off as another
flow's. The signature stands in the registry beside the digest, not in the package: a package never changes, also
when keys do. A predictor given the key loads nothing that is unsigned or signed with another one.
"""

import hashlib
import hmac

from ml_core.errors import PackageError


def sign(flow: str, manifest_sha256: str, key: bytes) -> str:
    """Return the signature of a package of `flow` whose manifest has the given digest, in hexadecimal."""
    return hmac.new(key, f"{flow}\n{manifest_sha256}".encode(), hashlib.sha256).hexdigest()


def check_signature(flow: str, version: int, manifest_sha256: str | None, signature: str | None, *, key: bytes) -> None:
    """Raise PackageError unless `signature` was made with `key` for this flow and manifest."""
    expected = sign(flow, manifest_sha256 or "", key)
    if not manifest_sha256 or not hmac.compare_digest(expected, signature or ""):
        found = "a signature made with another key or for another package" if signature else "none"
        raise PackageError(
            f"{flow} version {version}: expected the manifest {(manifest_sha256 or '-')[:12]} signed with our key,"
            f" found {found}; publish it with the key, or start without one"
        )

"""A second version beside the served one: in the shadow of a share of requests, or answering a share of the keys.

In the *shadow* a request is answered by the served version as ever; what the challenger would have said of the same
rows is worked out afterwards, in the thread of the prediction log, and goes there. As a *canary* the challenger answers
the requests of some keys itself, always the same ones, and the answer says so like any other (`X-Model-Version`).

The challenger is what its model address points at now. Where nothing stands there, or the served version itself, or a
version that needs other columns than callers send, there is none.
"""

import random
from hashlib import sha256

from serving.following import Following
from serving.model import ServedModel

KEY_HEADER = b"x-canary-key"
_SPAN = float(2**64)


class Challenger:
    """Decides which requests a second version has a part in.

    Parameters
    ----------
    follower : Following
        Of the second model address.
    shadow_share : float
        The share of requests, by lot, that are scored by both.
    canary_share : float
        The share of keys that are answered by the challenger.
    """

    def __init__(self, follower: Following, *, shadow_share: float = 0.0, canary_share: float = 0.0) -> None:
        self.follower = follower
        self.shadow_share = shadow_share
        self.canary_share = canary_share
        self._known: tuple[ServedModel, ServedModel, bool] | None = None

    def beside(self, served: ServedModel) -> ServedModel | None:
        """Return the version that stands beside the served one now; None where there is none that could answer."""
        model = self.follower.current
        if model is None or self.follower.vacant:
            return None
        known = self._known
        if known is None or known[0] is not served or known[1] is not model:
            self._known = known = (served, model, _comparable(served, model))
        return model if known[2] else None

    def canary(self, served: ServedModel, key: bytes | None) -> ServedModel | None:
        """Return the challenger where it answers this key; a request without a key is never its."""
        if key is None or not self.canary_share or _place(key) >= self.canary_share:
            return None
        return self.beside(served)

    def shadow(self, served: ServedModel) -> ServedModel | None:
        """Return the challenger where this request's lot says that it is scored by both."""
        if not self.shadow_share or random.random() >= self.shadow_share:  # noqa: S311 - a sample, no secret
            return None
        return self.beside(served)


def _comparable(served: ServedModel, model: ServedModel) -> bool:
    if (served.version, served.ref.manifest_sha256) == (model.version, model.ref.manifest_sha256):
        return False
    return all(served.signature.get(name) == kind for name, kind in model.signature.items())


def _place(key: bytes) -> float:
    """Return where a key stands between 0 and 1: the same place in every worker, and after every restart."""
    return int.from_bytes(sha256(key).digest()[:8], "big") / _SPAN

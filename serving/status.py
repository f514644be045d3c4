"""What `/status` says: the served version, what the follower is doing, and why anything it tried failed."""

import time
from typing import Any

from serving.following import Following


def status_of_follower(follower: Following) -> dict[str, Any]:
    """Return everything a follower knows about itself, as JSON values."""
    model = follower.current
    return {
        "ready": follower.ready,
        "address": {
            "flow": follower.address.flow,
            "stage": follower.address.stage,
            "alias": follower.address.alias,
            "version": follower.address.version,
        },
        "serving": None if model is None else model.described(),
        "state": follower.state,
        "staleness_s": follower.staleness_s,
        "registry": {
            "answers": follower.registry_answers,
            "last_contact": follower.last_contact.isoformat() if follower.last_contact else None,
            "polls": follower.polls,
        },
        "last_error": follower.last_error,
        "quarantine": [
            {
                "version": entry.version,
                "reason": entry.reason,
                "failures": entry.failures,
                "since": entry.since.isoformat(),
                "retry_in_s": round(max(0.0, entry.retry_at - time.monotonic()), 1),
            }
            for entry in follower.quarantine
        ],
        "swaps": follower.swaps,
        "history": [
            {"at": swap.at.isoformat(), "version": swap.version, "before": swap.before, "from_cache": swap.from_cache}
            for swap in follower.history
        ],
    }

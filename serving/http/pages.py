"""What the sidecar shows of itself: readiness, the served version, its figures, and its own description."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from serving import inference, openapi
from serving.challenger import Challenger
from serving.following import Following
from serving.http.replies import Reply
from serving.http.scoring import served_by
from serving.log import PredictionLog
from serving.status import status_of_follower
from serving.telemetry import CONTENT_TYPE, Telemetry

OPEN_TO_ALL = frozenset(("/", "/ping", "/health", "/v2/health/ready", "/v2/health/live"))

_HTML = b"text/html; charset=utf-8"
_PAGE = Path(__file__).with_name("page.html").read_bytes()  # it holds nothing: what it shows it asks /status for
_PAGE_HEADERS = (
    (b"content-security-policy", b"default-src 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"),
)


class Pages:
    """Makes the answers to GET.

    Parameters
    ----------
    follower : Following
    telemetry : Telemetry
    log : PredictionLog or None
        Whose live figures are told.
    challenger : Challenger or None
        Whose status is told.
    """

    def __init__(
        self, follower: Following, telemetry: Telemetry, log: PredictionLog | None, challenger: Challenger | None
    ) -> None:
        self._follower = follower
        self._telemetry = telemetry
        self._log = log
        self._challenger = challenger

    def by_path(self, model: str) -> dict[str, Callable[[], Reply]]:
        """Return what makes each page; `model` is the path of the model in the Open Inference Protocol."""
        return {
            **dict.fromkeys(("/ping", "/health", "/v2/health/ready", f"{model}/ready"), self._ready),
            "/v2/health/live": self._live,
            "/v2": lambda: Reply(200, inference.SERVER),
            model: self._metadata,
            "/": lambda: Reply(200, _PAGE, _HTML, _PAGE_HEADERS),
            "/version": self._version,
            "/status": self._status,
            "/metrics": lambda: Reply(200, self._telemetry.render(), CONTENT_TYPE),
            "/openapi.json": lambda: Reply(200, orjson.dumps(self._described())),
            "/docs": lambda: Reply(200, openapi.page(self._described()), _HTML),
        }

    def _ready(self) -> Reply:
        ready = self._follower.ready
        return Reply(200 if ready else 503, orjson.dumps({"ready": ready}))

    def _live(self) -> Reply:
        live = self._follower.alive
        return Reply(200 if live else 503, orjson.dumps({"live": live}))

    def _version(self) -> Reply:
        return Reply(200, orjson.dumps(served_by(self._follower).described()))

    def _status(self) -> Reply:
        status = status_of_follower(self._follower) | {
            "workers": self._telemetry.workers(),
            "traffic": self._telemetry.traffic(),
            "live": self._log.live() if self._log is not None else None,
        }
        if self._challenger is not None:
            status["challenger"] = status_of_follower(self._challenger.follower) | {
                "shadow_share": self._challenger.shadow_share,
                "canary_share": self._challenger.canary_share,
            }
        return Reply(200, orjson.dumps(status))

    def _described(self) -> dict[str, Any]:
        return openapi.document(self._follower.address.flow, self._follower.current)

    def _metadata(self) -> Reply:
        return Reply(200, inference.metadata(served_by(self._follower)))

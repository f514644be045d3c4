"""Rows scored by the model that is current when they are, or was asked for: read, scored, logged, written, counted.

A row is scored on the event loop, because it takes tens of microseconds, less than handing it over would; a large body
in a thread. Counting is done on the event loop alone.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter

from ml_core.errors import NotReadyError, OverloadedError
from ml_core.flow.logged import CANARY, SERVED
from serving.challenger import KEY_HEADER, Challenger
from serving.following import Following
from serving.http.heads import REQUEST_ID, Head
from serving.http.replies import Reply
from serving.log import PredictionLog
from serving.model import ServedModel
from serving.settings import Limits
from serving.telemetry import Telemetry
from serving.wire import Codec

_BATCH_THREADS = 2


@dataclass(frozen=True, slots=True)
class _Scored:
    """An answer to rows, and what is counted about it."""

    reply: Reply
    rows: int
    marks: tuple[float, float, float, float]


def served_by(follower: Following) -> ServedModel:
    """Return the model a follower serves.

    Raises
    ------
    NotReadyError
        There is none yet.
    """
    model = follower.current
    if model is None:
        raise NotReadyError("no verified model is loaded yet; see /status")
    return model


class Scoring:
    """Scores bodies.

    Parameters
    ----------
    follower : Following
    limits : Limits
    telemetry : Telemetry
    log : PredictionLog or None
        Where what is scored is logged.
    challenger : Challenger or None
        A second version, which answers for some keys.
    """

    def __init__(
        self,
        follower: Following,
        limits: Limits,
        telemetry: Telemetry,
        *,
        log: PredictionLog | None,
        challenger: Challenger | None,
    ) -> None:
        self._follower = follower
        self._limits = limits
        self._telemetry = telemetry
        self._log = log
        self._challenger = challenger
        self._threads = ThreadPoolExecutor(_BATCH_THREADS, "large-batch")

    def is_short(self, codec: Codec, body: bytes) -> bool:
        """Say whether a body is scored at once: up to a size, or twice that where it takes half the time."""
        size, model = len(body), self._follower.current
        inline = self._limits.inline_bytes
        return size <= inline or (size <= 2 * inline and model is not None and codec.is_quick(body, model))

    def at_once(self, codec: Codec, head: Head, body: bytes, wanted: ServedModel | None = None) -> Reply:
        """Score a body here and now, by the wanted version where there is one."""
        return self._count(self._score(codec, head, body, wanted))

    async def in_thread(self, codec: Codec, head: Head, body: bytes, wanted: ServedModel | None = None) -> Reply:
        """Score a large body beside the event loop, by the wanted version where there is one.

        Raises
        ------
        OverloadedError
            Too many are waiting, or this one waited too long.
        """
        telemetry = self._telemetry
        if telemetry.queued >= self._limits.queue:
            raise OverloadedError(
                f"expected at most {self._limits.queue} large requests waiting; try again in a moment"
            )
        telemetry.queued += 1
        try:
            async with asyncio.timeout(self._limits.deadline_s):
                loop = asyncio.get_running_loop()
                scored = await loop.run_in_executor(self._threads, self._score, codec, head, body, wanted)
        except TimeoutError as error:
            raise OverloadedError("large requests take longer than allowed; try again in a moment") from error
        finally:
            telemetry.queued -= 1
        return self._count(scored)

    def close(self) -> None:
        """Let go of the threads, once what they have to log is written."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._log is not None:
            self._log.close()

    def _score(self, codec: Codec, head: Head, body: bytes, wanted: ServedModel | None) -> _Scored:
        started = perf_counter()
        model, role = (wanted, SERVED) if wanted is not None else self._chosen(head)
        asked, rows = codec.read(body, head, model, self._limits.rows)
        parsed = perf_counter()
        scores = rows[0](model, rows[1])
        scored = perf_counter()
        if self._log is not None:
            self._log.add(model, rows, scores, head[REQUEST_ID].decode(), role=role)
        content, content_type, headers = codec.write(scores, model, asked, head)
        reply = Reply(200, content, content_type, ((b"x-model-version", b"%d" % model.version), *headers))
        return _Scored(reply, len(scores), (started, parsed, scored, perf_counter()))

    def _chosen(self, head: Head) -> tuple[ServedModel, str]:
        """Return the current model, or the challenger where it answers this key, and the role of either."""
        model = served_by(self._follower)
        if self._challenger is not None and (canary := self._challenger.canary(model, head.get(KEY_HEADER))):
            return canary, CANARY
        return model, SERVED

    def _count(self, scored: _Scored) -> Reply:
        self._telemetry.scored(scored.rows, scored.marks)
        return scored.reply

"""The demo's replay: every flight of the autumn asked about once, before its outcome, while the flow keeps learning.

At each moment the facts known by then are ingested, one HTTP request per flight goes to the sidecar with the
features as of its scheduled departure, and its outcome follows only when the plane lands. Every six hours the flow's
own sensor is ticked; when it asks for an increment, Dagster runs it, the gate judges it, and the replay goes on
once the sidecar serves what was promoted.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

import pyarrow as pa

from ml_core.data.replay import Replay
from ml_core.data.store import FeatureStore
from ml_core.errors import PlatformError
from ml_core.flow.registry import Registry
from ml_core.project import Flow
from orchestration.demo.caller import Caller
from orchestration.demo.moments import request_moments
from orchestration.demo.runs import Runs

_TICK_EVERY = timedelta(hours=6)
_RELOAD_TIMEOUT_S = 30.0
_INSTANT = timedelta(microseconds=1)


def live_through(
    store: FeatureStore,
    replay: Replay,
    caller: Caller,
    *,
    moments: list[datetime],
    tick: Callable[[], None],
    show: Callable[[datetime], None],
) -> None:
    """Replay up to the last of `moments`, asking for a prediction of every flight as it comes up.

    Parameters
    ----------
    moments : list of datetime
        When waiting requests are sent, see `request_moments`.
    tick : callable
        Called between two moments, every six hours of the flow's time.
    show : callable
        Told the flow's clock at every moment.
    """
    asked_until = store.progress().clock
    if asked_until is None:
        raise PlatformError("the replay starts where the history ends, but none was ingested")
    next_tick = asked_until + _TICK_EVERY
    waiting = deque(moments)
    while waiting:
        with store.session():  # held between two ticks: the runs a tick starts need the store themselves
            while waiting and waiting[0] < next_tick:
                moment = waiting.popleft()
                replay.ingest(store.log, moment)
                store.absorb(join_labels=False)  # nobody learns before the next tick
                caller.ask(store.feature_rows(asked_until + _INSTANT, moment + _INSTANT))
                asked_until = moment
                show(moment)
            store.absorb()
        next_tick += _TICK_EVERY
        tick()


def moments_between(flow: Flow, facts: Mapping[str, pa.Table], start: datetime, end: datetime) -> list[datetime]:
    """Return the moments of the requests made in (start, end), from the facts that a replay holds."""
    data = flow.data
    entities, labels = facts[data.entity], facts[data.label_fact]
    outcomes = dict(zip(labels[data.key].to_pylist(), labels["known_at"].to_pylist(), strict=True))
    asked = zip(entities[data.request_time].to_pylist(), entities[data.key].to_pylist(), strict=True)
    waiting = sorted((request, key) for request, key in asked if start < request < end)
    return list(request_moments([request for request, _ in waiting], [outcomes.get(key) for _, key in waiting]))


def learn_when_due(flow: Flow, registry: Registry, runs: Runs, caller: Caller) -> None:
    """Tick the flow's sensor, run what it asks for, and wait until the sidecar serves what was promoted."""
    ran = list(runs.tick(f"{flow.name}_new_labels"))
    if not ran:
        return
    champion = registry.head(flow.name)
    if champion is None:
        raise PlatformError(f"{flow.name}: run {ran[-1]} succeeded, but no version stands in Production")
    wait_until_served(caller, champion.version)


def wait_until_served(caller: Caller, version: int) -> None:
    """Wait until the sidecar answers with `version`; raise PlatformError when it does not in time."""
    deadline = time.monotonic() + _RELOAD_TIMEOUT_S
    while (served := caller.served_version()) != version:
        if time.monotonic() > deadline:
            raise PlatformError(
                f"expected the sidecar to serve version {version} within {_RELOAD_TIMEOUT_S:.0f} s of its promotion,"
                f" found {served}; its log says why"
            )
        time.sleep(0.02)

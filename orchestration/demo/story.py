"""The demo's replay: every flight of the autumn asked about once, before its outcome, while the flow keeps learning.

At each moment the facts known by then are ingested, one HTTP request per flight goes to the sidecar with the
features as of its scheduled departure, and its outcome follows only when the plane lands. Every six hours the flow's
own sensor is ticked; when it asks for an increment, Dagster runs it, the gate judges it, and the replay goes on
once the sidecar serves what was promoted.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from datetime import datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc

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
    tick: Callable[[Callable[[], None]], None],
    show: Callable[[datetime], None],
) -> None:
    """Replay up to the last of `moments`, asking for a prediction of every flight as it comes up.

    Parameters
    ----------
    moments : list of datetime
        When waiting requests are sent, see `request_moments`.
    tick : callable
        Called between two moments, every six hours of the flow's time, with what lets go of the store: a run needs it.
    show : callable
        Told the flow's clock at every moment.
    """
    asked_until = store.progress().clock
    if asked_until is None:
        raise PlatformError("the replay starts where the history ends, but none was ingested")
    next_tick = asked_until + _TICK_EVERY
    waiting = deque(moments)
    with ExitStack() as held:
        while waiting:
            held.enter_context(
                store.session()
            )  # kept over the ticks that start nothing: opening it costs a moment's work
            while waiting and waiting[0] < next_tick:
                moment = waiting.popleft()
                replay.ingest(store.log, moment)
                store.absorb(join_labels=False)  # nobody learns before the next tick
                caller.ask(store.feature_rows(asked_until + _INSTANT, moment + _INSTANT))
                asked_until = moment
                show(moment)
            store.absorb()
            next_tick += _TICK_EVERY
            tick(held.close)


def moments_between(flow: Flow, facts: Mapping[str, pa.Table], start: datetime, end: datetime) -> list[datetime]:
    """Return the moments of the requests made in (start, end), from the facts that a replay holds."""
    data = flow.data
    entities, labels = facts[data.entity], facts[data.label_fact]
    asked = entities.select([data.key, data.request_time]).filter(
        (pc.field(data.request_time) > start) & (pc.field(data.request_time) < end)
    )
    outcomes = labels.select([data.key, "known_at"]).filter(pc.field("known_at") > start).to_pylist()
    known = {outcome[data.key]: outcome["known_at"] for outcome in outcomes}
    waiting = asked.sort_by([(data.request_time, "ascending"), (data.key, "ascending")]).to_pylist()
    requests = [row[data.request_time] for row in waiting]
    return list(request_moments(requests, [known.get(row[data.key]) for row in waiting]))


def learn_when_due(flow: Flow, registry: Registry, runs: Runs, caller: Caller, let_go: Callable[[], None]) -> None:
    """Tick the flow's sensor, run what it asks for, and wait until the sidecar serves what was promoted."""
    sensor = f"{flow.name}_new_labels"
    asked = runs.asked(sensor)
    if not asked:
        return
    let_go()
    ran = [runs.answer(sensor, request) for request in asked]
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

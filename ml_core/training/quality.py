"""What is wrong with the newest data of a flow, told by the days before it: columns, gaps, ranges, order, labels.

Each finding compares the newest complete day with the days before and answers for itself: what was looked at, what was
found, what to do. Nothing is read but sums over the tables, in one session; what only one row in a thousand shows is
left to the gate. A finding that blocks is one whose data no version may learn from.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Protocol

import numpy as np

from ml_core.data.store import FeatureStore
from ml_core.data.tables import Connection, feature_schema, quoted
from ml_core.errors import ProjectError
from ml_core.pipeline.stages import build_stage
from ml_core.project import Flow

FACT_CHECKS = ("facts_columns", "facts_unique", "facts_in_order", "facts_volume", "facts_fresh")
FEATURE_CHECKS = (
    *("features_schema", "features_missing", "features_in_range"),
    *("labels_follow_requests", "labels_delay", "labels_rate"),
)
BLOCKING = frozenset({"features_schema", "labels_follow_requests"})

_DAY = timedelta(days=1)
_FEWEST_DAYS = 7
_MOSTLY = 0.5
_NORMAL = 1.4826  # a normal distribution's standard deviation over its median absolute deviation
_USUAL = 0.05  # days never count as more alike than this share of their median
_OWN = {"event_time", "known_at", "log_offset"}


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found.

    Attributes
    ----------
    name : str
        One of `FACT_CHECKS` or `FEATURE_CHECKS`.
    passed : bool
    said : str
        One sentence: what was found and, where it does not pass, what to do.
    figures : mapping of str to float
    """

    name: str
    passed: bool
    said: str
    figures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Days:
    """The newest complete day [start, end), and the baseline [since, start) before it."""

    since: datetime
    start: datetime
    end: datetime

    @property
    def values(self) -> dict[str, datetime]:
        return {"since": self.since, "start": self.start, "end": self.end}


def check_facts(flow: Flow, store: FeatureStore) -> list[Finding]:
    """Return what is found of the facts, a finding for each of `FACT_CHECKS`."""
    return _checked(flow, store, FACT_CHECKS, partial(_facts, store.log.partitions()))


def check_features(flow: Flow, store: FeatureStore) -> list[Finding]:
    """Return what is found of feature rows and labels, a finding for each of `FEATURE_CHECKS`."""
    return _checked(flow, store, FEATURE_CHECKS, _features)


def unusual(history: Sequence[float], newest: float) -> float:
    """Return how many deviations `newest` lies from the median of `history`.

    A deviation is 1.4826 times the median absolute deviation (Hampel 1974, JASA 69), and at least 5 % of the median.
    """
    median = float(np.median(history))
    spread = _NORMAL * float(np.median(np.abs(np.array(history) - median)))
    return abs(newest - median) / max(spread, _USUAL * abs(median), 1e-9)


def _checked(flow: Flow, store: FeatureStore, names: Sequence[str], questions: "_Questions") -> list[Finding]:
    clock = store.progress().clock
    if clock is None:
        return [Finding(name, True, "there are no facts yet") for name in names]
    end = clock.replace(hour=0, minute=0, second=0, microsecond=0)
    days = _Days(end - _DAY - flow.quality.baseline, end - _DAY, end)
    with store.reading() as connection:
        return list(questions(flow, connection, days))


class _Questions(Protocol):
    def __call__(self, flow: Flow, connection: Connection, days: _Days) -> Iterator[Finding]: ...


def _facts(kinds: Sequence[str], flow: Flow, connection: Connection, days: _Days) -> Iterator[Finding]:
    entity, label = flow.data.entity, flow.data.label_fact
    gone = [
        f"{kind}.{name}"
        for kind in kinds
        for name, (before, now) in _filled(connection, f"facts.{quoted(kind)}", "known_at", days, _OWN).items()
        if before > _MOSTLY and not now
    ]
    yield Finding(
        "facts_columns",
        not gone,
        f"mostly filled in the days before and empty on the newest: {', '.join(gone)}; ask the producer, or take them"
        " out of features.sql"
        if gone
        else "every column that was filled still is",
        {"columns_gone": len(gone)},
    )
    yield _unique(flow, connection, days)
    early = _share(connection, f"facts.{quoted(label)}", "event_time > known_at", days)
    yield _within(
        "facts_in_order", early, flow.quality.max_out_of_order, f"of `{label}` facts are known before they happened"
    )
    known = f"select known_at as moment from facts.{quoted(entity)}"  # noqa: S608 - identifiers are quoted
    per_day = _by_day(connection, known, "count(*)", days)
    yield _as_usual("facts_volume", flow, per_day, f"`{entity}` facts a day", fill=0.0)
    silent = {
        kind: (days.end - newest) / timedelta(hours=1)
        for kind in kinds
        for (newest,) in connection.execute(f"select max(known_at) from facts.{quoted(kind)}").fetchall()  # noqa: S608 - identifiers are quoted
        if newest is not None
    }
    limit = flow.quality.max_silence / timedelta(hours=1)
    quiet = [kind for kind, hours in silent.items() if hours > limit]
    yield Finding(
        "facts_fresh",
        not quiet,
        f"no facts of {', '.join(quiet)} for more than {limit:g} hours; see whether their producer runs"
        if quiet
        else f"every kind of fact came in within {limit:g} hours",
        {f"{kind}_silent_hours": max(hours, 0.0) for kind, hours in silent.items()},
    )


def _features(flow: Flow, connection: Connection, days: _Days) -> Iterator[Finding]:
    schema, wrong = feature_schema(connection), []
    for position, spec in enumerate(flow.pipeline.stages):
        try:
            build_stage(spec, schema)
        except ProjectError as error:
            wrong.append(f"pipeline.stages[{position}]: {error}")
    yield Finding(
        "features_schema",
        not wrong,
        "; ".join(wrong) or "the pipeline can be built over the feature table",
        {"columns": len(schema)},
    )
    filled = _filled(connection, "features", "request_time", days, {"key", "request_time"})
    rise = {name: before - now for name, (before, now) in filled.items()}
    worst = max(rise, key=lambda name: rise[name], default="")
    yield _within(
        "features_missing", rise.get(worst, 0.0), flow.quality.max_missing_rise,
        f"more of `{worst}` is missing than in the days before",
    )  # fmt: skip
    yield _in_range(flow, connection, [name for name, kind in schema.items() if kind == "float"], days)
    key, label = quoted(flow.data.key), f"facts.{quoted(flow.data.label_fact)}"
    pairs = (
        f"(select l.known_at, l.known_at < f.request_time as early from {label} l"  # noqa: S608 - identifiers are quoted
        f" join features f on f.key = l.{key} where f.request_time >= $start - interval 1 day"
        f" and l.{quoted(flow.data.label)} is not null)"
    )
    leaked = _share(connection, pairs, "early", days)
    yield _within(
        "labels_follow_requests", leaked, flow.quality.max_out_of_order,
        "of the labels were known before their row was asked for: a feature may hold the answer",
    )  # fmt: skip
    delays = "select labelled_at as moment, epoch(labelled_at - request_time) / 3600 as value from examples"
    yield _as_usual("labels_delay", flow, _by_day(connection, delays, "median(value)", days), "hours to a label")
    rates = "select labelled_at as moment, label as value from examples"
    yield _as_usual("labels_rate", flow, _by_day(connection, rates, "avg(value)", days), "mean label")


def _unique(flow: Flow, connection: Connection, days: _Days) -> Finding:
    key, shares = quoted(flow.data.key), []
    for kind in (flow.data.entity, flow.data.label_fact):
        query = (
            f"select 1 - count(distinct {key}) / nullif(count(*), 0) from facts.{quoted(kind)}"  # noqa: S608 - identifiers are quoted
            " where known_at >= $start and known_at < $end"
        )
        shares.append(float(connection.execute(query, _bound(query, days)).fetchall()[0][0] or 0.0))
    return _within(
        "facts_unique", max(shares), flow.quality.max_repeated, f"of the facts repeat a `{flow.data.key}` of their day"
    )


def _in_range(flow: Flow, connection: Connection, numbers: Sequence[str], days: _Days) -> Finding:
    """Compare the newest numbers with the range of those before, half its width allowed for on either side."""
    if not numbers:
        return Finding("features_in_range", passed=True, said="no feature is a number")
    ends = ", ".join(f"min({quoted(name)}), max({quoted(name)})" for name in numbers)
    before = f"select {ends} from features where request_time >= $since and request_time < $start"  # noqa: S608 - identifiers are quoted
    found = connection.execute(before, _bound(before, days)).fetchall()[0]
    known = {
        name: (low, high)
        for name, low, high in zip(numbers, found[::2], found[1::2], strict=True)
        if low is not None and np.isfinite([low, high]).all()
    }
    if not known:
        return Finding("features_in_range", passed=True, said="there are no days before to compare with")
    counted = ", ".join(
        f"avg(({quoted(name)} < {low - (high - low) / 2} or {quoted(name)} > {high + (high - low) / 2})::integer)"
        for name, (low, high) in known.items()
    )
    now = f"select {counted} from features where request_time >= $start and request_time < $end"  # noqa: S608 - as above
    shares = dict(zip(known, connection.execute(now, _bound(now, days)).fetchall()[0], strict=True))
    worst = max(shares, key=lambda name: shares[name] or 0.0)
    said = f"of `{worst}` lies far outside the range of the days before"
    return _within("features_in_range", shares[worst] or 0.0, flow.quality.max_out_of_range, said)


def _filled(
    connection: Connection, table: str, at: str, days: _Days, without: set[str]
) -> dict[str, tuple[float, float]]:
    """Return the share of each column that is filled, before and on the newest day; none where a day has no row."""
    names = [row[0] for row in connection.execute(f"describe {table}").fetchall() if row[0] not in without]
    if not names:
        return {}
    shares = ", ".join(
        f"count({quoted(name)}) filter ({at} < $start) / nullif(count(*) filter ({at} < $start), 0),"
        f" count({quoted(name)}) filter ({at} >= $start) / nullif(count(*) filter ({at} >= $start), 0)"
        for name in names
    )
    query = f"select {shares} from {table} where {at} >= $since and {at} < $end"  # noqa: S608 - identifiers are quoted
    found = connection.execute(query, _bound(query, days)).fetchall()[0]
    pairs = zip(names, found[::2], found[1::2], strict=True)
    return {name: (before, now) for name, before, now in pairs if before is not None and now is not None}


def _share(connection: Connection, table: str, wrong: str, days: _Days) -> float:
    query = f"select avg(({wrong})::integer) from {table} where known_at >= $start and known_at < $end"  # noqa: S608 - ours
    return float(connection.execute(query, _bound(query, days)).fetchall()[0][0] or 0.0)


def _by_day(connection: Connection, rows: str, value: str, days: _Days) -> dict[int, float]:
    """Return a figure of each UTC day that has rows, by how many days it lies before the newest."""
    wanted = "moment >= $since and moment < $end"
    query = f"select date_diff('day', moment, $start), {value} from ({rows}) where {wanted} group by 1"  # noqa: S608 - ours
    return {int(back): float(found) for back, found in connection.execute(query, _bound(query, days)).fetchall()}


def _bound(query: str, days: _Days) -> dict[str, datetime]:
    return {name: value for name, value in days.values.items() if f"${name}" in query}


def _within(name: str, share: float, limit: float, what: str) -> Finding:
    passed = share <= limit
    said = f"{max(share, 0.0):.2%} {what}, at most {limit:.2%} allowed"
    return Finding(name, passed, said, {"share": share})


def _as_usual(name: str, flow: Flow, per_day: Mapping[int, float], what: str, *, fill: float | None = None) -> Finding:
    oldest = max(per_day, default=0)
    back = [per_day.get(day, fill) for day in range(1, oldest + 1)]
    history, newest = [value for value in back if value is not None], per_day.get(0, fill)
    if newest is None or len(history) < _FEWEST_DAYS:
        return Finding(name, passed=True, said=f"{len(history)} days before to compare with, {_FEWEST_DAYS} wanted")
    apart, median = unusual(history, newest), float(np.median(history))
    said = (
        f"{what}: {newest:.4g} on the newest day, {median:.4g} in the middle of {len(history)} days before;"
        f" {apart:.1f} deviations apart, at most {flow.quality.max_deviations:g} allowed"
    )
    return Finding(name, apart <= flow.quality.max_deviations, said, {"newest": newest, "median": median})

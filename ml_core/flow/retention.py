"""Retention: which versions a flow keeps, and why.

`plan` is a pure function over what the registry and the ledger say; `collect` carries it out through the registry, in
the flow's own lock, so that nothing goes that came to stand somewhere in the meantime. What no flow published is never
touched.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from ml_core.flow.ledger import Entry
from ml_core.flow.registry import Registry
from ml_core.flow.version import ModelVersion
from ml_core.project import Flow

# so many go under one entry of the ledger, whose lock the flow's producers wait for
_AT_ONCE = 50


@dataclass(frozen=True, slots=True)
class Plan:
    """What retention would do with a flow.

    Attributes
    ----------
    kept : mapping of int to str
        The versions that stay, each with the first reason that holds it.
    gone : sequence of ModelVersion
        The versions to delete, oldest first.
    """

    kept: Mapping[int, str]
    gone: Sequence[ModelVersion]


def plan(flow: Flow, versions: Sequence[ModelVersion], last: Entry, *, now: datetime) -> Plan:
    """Say which of a flow's `versions`, all of them, oldest first, are kept.

    Kept are what stands under an alias or in a stage, what is pinned, what waits to be judged, the newest
    ``keep_last``, everything younger than ``keep_for``, and of each of the standing ones the ancestors whose evidence a
    full retrain would be judged on, the newest ``gate.max_rows`` examples of the lineage.
    """
    settings = flow.retention
    standing = {last.champion: "champion", last.challenger: "challenger", last.previous: "previous"}
    newest = {version.version for version in versions[-settings.keep_last :]}
    ancestors = _ancestors(versions, standing, rows=flow.gate.max_rows)
    kept: dict[int, str] = {}
    for version in versions:
        number = version.version
        if number in standing:
            kept[number] = standing[number]
        elif version.stage in {"Staging", "Production"}:
            kept[number] = f"in {version.stage}"
        elif version.pinned:
            kept[number] = f"pinned: {version.pinned}"
        elif number in newest:
            kept[number] = f"among the newest {settings.keep_last}"
        elif version.created_at is None or now - version.created_at < settings.keep_for:
            kept[number] = f"younger than {settings.keep_for}"
        elif version.verdict is None and version.stage == "None":
            kept[number] = "waits to be judged"
        elif number in ancestors:
            kept[number] = f"its evidence is the lineage of version {ancestors[number]}"
    return Plan(kept, [version for version in versions if version.version not in kept])


def collect(flow: Flow, registry: Registry, *, now: datetime, who: str | None = None) -> Plan:
    """Delete what `plan` lets go, with its artifacts and runs; return the plan."""
    registry.reconcile(flow.name)
    made = plan(flow, registry.versions(flow.name), registry.ledger.last(flow.name), now=now)
    settings = flow.retention
    why = f"older than {settings.keep_for} and not among the newest {settings.keep_last}"
    for start in range(0, len(made.gone), _AT_ONCE):
        registry.delete(flow.name, made.gone[start : start + _AT_ONCE], why=why, who=who)
    return made


def _ancestors(versions: Sequence[ModelVersion], standing: Mapping[int | None, str], *, rows: int) -> dict[int, int]:
    """Return the ancestors whose evidence reaches into the newest `rows` of a standing version, and whose they are."""
    by_number = {version.version: version for version in versions}
    found: dict[int, int] = {}
    for number in standing:
        version = by_number.get(number or 0)
        stop = 0 if version is None else version.watermark - rows
        while version is not None and version.parent is not None:
            version = by_number.get(version.parent)
            if version is not None and version.watermark <= stop:
                break
            if version is not None:
                found.setdefault(version.version, number or 0)
    return found

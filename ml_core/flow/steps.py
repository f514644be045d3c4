"""The steps of a transition, derived from its entry in the ledger alone.

A process that dies between two steps leaves the name of the one it was making. Whoever takes over goes on from there:
that step is made again, which changes nothing when it was made already, and then the rest. The step `production` moves
the new champion in and the old one out in one transaction, so there is one version in Production before and after it.
"""

from collections.abc import Callable, Iterator

from ml_core.flow.ledger import Entry
from ml_core.flow.moves import SOMEONE
from ml_core.flow.shelf import ALIASES, Shelf

Step = tuple[str, Callable[[], None]]


def of(entry: Entry, shelf: Shelf) -> list[Step]:
    """Return the steps left to make, each with its name in the journal."""
    steps = list(_all(entry, shelf))
    names = [name for name, _ in steps]
    return steps[names.index(entry.step) :] if entry.step in names else steps


def _all(entry: Entry, shelf: Shelf) -> Iterator[Step]:
    flow, version = entry.flow, entry.version
    if entry.verdict is not None and version is not None:
        verdict = entry.verdict.to_json()
        yield "verdict", lambda: shelf.tag(flow, version, "verdict", verdict)
    if entry.kind in {"pin", "unpin"} and version is not None:
        yield entry.kind, lambda: shelf.tag(flow, version, "pinned", entry.why)
        return
    for number, run_id in entry.details.get("versions", ()):
        yield f"delete {number}", lambda number=number: shelf.delete_version(flow, number)  # type: ignore[misc]
        yield f"artifacts {number}", lambda run_id=run_id: shelf.delete_run(run_id)  # type: ignore[misc]
    if "resume_at" in entry.details and version is not None:
        resume_at = entry.details["resume_at"]
        yield "resume", lambda: shelf.tag(flow, version, "resume_at", "" if resume_at is None else str(resume_at))
    yield from _stages(entry, shelf)
    for alias in ALIASES:
        yield f"alias {alias}", lambda alias=alias: shelf.point(flow, alias, getattr(entry, alias))  # type: ignore[misc]


def _stages(entry: Entry, shelf: Shelf) -> Iterator[Step]:
    flow, version, champion = entry.flow, entry.version, entry.champion
    if entry.kind == "promote" and version is not None and entry.who != SOMEONE:
        yield "staging", lambda: shelf.move(flow, version, "Staging")
        yield "challenger", lambda: shelf.point(flow, "challenger", version)
    if entry.kind in {"promote", "rollback", "restore"} and champion is not None:
        yield "production", lambda: shelf.move(flow, champion, "Production", alone=True)
    if entry.who == SOMEONE and (challenger := entry.challenger) is not None:
        yield "staging", lambda: shelf.move(flow, challenger, "Staging", alone=True)
    if entry.kind in {"refuse", "restore"} and version is not None:
        yield "archive", lambda: shelf.move(flow, version, "Archived")

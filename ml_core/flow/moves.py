"""What a person changed in MLflow, read as a transition of the flow.

`people_move` compares what stands where with the ledger's last entry. It is a pure function: it neither verifies the
version nor carries anything out. The stage is what a person means; where only an alias was set, the alias is. Of
several versions in one stage the one moved last is meant.
"""

from dataclasses import replace

from ml_core.flow.ledger import Entry
from ml_core.flow.shelf import Standing

SOMEONE = "someone in MLflow"


def people_move(last: Entry, seen: Standing) -> Entry | None:
    """Return the transition that makes the flow consistent with what a person did; None when nothing differs."""
    champion, kind, version, why = _champion(last, seen)
    before = last.champion
    challenger = _challenger(last, seen, champion)
    previous = last.previous if seen.previous in {None, last.previous} else seen.previous
    if champion != before and before is not None:
        previous = before
    if previous not in seen.known:
        previous = None  # deleted
    if previous == champion:
        previous = None
    if not kind and challenger != last.challenger:
        kind, version = "challenge" if challenger is not None else "align", challenger
        why = "moved to Staging" if challenger is not None else f"version {last.challenger} was taken out of Staging"
    if not kind and previous != last.previous:
        kind, version, why = "align", previous, f"alias previous was set to version {previous}"
    wanted = (champion, challenger, previous)
    if not kind and ((seen.champion, seen.challenger, seen.previous) != wanted):
        kind, version, why = "align", champion, "an alias was taken away, and follows the stages again"
    if not kind:
        return None
    return replace(
        Entry(last.flow),
        kind=kind,
        version=version,
        before=before,
        champion=champion,
        challenger=challenger,
        previous=previous,
        who=SOMEONE,
        why=why,
    )


def _champion(last: Entry, seen: Standing) -> tuple[int | None, str, int | None, str]:
    """Return who is champion now, and by what kind of move of which version, and why; the kind is empty for none."""
    others = [version for version in seen.production if version != last.champion]
    if others:
        return others[-1], "promote", others[-1], "moved to Production"
    if seen.champion not in {None, last.champion}:
        return seen.champion, "promote", seen.champion, "alias champion was set"
    if last.champion is not None and last.champion not in seen.production:
        return None, "retire", last.champion, f"version {last.champion} was taken out of Production"
    return last.champion, "", None, ""


def _challenger(last: Entry, seen: Standing, champion: int | None) -> int | None:
    others = [version for version in seen.staging if version not in {last.challenger, champion}]
    if others:
        return others[-1]
    if seen.challenger not in {None, last.challenger, champion}:
        return seen.challenger
    return last.challenger if last.challenger in seen.staging and last.challenger != champion else None

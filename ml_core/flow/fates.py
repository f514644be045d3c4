"""What became of a flow's versions, by the registry's stages and the ledger's moves."""

from collections.abc import Iterable, Sequence

from ml_core.flow.ledger import DONE, Entry
from ml_core.flow.version import ModelVersion


def fates(versions: Sequence[ModelVersion], entries: Iterable[Entry]) -> dict[int, str]:
    """Return what became of each version of a flow.

    Its stage while it stands in one; then `rolled back`, `refused` or `archived`; `waiting` before it was judged.

    Parameters
    ----------
    entries : iterable of Entry
        The flow's ledger, the oldest first. A version that became champion again after a rollback is not rolled back.
    """
    rolled_back: set[int | None] = set()
    for entry in entries:
        if entry.step == DONE and entry.champion != entry.before:
            rolled_back.discard(entry.champion)
            if entry.kind == "rollback":
                rolled_back.add(entry.before)
    return {each.version: _fate(each, rolled_back=each.version in rolled_back) for each in versions}


def _fate(version: ModelVersion, *, rolled_back: bool) -> str:
    if version.stage in {"Production", "Staging"}:
        return version.stage
    if rolled_back:
        return "rolled back"
    if version.verdict is not None and not version.verdict.accepted:
        return "refused"
    return "archived" if version.stage == "Archived" else "waiting"

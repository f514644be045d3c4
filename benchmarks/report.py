"""The rows a benchmark measures: how one is made, printed for people, and written to `var/bench/<name>.json`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def more(name: str, ours: float, peer: float, unit: str, *, at_least: float | None = None) -> Row:
    """Return a row of a figure that is better when it is larger; its target is a ratio to the peer's."""
    ratio = ours / peer
    return _row(name, ours, peer, unit, ratio, at_least, None if at_least is None else ratio >= at_least)


def less(name: str, ours: float, peer: float, unit: str, *, at_least: float | None = None) -> Row:
    """Return a row of a figure that is better when it is smaller; its target is how often it goes into the peer's."""
    ratio = peer / max(ours, 1e-9)
    return _row(name, ours, peer, unit, ratio, at_least, None if at_least is None else ratio >= at_least)


def bound(name: str, ours: float, unit: str, limit: float | None, *, peer: float | None = None) -> Row:
    """Return a row whose target, where there is one, is a limit of our own figure."""
    ratio = None if peer is None else peer / max(ours, 1e-9)
    return _row(name, ours, peer, unit, ratio, limit, None if limit is None else ours <= limit)


def write(name: str, rows: Sequence[Row]) -> None:
    """Print the table and write the file."""
    print(f"{'':76} {'ours':>12} {'peer':>12} {'':7} {'ratio':>9} {'target':>12}")
    for row in rows:
        target = "" if row["target"] is None else f"{row['target']:g} {'holds' if row['holds'] else 'MISSED'}"
        peer, ratio = (" " if row[of] is None else f"{row[of]:,.2f}" for of in ("peer", "ratio"))
        print(f"{row['name']:76} {row['ours']:12,.2f} {peer:>12} {row['unit']:7} {ratio:>9} {target:>12}")
    file = Path("var/bench", f"{name}.json")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(list(rows), indent=1) + "\n", encoding="utf-8")


def _row(  # noqa: PLR0917 - the columns of the table
    name: str, ours: float, peer: float | None, unit: str, ratio: float | None, target: float | None, holds: bool | None
) -> Row:
    shown = {of: None if value is None else round(value, 2) for of, value in (("peer", peer), ("ratio", ratio))}
    return {"name": name, "ours": round(ours, 2), "unit": unit, **shown, "target": target, "holds": holds}

"""Tables that the code has never seen: column names, texts and values are drawn anew for every seed."""

import csv
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np

ZONE = "Europe/Lisbon"


@dataclass(frozen=True)
class Unseen:
    """A CSV file, what each kind of column is called in it, the texts of its label and its rows."""

    path: Path
    columns: dict[str, str]
    texts: tuple[str, str]
    rows: list[dict[str, Any]]

    def written(self, rows: list[dict[str, Any]] | None = None) -> Path:
        """Write the file, or one with other rows."""
        with self.path.open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file, delimiter=";")
            table.writerow(self.columns.values())
            table.writerows([row[what] for what in self.columns] for row in (self.rows if rows is None else rows))
        return self.path


def unseen(folder: Path, seed: int, *, rows: int = 3_000, days: int = 30, start: str = "2024-03-04") -> Unseen:
    """Make a table: `;` between columns, `,` in numbers, local day-first times across a change of the clocks."""
    random = np.random.default_rng(seed)

    def word() -> str:
        return "".join(random.choice(list("bcdfglmnprstvz")) + random.choice(list("aeiouäö")) for _ in range(4))

    kinds = ("time", "label", "group", "name", "strength", "noise", "leak", "id")
    order = [kinds[position] for position in random.permutation(len(kinds))]
    columns = {kind: f"{word()}{random.choice([' ', '-', '_', ''])}{word()}" for kind in order}
    texts = (f"{word()} nein", f"{word()} ja")
    names, groups = [word() for _ in range(150)], [word() for _ in range(4)]
    missing = str(random.choice(["n/a", "", "NULL", "-"]))
    begins = datetime.fromisoformat(start).replace(tzinfo=ZoneInfo("UTC"))
    minutes = np.sort(random.integers(0, days * 1_440, rows))
    made = []
    for number, minute in enumerate(minutes):
        group, strength = int(random.integers(4)), float(random.normal())
        late = random.random() < 1 / (1 + np.exp(1.2 - 1.6 * strength - (group - 1.5)))
        moment = (begins + timedelta(minutes=int(minute))).astimezone(ZoneInfo(ZONE))
        made.append(
            {
                "time": f"{moment:%d.%m.%Y %H:%M}",
                "label": texts[int(late)],
                "group": groups[group] if random.random() > 0.04 else missing,
                "name": names[int(random.integers(150))],
                "strength": _decimal(strength) if random.random() > 0.04 else missing,
                "noise": str(int(random.integers(1, 9_000))),
                "leak": _decimal(float(late) + 0.2 * random.random()),
                "id": f"{word()}{number}",
            }
        )
    found = Unseen(folder / f"{word()}.csv", columns, texts, made)
    found.written()
    return found


def _decimal(number: float) -> str:
    return f"{number:.4f}".replace(".", ",")

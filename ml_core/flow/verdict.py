"""A verdict: what the gate decided about a version, and the evidence, as one value that is stored with it.

Beside it, how its figures are written where people read them.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class Verdict:
    """The gate's decision about one version.

    Attributes
    ----------
    accepted : bool
    policy : str
        ``first``, ``non-inferiority`` or ``superiority``.
    rows : int
        Rows judged on.
    reasons : tuple of str
        Why it was refused; empty when accepted.
    figures : mapping of str to float
        What was measured on those rows.
    """

    accepted: bool
    policy: str
    rows: int
    reasons: tuple[str, ...]
    figures: Mapping[str, float]

    def to_json(self) -> str:
        """Return the verdict as the registry stores it."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote."""
        read = json.loads(text)
        return cls(read["accepted"], read["policy"], read["rows"], tuple(read["reasons"]), read["figures"])


def readable(figure: float, digits: int = 4) -> str:
    """Return a figure for people: a whole or a large number in full, any other to so many significant digits."""
    return f"{figure:z,.0f}" if figure.is_integer() or abs(figure) >= 10**digits else f"{figure:.{digits}g}"


def signed(difference: float) -> str:
    """Return a difference for people: its sign and three significant digits, and 0 without a sign."""
    return f"{difference:+.3g}" if difference else "0"

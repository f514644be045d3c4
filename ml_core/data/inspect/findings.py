"""What can be found in a table: of each column, of the label, and in all."""

from dataclasses import dataclass, field
from datetime import datetime

CORRECT = "correct them, or name them with --missing where they stand for no value"


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the table.

    Attributes
    ----------
    kind : {"text", "number", "time", "empty"}
    distinct, missing : int
        How many different values occur, and in how many rows there is none.
    quantiles : tuple of float
        Of numbers: nine cuts into parts of equal count, without repetitions.
    words : float
        Of texts: how many words a value has on average.
    strays : str
        Of texts that are nearly all numbers: how many are, and where the first others stand.
    """

    name: str
    kind: str
    distinct: int
    missing: int
    quantiles: tuple[float, ...] = ()
    words: float = 1.0
    strays: str = ""

    @property
    def constant(self) -> bool:
        """Whether every row has the same; a value that only some rows have tells them from the others."""
        return self.kind == "empty" or (self.distinct < 2 and not self.missing)  # noqa: PLR2004


@dataclass(frozen=True, slots=True)
class Label:
    """What the label column seems to hold.

    Attributes
    ----------
    kind : {"binary", "multiclass", "regression"}
    classes : tuple of str
        For texts, in the order of their numbers; of two, the rarer one comes second. Empty for numbers 0 .. n - 1.
    n_classes : int
        0 for a regression.
    """

    kind: str
    classes: tuple[str, ...]
    n_classes: int


@dataclass(frozen=True, slots=True)
class Inspection:
    """What was found in a table.

    Attributes
    ----------
    rows : int
    delimiter : str or None
        Of a CSV file.
    missing : tuple of str
        The texts found to stand for a missing value.
    decimal : {".", ","}
    columns : tuple of Column
    event_time, time_format : str or None
        The time column and how its texts are written.
    label : str or None
    first, last : datetime or None
        The span of the time column, in the given zone.
    label_found : Label or None
    candidates : dict of str to list of str
        Columns that could be the `event_time`, the `label` or the `key`, best first.
    suspects : dict of str to str
        Columns that know too much, and why.
    notes : list of str
        What a person should hear about: guesses that could be wrong.
    """

    rows: int
    delimiter: str | None
    missing: tuple[str, ...]
    decimal: str
    columns: tuple[Column, ...]
    event_time: str | None
    time_format: str | None
    label: str | None
    first: datetime | None
    last: datetime | None
    label_found: Label | None
    candidates: dict[str, list[str]]
    suspects: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

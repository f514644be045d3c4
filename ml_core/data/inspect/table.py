"""The table that is looked into: read raw, with its missing values made null, and how its numbers are written."""

from collections.abc import Sequence
from pathlib import Path

import duckdb

from ml_core.data.sources import as_number, described, place, read_raw
from ml_core.data.tables import quoted
from ml_core.errors import SourceError

NEARLY = 0.95  # share of a column's values from which the others seem to be mistakes
_MISSING = ("", "na", "n/a", "#n/a", "nan", "null", "none", "nil", "-", "--", "?", "missing", "k.a.", "(null)")


class SourceTable:
    """A table that stands in a session of DuckDB as `source`.

    Parameters
    ----------
    connection : DuckDBPyConnection
        Its time zone is `zone`.
    path, table : Path, str
        As in `[flows.<flow>.data.source]`.
    zone : str
        Of times that carry none.
    missing : sequence of str
        Texts that are known to stand for a missing value.

    Attributes
    ----------
    types : dict of str to str
        The columns in order, with DuckDB's types.
    rows : int
    delimiter : str or None
        Of a CSV file.
    missing : tuple of str
        The texts found to stand for a missing value; they are null by now.
    decimal : {".", ","}
    notes : list of str
        Takes what a person should hear about.

    Raises
    ------
    SourceError
        The file cannot be read, or is empty.
    """

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        path: Path,
        table: str | None,
        zone: str,
        *,
        missing: Sequence[str] = (),
    ) -> None:
        self.connection = connection
        self.path = path
        self.zone = zone
        self.notes: list[str] = []
        self.delimiter = read_raw(connection, path, table=table)
        self.types = described(connection)
        self.rows = self.count("select count(*) from source")
        if not self.rows:
            raise SourceError(f"{path}: expected rows, found none")
        self.missing = self._missing_texts(missing)
        self.decimal = self._decimal_sign()

    def count(self, query: str) -> int:
        """Return the one number of a query."""
        return int(self.connection.execute(query).fetchall()[0][0])

    def all_readable(self, name: str, read: str) -> bool:
        """Whether every value of a column that is there can be read, and there is one; `read` is SQL."""
        present, readable = self.readable(name, read)
        return bool(present) and present == readable

    def readable(self, name: str, read: str) -> tuple[int, int]:
        """Return how many values of a column are there, and how many of them can be read; `read` is SQL."""
        counts = f"select count({quoted(name)}), count({read}) from source"
        present, readable = self.connection.execute(counts).fetchall()[0]
        return int(present), int(readable)

    def place(self, row: int) -> str:
        """Say where a row stands: a line of a CSV file, a row of another."""
        return place(self.connection, row, in_csv=self.delimiter is not None)

    def _missing_texts(self, known: Sequence[str]) -> tuple[str, ...]:
        """Find the texts that stand for nothing, beside those that are known, and make them null."""
        found = {"", *known}
        for name in self._texts():
            spelt = self.connection.execute(
                f"select distinct {quoted(name)} from source where lower(trim({quoted(name)})) in $texts",
                {"texts": list(_MISSING)},
            ).fetchall()
            found |= {text for (text,) in spelt}
        for name in self._texts():
            self.connection.execute(
                f"update source set {quoted(name)} = null where {quoted(name)} in $texts",
                {"texts": sorted(found)},
            )
        return tuple(sorted(found))

    def _decimal_sign(self) -> str:
        """Say which sign numbers are written with: a comma where columns are numbers, or nearly, only then."""
        points, commas = (self._number_columns(sign) for sign in ".,")
        return "," if commas > points and self.delimiter != "," else "."

    def _number_columns(self, decimal: str) -> tuple[int, int]:
        """Return how many columns of texts are numbers, and how many are nearly."""
        counts = [self.readable(name, as_number(quoted(name), decimal)) for name in self._texts()]
        there = [readable / present for present, readable in counts if present]
        return sum(share == 1 for share in there), sum(share >= NEARLY for share in there)

    def _texts(self) -> list[str]:
        return [name for name, kind in self.types.items() if kind == "VARCHAR"]

"""The table that is looked into: read raw, with its missing values made null, and how its numbers are written."""

from pathlib import Path

import duckdb

from ml_core.data.sources import CSV, as_number, data_suffix, described, read_raw
from ml_core.data.tables import quoted
from ml_core.errors import SourceError

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

    def __init__(self, connection: duckdb.DuckDBPyConnection, path: Path, table: str | None, zone: str) -> None:
        self.connection = connection
        self.path = path
        self.zone = zone
        self.notes: list[str] = []
        self.delimiter = self._sniffed() if data_suffix(path) in CSV else None
        read_raw(connection, path, table=table, delimiter=self.delimiter)
        self.types = described(connection)
        self.rows = self.count("select count(*) from source")
        if not self.rows:
            raise SourceError(f"{path}: expected rows, found none")
        self.missing = self._missing_texts()
        self.decimal = self._decimal_sign()

    def count(self, query: str) -> int:
        """Return the one number of a query."""
        return int(self.connection.execute(query).fetchall()[0][0])

    def all_readable(self, name: str, read: str) -> bool:
        """Whether every value of a column that is there can be read, and there is one; `read` is SQL."""
        column = quoted(name)
        present, readable = self.connection.execute(f"select count({column}), count({read}) from source").fetchall()[0]
        return bool(present) and present == readable

    def _sniffed(self) -> str:
        found = self.connection.execute(
            "select Delimiter from sniff_csv($path, all_varchar = true)", {"path": str(self.path)}
        ).fetchall()
        return str(found[0][0])

    def _missing_texts(self) -> tuple[str, ...]:
        """Find the texts that stand for nothing, and make them null."""
        found = {""}
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
        """Say which sign numbers are written with: a comma where columns are numbers only then."""
        points, commas = (
            sum(self.all_readable(name, as_number(quoted(name), sign)) for name in self._texts()) for sign in ".,"
        )
        return "," if commas > points and self.delimiter != "," else "."

    def _texts(self) -> list[str]:
        return [name for name, kind in self.types.items() if kind == "VARCHAR"]

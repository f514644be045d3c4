"""What a flat table seems to hold: types, time columns, candidates for key and label, and what knows too much.

Nothing is decided here that a person could not overrule: every finding ends up as a line of the project file. Types are
found over all rows, because the reader is as strict; what is only a suspicion is found on a sample of rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import duckdb

from ml_core.data.leakage import TELLS_ALL, told
from ml_core.data.sources import CSV, LINE, as_number, as_time, data_suffix, described, read_raw
from ml_core.data.tables import quoted
from ml_core.data.times import equally_steady, formats_of
from ml_core.errors import SourceError, nearest

_MISSING = ("", "na", "n/a", "#n/a", "nan", "null", "none", "nil", "-", "--", "?", "missing", "k.a.", "(null)")
_SAMPLE_ROWS = 50_000
_MOST_CLASSES = 30


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
    """

    name: str
    kind: str
    distinct: int
    missing: int
    quantiles: tuple[float, ...] = ()
    words: float = 1.0


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


def inspect_source(
    path: Path,
    *,
    table: str | None = None,
    event_time: str | None = None,
    time_format: str | None = None,
    time_zone: str = "UTC",
    label: str | None = None,
    kind: str | None = None,
    positive: str | None = None,
) -> Inspection:
    """Look into a table.

    Parameters
    ----------
    path, table : Path, str
        As in `[flows.<flow>.data.source]`.
    event_time, label : str, optional
        What is known already; without them only candidates are named.
    time_format, kind, positive : str, optional
        Overrule what would be found: how times are written, the kind of label, the class whose probability is wanted.

    Raises
    ------
    SourceError
        The file cannot be read, is empty, or has no such column, or the time column holds no times.
    """
    with duckdb.connect() as connection:
        connection.execute("set enable_progress_bar = false")
        connection.execute(f"set TimeZone = '{time_zone}'")
        try:
            look = _Look(connection, path, table, time_zone)
            return look.result(event_time, time_format, label, kind, positive)
        except duckdb.Error as error:
            raise SourceError(f"{path}: {error}") from error


class _Look:
    def __init__(self, connection: duckdb.DuckDBPyConnection, path: Path, table: str | None, zone: str) -> None:
        self._connection = connection
        self._path = path
        self._zone = zone
        self._notes: list[str] = []
        self._delimiter = self._sniffed() if data_suffix(path) in CSV else None
        read_raw(connection, path, table=table, delimiter=self._delimiter)
        self._types = described(connection)
        self._rows = self._one("select count(*) from source")
        if not self._rows:
            raise SourceError(f"{path}: expected rows, found none")
        self._missing = self._missing_texts()
        self._decimal = self._decimal_sign()

    def result(
        self, event_time: str | None, time_format: str | None, label: str | None, kind: str | None, positive: str | None
    ) -> Inspection:
        for name in (event_time, label):
            if name is not None and name not in self._types:
                raise SourceError(f"{self._path}: no column {name!r}: {nearest(name, self._types)}")
        formats = {name: self._time_format(name) for name in self._types}
        times = {name: written for name, written in formats.items() if written is not None}
        first = last = None
        if event_time is not None:
            time_format = time_format or self._event_format(event_time, times)
            first, last = self._span(event_time, time_format)
        columns = tuple(self._column(name, times, time_format) for name in self._types)
        candidates = self._candidates(columns, times)
        found = None if label is None else self._label(next(c for c in columns if c.name == label), kind, positive)
        suspects = {}
        if label is not None and found is not None and event_time is not None:
            others = [column for column in columns if column.name not in {label, event_time}]
            suspects = self._suspects(others, label, found, event_time, time_format)
        return Inspection(
            rows=self._rows, delimiter=self._delimiter, missing=self._missing, decimal=self._decimal, columns=columns,
            event_time=event_time, time_format=time_format or None, label=label, first=first, last=last,
            label_found=found, candidates=candidates, suspects=suspects, notes=self._notes,
        )  # fmt: skip

    # -- the file --------------------------------------------------------------------------------------------------

    def _sniffed(self) -> str:
        found = self._connection.execute(
            "select Delimiter from sniff_csv($path, all_varchar = true)", {"path": str(self._path)}
        ).fetchall()
        return str(found[0][0])

    def _missing_texts(self) -> tuple[str, ...]:
        """Find the texts that stand for nothing, and make them null."""
        found = {""}
        for name in self._texts():
            spelt = self._connection.execute(
                f"select distinct {quoted(name)} from source where lower(trim({quoted(name)})) in $texts",
                {"texts": list(_MISSING)},
            ).fetchall()
            found |= {text for (text,) in spelt}
        for name in self._texts():
            self._connection.execute(
                f"update source set {quoted(name)} = null where {quoted(name)} in $texts",
                {"texts": sorted(found)},
            )
        return tuple(sorted(found))

    def _decimal_sign(self) -> str:
        """Say which sign numbers are written with: a comma where columns are numbers only then."""
        points, commas = (
            sum(self._all_readable(name, as_number(quoted(name), sign)) for name in self._texts()) for sign in ".,"
        )
        return "," if commas > points and self._delimiter != "," else "."

    def _texts(self) -> list[str]:
        return [name for name, kind in self._types.items() if kind == "VARCHAR"]

    # -- one column ------------------------------------------------------------------------------------------------

    def _column(self, name: str, times: dict[str, str], event_format: str | None) -> Column:
        column = quoted(name)
        distinct, present = self._connection.execute(
            f"select count(distinct {column}), count({column}) from source"
        ).fetchall()[0]
        missing = self._rows - int(present)
        if not present:
            return Column(name, "empty", int(distinct), missing)
        if name in times and times[name] in {"", event_format}:  # one source has one way to write its times
            return Column(name, "time", int(distinct), missing)
        number = as_number(column, self._decimal)
        codes = self._types[name] == "VARCHAR" and self._one(
            f"select count(*) from source where regexp_matches({column}, '^0[0-9]+$')"
        )
        if name in times or codes or not self._all_readable(name, number):
            words = self._connection.execute(
                f"select avg(len(string_split(trim({column}::varchar), ' '))) from source"
            ).fetchall()[0][0]
            return Column(name, "text", int(distinct), missing, words=float(words or 1.0))
        cuts = self._connection.execute(
            f"select quantile_disc({number}, [.1, .2, .3, .4, .5, .6, .7, .8, .9]) from source"
        ).fetchall()[0][0]
        quantiles = tuple(dict.fromkeys(float(f"{cut:.6g}") for cut in cuts))
        return Column(name, "number", int(distinct), missing, quantiles)

    def _time_format(self, name: str) -> str | None:
        """Return how a column's times are written, "" for a time type or ISO 8601; None where they are none."""
        column, kind = quoted(name), self._types[name]
        if kind.startswith("TIMESTAMP") or kind == "DATE":
            return ""
        if kind != "VARCHAR" or self._all_readable(name, as_number(column, ".")):
            return None
        iso = f"regexp_matches({column}, '^[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}')"
        if self._all_readable(name, f"case when {iso} then {as_time(column, kind, None, self._zone)} end"):
            return ""
        return self._read_by(name)

    def _read_by(self, name: str) -> str | None:
        """Return the format that reads every text of a column, and note where another would do as well."""
        digits = f"case when regexp_matches({quoted(name)}, '[0-9]') then 1 end"
        fits = formats_of(self._connection, name, position=LINE) if self._all_readable(name, digits) else []
        if len(fits) > 1 and equally_steady(self._connection, name, *fits[:2], position=LINE):
            self._notes.append(f"{name!r} could be read as {fits[0]} or as {fits[1]}; took {fits[0]}")
        return fits[0] if fits else None

    # -- the time of a row -----------------------------------------------------------------------------------------

    def _event_format(self, name: str, times: dict[str, str]) -> str | None:
        if name in times:
            return times[name] or None
        column = quoted(name)
        if self._all_readable(name, as_number(column, ".")):
            largest = float(
                self._connection.execute(f"select max({as_number(column, '.')}) from source").fetchall()[0][0]
            )
            for time_format, low, high in (("%Y", 1500, 2200), ("%Y%m%d", 15e6, 22e6), ("epoch_s", 1e8, 1e10),
                                           ("epoch_ms", 1e11, 1e13)):  # fmt: skip
                if low < largest < high:
                    return time_format
        value = self._connection.execute(
            f"select {column}::varchar from source where {column} is not null limit 1"
        ).fetchall()
        raise SourceError(
            f"{self._path}: expected times in column {name!r}, found {value[0][0] if value else 'nothing'!r}; say how"
            " they are written with --time-format, e.g. '%d.%m.%Y %H:%M'"
        )

    def _span(self, name: str, time_format: str | None) -> tuple[datetime, datetime]:
        read = as_time(quoted(name), self._types[name], time_format, self._zone)
        first, last = self._connection.execute(f"select min({read}), max({read}) from source").fetchall()[0]
        if first is None:
            raise SourceError(f"{self._path}: no time of column {name!r} can be read as {time_format or 'ISO 8601'}")
        return first, last

    # -- what columns could be -------------------------------------------------------------------------------------

    def _candidates(self, columns: Sequence[Column], times: dict[str, str]) -> dict[str, list[str]]:
        labels = [c for c in columns if 2 <= c.distinct <= _MOST_CLASSES and c.name not in times]  # noqa: PLR2004
        return {
            "event_time": [name for name in self._types if name in times],
            "label": [c.name for c in sorted(labels, key=lambda c: (c.distinct, -list(self._types).index(c.name)))],
            "key": [c.name for c in columns if c.distinct == self._rows and c.kind != "time" and self._is_name(c)],
        }

    def _is_name(self, column: Column) -> bool:
        """Say whether a column of different values could be a key: texts of one word, or whole numbers."""
        if column.kind == "text":
            return column.words < 1.5  # noqa: PLR2004 - names are short
        number = as_number(quoted(column.name), self._decimal)
        return not self._one(f"select count(*) from source where {number} <> floor({number})")

    def _label(self, column: Column, kind: str | None, positive: str | None) -> Label:
        name = quoted(column.name)
        counted = self._connection.execute(
            f"select {name}::varchar, count(*) from source where {name} is not null group by 1 order by 2 desc, 1"
            f" limit {_MOST_CLASSES + 1}"
        ).fetchall()
        texts = [text for text, _ in counted]
        if len(texts) < 2:  # noqa: PLR2004 - nothing to tell apart
            raise SourceError(
                f"{self._path}: expected a label of at least two values in {column.name!r}, found {texts}"
            )
        numeric = column.kind == "number"
        if kind is None:
            kind = "binary" if len(texts) == 2 else "regression" if numeric else "multiclass"  # noqa: PLR2004
        if kind == "regression":
            if not numeric:
                raise SourceError(f"{self._path}: expected numbers in the label {column.name!r} of a regression")
            return Label(kind, (), 0)
        if len(texts) > _MOST_CLASSES:
            raise SourceError(
                f"{self._path}: expected a label of at most {_MOST_CLASSES} classes in {column.name!r}, found"
                f" {column.distinct} different values; choose another --label"
            )
        if set(texts) <= {str(number) for number in range(len(texts))} or set(texts) == {"true", "false"}:
            return Label(kind, (), len(texts))
        if kind == "binary" and positive is None:
            positive = texts[-1]
            self._notes.append(f"predicts the probability of {column.name} = {positive!r}, the rarer of {texts}")
        if positive is not None and positive not in texts:
            raise SourceError(f"{self._path}: label {column.name!r} is never {positive!r}: {nearest(positive, texts)}")
        classes = sorted(texts) if positive is None else [*(text for text in texts if text != positive), positive]
        return Label(kind, tuple(classes), len(classes))

    # -- what knows too much ---------------------------------------------------------------------------------------

    def _suspects(
        self, columns: Sequence[Column], label: str, found: Label, event_time: str, time_format: str | None
    ) -> dict[str, str]:
        """Name the columns that tell the label almost alone, or that lie after the moment of the request."""
        labelled = f"from source where {quoted(label)} is not null"
        sample = f"({labelled} using sample reservoir({_SAMPLE_ROWS} rows) repeatable (1))"
        target = f"{quoted(label)}::varchar" if found.n_classes else as_number(quoted(label), self._decimal)
        suspects: dict[str, str] = {}
        when = as_time(quoted(event_time), self._types[event_time], time_format, self._zone)
        for column in columns:
            name = quoted(column.name)
            if column.kind == "time":
                read = as_time(
                    name,
                    self._types[column.name],
                    time_format if self._types[column.name] == "VARCHAR" else None,
                    self._zone,
                )
                later, present = self._connection.execute(
                    f"select count(*) filter ({read} > {when}), count({read}) from {sample}"
                ).fetchall()[0]
                if later > present / 10:
                    suspects[column.name] = f"lies after {event_time!r} in {later / present:.0%} of the rows"
            elif column.kind in {"number", "text"} and column.distinct > 1:
                value = as_number(name, self._decimal) if column.kind == "number" else f"{name}::varchar"
                drawn = self._connection.sql(f"select {value} as x, {target} as y from {sample}").to_arrow_table()
                share = told(drawn.column("x").to_pylist(), drawn.column("y").to_pylist(), column.kind, found.n_classes)
                if share > TELLS_ALL:
                    suspects[column.name] = f"alone tells {label!r} in {share:.1%} of the cases"
        return suspects

    # -- inside ----------------------------------------------------------------------------------------------------

    def _all_readable(self, name: str, read: str) -> bool:
        """Whether every value that is there can be read, and there is one."""
        column = quoted(name)
        present, readable = self._connection.execute(f"select count({column}), count({read}) from source").fetchall()[0]
        return bool(present) and present == readable

    def _one(self, query: str) -> int:
        return int(self._connection.execute(query).fetchall()[0][0])

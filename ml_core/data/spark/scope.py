"""The names one `select` sees: its sources, where their columns stand in the Spark text, and what is around it."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from sqlglot import exp

from ml_core.data.tables import quoted


def ticked(name: str) -> str:
    """Return `name` as an identifier of Spark."""
    return "`" + name.replace("`", "``") + "`"


@dataclass(frozen=True, slots=True)
class Source:
    """A table, view or named query.

    Attributes
    ----------
    text : str
        How the Spark text reads from it.
    probe : str
        The empty table of the same columns.
    columns : mapping of str to str
        Its columns by their names in lower case, with DuckDB's types.
    base : str or None
        The table of facts it is, where it is one.
    """

    text: str
    probe: str
    columns: Mapping[str, str]
    base: str | None = None


@dataclass(slots=True)
class Scope:
    """A `select` while it is written.

    Attributes
    ----------
    queries : mapping of str to Source
        What can be read by name.
    outer : Scope or None
        The select around a subquery.
    sources : dict of str to Source
        By alias, what this select reads.
    places : dict of str to callable
        By alias, how a column of it is written.
    keys : list of str
        The expressions of `group by`, for DuckDB.
    values : dict of int to str
        By the identity of a node, what stands for it: an unnested value.
    reads : dict of str to set of str
        Per table of facts the columns that were read so far.
    """

    queries: Mapping[str, Source]
    outer: "Scope | None" = None
    sources: dict[str, Source] = field(default_factory=dict)
    places: dict[str, Callable[[str], str]] = field(default_factory=dict)
    keys: list[str] = field(default_factory=list)
    values: dict[int, str] = field(default_factory=dict)
    reads: dict[str, set[str]] = field(default_factory=dict)

    def add(self, alias: str, source: Source) -> None:
        """Read `source` under `alias`."""
        self.sources[alias] = source
        self.places[alias] = lambda column: f"{ticked(alias)}.{ticked(column)}"

    def place(self, alias: str, column: str) -> str | None:
        """Return how a column is written; None where no select around knows its table."""
        if alias in self.places:
            return self.places[alias](column)
        return self.outer.place(alias, column) if self.outer else None

    def visible(self) -> dict[str, Source]:
        """Return every source by alias, the inner one where two have the same."""
        return {**(self.outer.visible() if self.outer else {}), **self.sources}

    def probed(self) -> str:
        """Return a `from` over the empty tables of everything visible."""
        listed = ", ".join(f"{quoted(source.probe)} as {quoted(alias)}" for alias, source in self.visible().items())
        return f" from {listed}" if listed else ""

    def renamed(self, node: exp.Expr) -> str:
        """Return a node in DuckDB's SQL, reading the empty tables."""
        copied = node.copy()
        for table in copied.find_all(exp.Table):
            if table.name in self.queries:
                table.set("this", exp.to_identifier(self.queries[table.name].probe, quoted=True))
        return copied.sql("duckdb", comments=False)


def bare(node: exp.Expr) -> exp.Expr:
    """Return an expression without the parentheses around it."""
    while isinstance(node, exp.Paren):
        node = node.this
    return node


def parts(node: exp.Expr) -> Iterator[exp.Expr]:
    """Walk a node without entering the queries in it."""
    yield from node.walk(prune=lambda part: isinstance(part, exp.Query))


def aggregated(node: exp.Expr) -> bool:
    """Whether an expression aggregates, other than over a window."""
    walked = node.walk(prune=lambda part: isinstance(part, exp.Query | exp.Window))
    return any(isinstance(part, exp.AggFunc) and not isinstance(part.parent, exp.Window) for part in walked)

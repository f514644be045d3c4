"""What a select reads, as Spark SQL: tables, named queries, subqueries and the joins between them."""

from collections.abc import Callable

from sqlglot import exp

from ml_core.data.spark.asof import asof, conditions
from ml_core.data.spark.probe import Probe
from ml_core.data.spark.rules import NAMES, name_of, refuse
from ml_core.data.spark.scope import Scope, Source, ticked
from ml_core.data.spark.writer import Writer

NAMES["queries"] += [
    *("subquery in from", "join", "left join", "right join", "full join", "cross join", "asof join"),
    "asof left join",
]

_JOIN = {"this", "on", "side", "kind", "method"}
_TABLE = {"this", "alias"}


class SourceWriter:
    """Writes what stands behind `from`.

    Parameters
    ----------
    probe : Probe
    query : callable
        Writes a subquery over the queries it can read.
    """

    def __init__(self, probe: Probe, query: Callable[..., str]) -> None:
        self.probe = probe
        self._query = query
        self._asofs = 0

    def written(self, node: exp.Select, writer: Writer) -> str:
        """Return ` from ...` with its joins, and make their columns known to the writer."""
        source = node.args.get("from_")
        if source is None:
            return ""
        text = self._source(source.this, writer.scope)
        for join in node.args.get("joins") or []:
            text = self._joined(node, text, join, writer)
        return f" from {text}"

    def _source(self, node: exp.Expr, scope: Scope) -> str:
        inner = node.this if isinstance(node, exp.Table) else node
        if not isinstance(inner, exp.Identifier | exp.Subquery):
            refuse(node, f"{name_of(inner)} in from", hint="select from facts and named queries")
        for name, value in node.args.items():
            if value and name not in _TABLE and not (isinstance(node, exp.Subquery) and name == "with_"):
                refuse(node, f"{name.replace('_', ' ')} of a table")
        alias = node.alias_or_name
        if isinstance(node.args.get("alias"), exp.TableAlias) and node.args["alias"].columns:
            refuse(node, f"names of columns behind {alias}", hint="name them in the select")
        if isinstance(node, exp.Table):
            source = scope.queries[node.name]
        else:
            text = self._query(node, scope.queries)
            kept = self.probe.keep(Scope(scope.queries).renamed(node.unnest()))
            source = Source(f"({text})", kept, self.probe.lowered(kept))
        scope.add(alias, source)
        return f"{source.text} as {ticked(alias)}"

    def _joined(self, node: exp.Select, before: str, join: exp.Join, writer: Writer) -> str:
        words = {name: str(join.args.get(name) or "").upper() for name in ("method", "side", "kind")}
        for name, value in join.args.items():
            if value and name not in _JOIN:
                refuse(join, f"join {name}")
        if words["method"] == "ASOF" and words["side"] in ("", "LEFT"):
            return self._asof(node, before, join, writer)
        if words["method"] or words["kind"] not in ("", "INNER", "OUTER", "CROSS"):
            refuse(join, f"{words['method'] or words['kind']} join".lower())
        source, on = self._source(join.this, writer.scope), join.args.get("on")
        if on is None:
            return f"{before} cross join {source}"
        condition = writer.typed(on, ("BOOLEAN",), "a condition")
        return f"{before} {words['side'].lower() or 'inner'} join {source} on {condition}"

    def _asof(self, node: exp.Select, before: str, join: exp.Join, writer: Writer) -> str:
        """Put both sides into one derived table, and write their columns as that table's from here on."""
        scope = writer.scope
        left = list(scope.sources)
        text = self._source(join.this, scope)
        right = next(alias for alias in scope.sources if alias not in left)
        names: dict[str, dict[str, str]] = {alias: {} for alias in scope.sources}
        for column in node.find_all(exp.Column):
            if column.table in names and column.name in scope.sources[column.table].columns:
                names[column.table][column.name] = f"{list(names).index(column.table)}_{column.name}"
        columns = {
            alias: {name: scope.place(alias, column) or "" for column, name in sorted(of.items())}
            for alias, of in names.items()
        }
        kept = {name: written for alias in left for name, written in columns[alias].items()}
        table = asof(
            writer,
            conditions(join, right),
            texts=(before, text),
            columns=(kept, columns[right]),
            outer=str(join.args.get("side") or "").upper() == "LEFT",
        )
        self._asofs += 1
        derived = ticked(f"_asof_{self._asofs}")
        for alias, of in names.items():
            scope.places[alias] = _placed(derived, of)
        return f"{table} as {derived}"


def _placed(table: str, names: dict[str, str]) -> Callable[[str], str]:
    return lambda column: f"{table}.{ticked(names[column])}"

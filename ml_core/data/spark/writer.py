"""Expressions as Spark SQL: one writer per `select`, which looks rules up and types with DuckDB."""

import math
from collections.abc import Callable, Collection

from sqlglot import exp

from ml_core.data.spark.probe import Probe
from ml_core.data.spark.rules import AGGREGATES, CALLS, RULES, name_of, refuse
from ml_core.data.spark.scope import Scope, aggregated, bare
from ml_core.data.spark.types import INSTANT, REAL, TEMPORAL, is_decimal, is_struct, spark_type

Query = Callable[[exp.Query, Scope], str]


class Writer:
    """Writes the expressions of one select.

    Parameters
    ----------
    probe : Probe
    scope : Scope
    query : callable
        Writes a subquery.
    """

    def __init__(self, probe: Probe, scope: Scope, query: Query) -> None:
        self.probe = probe
        self.scope = scope
        self.query = query
        self._types: dict[int, str] = {}

    def write(self, node: exp.Expr) -> str:
        """Return a node as Spark SQL; raise FeatureError for what no rule is known of."""
        if id(node) in self.scope.values:
            return self.scope.values[id(node)]
        if isinstance(node, exp.Anonymous):
            found = CALLS.get(str(node.name).lower())
        else:
            found = RULES.get(type(node)) or AGGREGATES.get(type(node))
        if found is None:
            refuse(node, name_of(node))
        return found(self, node)

    def type(self, node: exp.Expr) -> str:
        """Return DuckDB's type of an expression."""
        if isinstance(node, exp.Order):
            refuse(node, "order by within an aggregate", hint="use arg_min or arg_max")
        if id(node) not in self._types:
            grouped = f" group by {', '.join(self.scope.keys)}" if self.scope.keys and aggregated(node) else ""
            sql = f"select ({self.scope.renamed(node)}) as probed{self.scope.probed()}{grouped}"
            self._types[id(node)] = self.probe.columns(sql)["probed"]
        return self._types[id(node)]

    def typed(self, node: exp.Expr, kinds: Collection[str], what: str, *, hint: str = "") -> str:
        """Return a node that has to have one of `kinds`; refuse `what` of any other."""
        kind = self.type(node)
        if kind not in kinds:
            refuse(node, f"{what} of {kind}", hint=hint)
        return self.write(node)

    def coerced(self, node: exp.Expr, kind: str) -> str:
        """Return a node in the type that DuckDB widens it to by itself."""
        inner = bare(node)
        found = self.type(inner)
        if found == kind:
            return self.write(inner)
        if is_decimal(found) or (found == "VARCHAR" and kind in TEMPORAL):
            return self.constant(inner, kind)
        named = spark_type(kind)
        if found == '"NULL"' and isinstance(inner, exp.Null):
            return f"cast(null as {named})" if named else "null"
        if named is None or is_struct(found):
            refuse(node, f"{found} as {kind}", hint="make both the same type")
        if named == spark_type(found):
            return self.write(inner)
        return f"cast({self.write(inner)} as {named})"

    def constant(self, node: exp.Expr, kind: str) -> str:
        """Return a literal as DuckDB reads it in a type."""
        literal = node.this if isinstance(node, exp.Neg) else node
        if not isinstance(literal, exp.Literal):
            what = "decimal" if is_decimal(self.type(node)) else f"cast from {self.type(node)} to {kind}"
            refuse(node, what, hint="write it as a double, such as 0.5::double" if what == "decimal" else "")
        text = f"({node.sql('duckdb')})::{kind}"
        if kind in REAL:
            return _real(float(self.probe.value(text)), kind)
        if kind in ("TIMESTAMP", INSTANT):
            return self._moment(node, text, kind)
        if kind == "DATE":
            return f"date '{self.probe.value(f'({text})::varchar')}'"
        value = self.probe.value(text)
        return f"cast({str(value).lower()} as {spark_type(kind)})"

    def _moment(self, node: exp.Expr, text: str, kind: str) -> str:
        if not self.probe.value(f"isfinite({text})"):
            if not _only_compared(node):
                refuse(node, "an infinite time that is not compared", hint="use coalesce and a comparison")
            micros = 9_223_372_036_854_775_807 * (-1 if self.probe.value(f"{text} < '2000-01-01'") else 1)
        else:
            micros = self.probe.value(f"epoch_us({text})")
        moment = f"timestamp_micros({micros}L)"
        return moment if kind == INSTANT else f"cast({moment} as timestamp_ntz)"

    def column(self, node: exp.Column) -> str:
        """Return a column where the Spark text has it."""
        found = self.scope.place(node.table, node.name)
        if found is None:
            refuse(node, f"the column {node.sql('duckdb')}", hint="write it with the name of its table")
        base = self.scope.visible()[node.table].base
        if base is not None:
            self.scope.reads.setdefault(base, set()).add(node.name)
        kind = self.type(node)
        if spark_type(kind) is None and not is_struct(kind):
            refuse(node, f"the type {kind} of {node.sql('duckdb')}", hint="let the loader write another")
        return found


def _real(value: float, kind: str) -> str:
    """Return a number that Spark reads back to the same bits."""
    double = f"{value!r}D" if math.isfinite(value) else f"double('{value}')"
    return double if kind == "DOUBLE" else f"cast({double} as float)"


def _only_compared(node: exp.Expr) -> bool:
    """Whether a constant, alone or within coalesce, only stands in a comparison."""
    at = node.parent
    while isinstance(at, exp.Paren | exp.Cast | exp.Coalesce):
        at = at.parent
    return isinstance(at, exp.GT | exp.GTE | exp.LT | exp.LTE | exp.EQ | exp.NEQ)

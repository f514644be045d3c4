"""Queries as Spark SQL: select, named queries, unions, and what is unnested."""

from collections.abc import Mapping, Sequence

from sqlglot import exp

from ml_core.data.spark.probe import Probe
from ml_core.data.spark.rules import NAMES, refuse
from ml_core.data.spark.scope import Scope, Source, aggregated, parts, ticked
from ml_core.data.spark.sources import SourceWriter
from ml_core.data.spark.types import is_struct, spark_type
from ml_core.data.spark.writer import Writer

NAMES["queries"] += [
    *("with", "select", "select distinct", "from", "where", "group by", "group by all", "having", "qualify"),
    *("union", "union all", "unnest(range(n))", "unnest([...])"),
]

_SELECT = {"with_", "expressions", "from_", "joins", "where", "group", "having", "qualify", "distinct"}
_UNION = {"with_", "this", "expression", "distinct"}
_WORDS = {"order": "order by", "laterals": "lateral", "windows": "a named window", "by_name": "union by name"}
_MOST_UNNESTED = 10_000
_UNNESTED = "`_unnested`.`value`"


class SelectWriter:
    """Writes queries.

    Parameters
    ----------
    probe : Probe

    Attributes
    ----------
    reads : dict of str to set of str
        Per table of facts the columns that were read so far.
    """

    def __init__(self, probe: Probe) -> None:
        self.probe = probe
        self.reads: dict[str, set[str]] = {}
        self._sources = SourceWriter(probe, self.query)

    def query(
        self,
        node: exp.Expr,
        queries: Mapping[str, Source],
        *,
        outer: Scope | None = None,
        kinds: Sequence[str] | None = None,
    ) -> str:
        """Return a query.

        Parameters
        ----------
        node : Expression
        queries : mapping of str to Source
            What it can read by name.
        outer : Scope, optional
            The select whose columns it may use: that around a subquery in an expression.
        kinds : sequence of str, optional
            The types its columns have to come in, where it is part of a union.
        """
        query = node.unnest() if isinstance(node, exp.Subquery) else node
        prefix, queries = self._with(query, queries, top=outer is None and queries is not None)
        if isinstance(query, exp.Union):
            return prefix + self._union(query, queries, outer, kinds)
        if not isinstance(query, exp.Select):
            refuse(query, query.key, hint="write a select")
        return prefix + self._select(query, queries, outer, kinds)

    def _with(self, node: exp.Expr, queries: Mapping[str, Source], *, top: bool) -> tuple[str, Mapping[str, Source]]:
        """Return the named queries as text, and everything readable with them."""
        named = node.args.get("with_")
        if named is None:
            return "", queries
        if named.args.get("recursive") or not top:
            refuse(named, "with recursive" if top else "with in a subquery", hint="move it to the top")
        texts, known = [], dict(queries)
        for cte in named.expressions:
            name = cte.alias
            if name in known and known[name].base is None:
                refuse(cte, f"the second query named {name}", hint="give it another name")
            text = self.query(cte.this, known)
            kept = self.probe.keep(Scope(known).renamed(cte.this))
            known[name] = Source(ticked(name), kept, self.probe.lowered(kept))
            texts.append(f"{ticked(name)} as ({text})")
        return f"with {', '.join(texts)} ", known

    def _union(
        self, node: exp.Union, queries: Mapping[str, Source], outer: Scope | None, kinds: Sequence[str] | None
    ) -> str:
        _only(node, _UNION)
        if kinds is None:
            whole = node.copy()
            whole.set("with_", None)
            kinds = list(self.probe.columns(Scope(queries).renamed(whole)).values())
        word = "union" if node.args.get("distinct") else "union all"
        branches = (self.query(each, queries, outer=outer, kinds=kinds) for each in (node.this, node.expression))
        return f" {word} ".join(f"({branch})" for branch in branches)

    def _select(
        self, node: exp.Select, queries: Mapping[str, Source], outer: Scope | None, kinds: Sequence[str] | None
    ) -> str:
        _only(node, _SELECT)
        scope = Scope(queries, outer, reads=self.reads)
        writer = Writer(self.probe, scope, self._nested)
        behind = self._sources.written(node, writer)
        if node.args.get("where") is not None:
            where = writer.typed(node.args["where"].this, ("BOOLEAN",), "a condition")
            behind_where = f" where {where}"
        else:
            behind_where = ""
        behind += self._unnested(node, writer) + behind_where + self._grouped(node, writer)
        columns = self._columns(node, writer, kinds)
        distinct = "distinct " if node.args.get("distinct") is not None else ""
        if distinct and (node.args["distinct"].args.get("on") is not None or node.args.get("qualify") is not None):
            refuse(node, "distinct on", hint="use qualify row_number() over (...) = 1")
        if node.args.get("qualify") is None:
            return f"select {distinct}{_listed(columns)}{behind}"
        columns["__kept"] = writer.write(node.args["qualify"].this)
        names = ", ".join(ticked(name) for name in columns if name != "__kept")
        return f"select {names} from (select {_listed(columns)}{behind}) where __kept"

    def _columns(self, node: exp.Select, writer: Writer, kinds: Sequence[str] | None) -> dict[str, str]:
        """Return the selected columns by name, each as it is written."""
        written = {}
        for number, column in enumerate(node.expressions):
            value, name = column.unalias(), column.alias_or_name
            if name in written:
                refuse(column, f"the second column named {name}", hint="give it another name")
            kind = kinds[number] if kinds else writer.type(value)
            kind = "INTEGER" if kind == '"NULL"' else kind
            if spark_type(kind) is None and not is_struct(kind):
                writer.write(value)  # may name what in it is not translated
                refuse(column, f"a column of {kind}", hint="cast it, such as 0.5::double")
            written[name] = writer.write(value) if is_struct(kind) else writer.coerced(value, kind)
        return written

    def _grouped(self, node: exp.Select, writer: Writer) -> str:
        """Return `group by` and `having`; `group by all` is by everything selected that does not aggregate."""
        group, having = node.args.get("group"), node.args.get("having")
        values = [column.unalias() for column in node.expressions]
        aggregates = having is not None or any(aggregated(value) for value in values)
        windows = any(isinstance(part, exp.Window) for value in values for part in parts(value))
        if windows and (aggregates or group is not None):
            refuse(node, "a window over groups", hint="group in a query of its own")
        text = ""
        if group is not None:
            if group.args.get("all"):
                keys = [value for value in values if not aggregated(value)]
            else:
                _only(group, {"expressions"})
                keys = list(group.expressions)
            keys = [key for key in keys if not isinstance(key, exp.Literal | exp.Null | exp.Boolean)]
            writer.scope.keys = [writer.scope.renamed(key) for key in keys]
            text = f" group by {', '.join(writer.write(key) for key in keys)}" if keys else ""
        if having is not None:
            text += f" having {writer.typed(having.this, ('BOOLEAN',), 'a condition')}"
        return text

    def _unnested(self, node: exp.Select, writer: Writer) -> str:
        """Return what makes a row of every value of a list: a view beside the sources."""
        lists = [part for column in node.expressions for part in parts(column) if isinstance(part, exp.Explode)]
        if not lists:
            return ""
        grouped = node.args.get("group") is not None or any(aggregated(column) for column in node.expressions)
        windows = any(isinstance(part, exp.Window) for column in node.expressions for part in parts(column))
        if len(lists) > 1 or grouped or windows or node.args.get("from_") is None:
            refuse(
                lists[0],
                "unnest beside another, without from, or with groups or windows",
                hint="use a query of its own",
            )
        (unnest,) = lists
        kind = writer.type(unnest)
        values = ", ".join(_elements(unnest, writer, kind))
        writer.scope.values[id(unnest)] = _UNNESTED
        return f" lateral view explode(array({values})) `_unnested` as `value`"

    def _nested(self, node: exp.Expr, scope: Scope) -> str:
        return f"({self.query(node, scope.queries, outer=scope)})"


def _elements(node: exp.Explode, writer: Writer, kind: str) -> list[str]:
    """Return the values of a list that is written out, or of range(n)."""
    listed = node.this
    if isinstance(listed, exp.Array) and listed.expressions and not node.expressions:
        return [writer.coerced(each, kind) for each in listed.expressions]
    numbers = _numbers(listed)
    if not 0 < len(numbers) <= _MOST_UNNESTED or node.expressions:
        refuse(node, f"unnest({listed.sql('duckdb')})", hint="write a list, or range of a plain number")
    return [f"{number}L" for number in numbers]


def _numbers(node: exp.Expr) -> range:
    """Return the numbers of `range` with plain bounds; none for anything else."""
    bounds = (node.args.get("start"), node.args.get("end"))
    plain = all(isinstance(bound, exp.Literal) and bound.name.isdigit() for bound in bounds)
    if not isinstance(node, exp.GenerateSeries) or node.args.get("step") is not None or not plain:
        return range(0)
    first, last = (int(bound.name) for bound in bounds if bound is not None)
    return range(first, last + (0 if node.args.get("is_end_exclusive") else 1))


def _listed(columns: Mapping[str, str]) -> str:
    return ", ".join(f"{text} as {ticked(name)}" for name, text in columns.items())


def _only(node: exp.Expr, known: set[str]) -> None:
    """Refuse a clause that no rule is known of."""
    for name, value in node.args.items():
        if value and name not in known:
            refuse(node, _WORDS.get(name, name.replace("_", " ").strip()))

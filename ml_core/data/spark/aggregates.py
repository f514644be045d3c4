"""Rules for aggregates, over groups and over windows.

Sums and averages are of whole numbers only: those of floats depend on the order of the rows, which neither engine
promises, so no two runs would have to agree. The mean is the exact sum over the count, one rounding, as in DuckDB.
"""

from sqlglot import exp

from ml_core.data.spark.rules import WINDOWS, name_of, refuse, rule
from ml_core.data.spark.scope import bare, ticked
from ml_core.data.spark.times import spread
from ml_core.data.spark.types import WHOLE, fields, is_struct, spark_type
from ml_core.data.spark.writer import Writer

_NO_FLOATS = "the sum of floats depends on the order of the rows"
_SORTED = (exp.Count, exp.Sum, exp.Avg, exp.Min, exp.Max)


def _made(writer: Writer, node: exp.Expr, aggregate: str, *conditions: str) -> str:
    """Return an aggregate with what is written behind it: its filter, or its window."""
    around = node.parent if not isinstance(node.parent, exp.IgnoreNulls) else node.parent.parent
    if isinstance(around, exp.Window) and bare(around.this) is node:
        if conditions or not isinstance(node, _SORTED):
            refuse(around, f"{name_of(node)} over a window")
        return f"{aggregate} {over(writer, around)}"
    if isinstance(around, exp.Filter) and around.expression is not node.parent:
        where = writer.typed(around.expression.this, ("BOOLEAN",), "a condition")
        conditions = (*conditions, where)
    return f"{aggregate} filter (where {' and '.join(conditions)})" if conditions else aggregate


@rule("aggregates", ["filter (where ...)"], exp.Filter)
def filtered(writer: Writer, node: exp.Filter) -> str:
    """Write an aggregate of some rows; it finds the condition itself."""
    return writer.write(node.this)


@rule("aggregates", [], exp.IgnoreNulls)
def ignoring_nulls(writer: Writer, node: exp.IgnoreNulls) -> str:
    """Write any_value, which sqlglot reads so."""
    if not isinstance(node.this, exp.AnyValue):
        refuse(node, f"{name_of(node.this)} ignore nulls")
    return writer.write(node.this)


@rule("aggregates", ["count"], exp.Count)
def count(writer: Writer, node: exp.Count) -> str:
    """Count rows, values that are not null, or different ones."""
    counted = node.this
    if counted is None or isinstance(counted, exp.Star):
        return _made(writer, node, "count(1)")
    distinct = isinstance(counted, exp.Distinct)
    values = counted.expressions if distinct else [counted]
    if len(values) != 1 or spark_type(writer.type(values[0])) is None:
        refuse(node, "count of several columns", hint="count one")
    return _made(writer, node, f"count({'distinct ' if distinct else ''}{writer.write(values[0])})")


@rule("aggregates", ["sum"], exp.Sum)
def total(writer: Writer, node: exp.Sum) -> str:
    """Add whole numbers in 64 bits; more fails."""
    return _made(writer, node, f"sum({_whole(writer, node)})")


@rule("aggregates", ["avg"], exp.Avg)
def mean(writer: Writer, node: exp.Avg) -> str:
    """Return the exact sum of whole numbers over their count."""
    value = _whole(writer, node)
    whole, count = (_made(writer, node, f"{name}({value})") for name in ("sum", "count"))
    return f"(cast({whole} as double) / nullif({count}, 0))"


def _whole(writer: Writer, node: exp.Expr) -> str:
    if node.this is None or isinstance(node.this, exp.Distinct):
        refuse(node, f"{name_of(node)}(distinct ...)")
    kind = writer.type(node.this)
    if kind not in WHOLE:
        refuse(node, f"{name_of(node)} of {kind}", _NO_FLOATS, hint="cast to whole numbers first, such as cents")
    return f"cast({writer.write(node.this)} as bigint)"


@rule("aggregates", ["min", "max"], exp.Min, exp.Max)
def extreme(writer: Writer, node: exp.Min | exp.Max) -> str:
    """Return the smallest or largest value; of structs field by field, where a null is the largest."""
    name = name_of(node)
    if node.expressions:
        refuse(node, f"{name} of several values", hint="use greatest or least")
    kind, value = writer.type(node.this), writer.write(node.this)
    if not is_struct(kind):
        if spark_type(kind) is None:
            refuse(node, f"{name} of {kind}")
        return _made(writer, node, f"{name}({value})")
    order = ", ".join(
        f"'{number}n', {value}.{ticked(field)} is null, '{number}', {value}.{ticked(field)}"
        for number, field in enumerate(fields(kind))
    )
    return _made(writer, node, f"{name}_by({value}, named_struct({order}))")


@rule("aggregates", ["any_value"], exp.AnyValue)
def any_value(writer: Writer, node: exp.AnyValue) -> str:
    """Return some value that is not null: the same one where there is only one."""
    return _made(writer, node, f"any_value({_scalar(writer, node.this, 'any_value')}, true)")


@rule("aggregates", ["arg_max", "max_by", "arg_min", "min_by"], exp.ArgMax, exp.ArgMin)
def arg(writer: Writer, node: exp.ArgMax | exp.ArgMin) -> str:
    """Return the value of the row whose other value is the largest or smallest; nulls of either count for nothing."""
    name = "max_by" if isinstance(node, exp.ArgMax) else "min_by"
    if node.args.get("count") is not None:
        refuse(node, f"{name} of several rows")
    value, by = _scalar(writer, node.this, name), _scalar(writer, node.expression, name)
    return _made(writer, node, f"{name}({value}, {by})", f"{value} is not null")


@rule("aggregates", ["bool_and", "bool_or"], exp.LogicalAnd, exp.LogicalOr)
def logical(writer: Writer, node: exp.LogicalAnd | exp.LogicalOr) -> str:
    """Say whether all or some are true."""
    name = "bool_and" if isinstance(node, exp.LogicalAnd) else "bool_or"
    return _made(writer, node, f"{name}({writer.typed(node.this, ('BOOLEAN',), name)})")


def _scalar(writer: Writer, node: exp.Expr, what: str) -> str:
    kind = writer.type(node)
    if spark_type(kind) is None:
        refuse(node, f"{what} of {kind}")
    return writer.write(node)


@rule("windows", ["row_number", "rank", "dense_rank"], exp.RowNumber, exp.Rank, exp.DenseRank)
def ranked(_: Writer, node: exp.Func) -> str:
    """Write the number of a row in its order."""
    return f"{name_of(node)}()"


@rule("windows", ["lag", "lead"], exp.Lag, exp.Lead)
def neighbour(writer: Writer, node: exp.Lag | exp.Lead) -> str:
    """Return the value of a row before or after."""
    offset = node.args.get("offset")
    if node.args.get("default") is not None or not (offset is None or offset.is_int):
        refuse(node, f"{name_of(node)} with a default", hint="wrap it in coalesce")
    written = writer.write(offset) if offset is not None else "1"
    return f"{name_of(node)}({_scalar(writer, node.this, name_of(node))}, {written})"


@rule("operators", ["over (partition by ... order by ... rows or range ...)"], exp.Window)
def window(writer: Writer, node: exp.Window) -> str:
    """Write a function over a window of rows."""
    inner = node.this
    if isinstance(inner, exp.Filter | exp.IgnoreNulls | exp.RespectNulls):
        refuse(node, f"{name_of(inner)} over a window", hint="use case within the function")
    if type(inner) in WINDOWS:
        number = WINDOWS[type(inner)](writer, inner)
        counted = f"{number} {over(writer, node)}"
        return counted if isinstance(inner, exp.Lag | exp.Lead) else f"cast({counted} as bigint)"
    return writer.write(inner)


def over(writer: Writer, node: exp.Window) -> str:
    """Return the window itself; where nulls come in its order is always said."""
    if node.args.get("alias") is not None or str(node.args.get("over") or "OVER").upper() != "OVER":
        refuse(node, "a named window", hint="write it where it is used")
    written = []
    if node.args.get("partition_by"):
        written.append(f"partition by {', '.join(writer.write(each) for each in node.args['partition_by'])}")
    if node.args.get("order") is not None:
        ordered = node.args["order"].expressions
        written.append(f"order by {', '.join(_ordered(writer, each) for each in ordered)}")
    spec = node.args.get("spec")
    if spec is not None:
        if spec.args.get("exclude"):
            refuse(node, "exclude in a window")
        bounds = [_bound(writer, node, spec.args.get(side), spec.args.get(f"{side}_side")) for side in ("start", "end")]
        written.append(f"{str(spec.args['kind']).lower()} between {bounds[0]} and {bounds[1]}")
    return f"over ({' '.join(written)})"


def _ordered(writer: Writer, node: exp.Ordered) -> str:
    direction = "desc" if node.args.get("desc") else "asc"
    return f"{writer.write(node.this)} {direction} nulls {'first' if node.args.get('nulls_first') else 'last'}"


def _bound(writer: Writer, node: exp.Window, value: object, side: object) -> str:
    if value is None or str(value).upper() == "CURRENT ROW":
        return "current row"
    if isinstance(value, exp.Interval | exp.Literal):
        count = value.this
        if isinstance(value, exp.Literal) or (isinstance(count, exp.Literal) and count.name.isdigit()):
            written = value.name if isinstance(value, exp.Literal) else _span(writer, value)
            return f"{written} {str(side).lower()}"
    if str(value).upper() != "UNBOUNDED":
        refuse(node, f"a window's bound {value}")
    return f"unbounded {str(side).lower()}"


def _span(writer: Writer, value: exp.Interval) -> str:
    unit = str(value.args["unit"].name).upper().removesuffix("S")
    return spread(int(value.this.name), unit) if unit != "" else writer.write(value)

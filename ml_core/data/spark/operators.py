"""Rules for operators, literals, casts and conditions, each with DuckDB's meaning.

Operands are brought into the type DuckDB would widen them to before Spark sees them, because Spark widens otherwise
(a FLOAT and a whole number to DOUBLE). Spark runs in ANSI mode, where overflow and a bad cast fail as in DuckDB.
"""

from sqlglot import exp

from ml_core.data.spark.rules import name_of, refuse, rule
from ml_core.data.spark.scope import bare
from ml_core.data.spark.types import (
    INSTANT,
    REAL,
    TEMPORAL,
    WHOLE,
    fields,
    is_decimal,
    is_struct,
    spark_type,
    widened,
)
from ml_core.data.spark.writer import Writer

_UNITS = ("MICROSECOND", "MILLISECOND", "SECOND", "MINUTE", "HOUR", "DAY", "WEEK", "MONTH", "YEAR")
_TO_INTERVAL = {"to_seconds": "SECOND", "to_minutes": "MINUTE", "to_hours": "HOUR", "to_days": "DAY"}
_COMPARISONS = {
    exp.EQ: "=",
    exp.NEQ: "<>",
    exp.LT: "<",
    exp.LTE: "<=",
    exp.GT: ">",
    exp.GTE: ">=",
    exp.NullSafeEQ: "<=>",
}


@rule("operators", [], exp.Column)
def column(writer: Writer, node: exp.Column) -> str:
    """Write a column."""
    return writer.column(node)


@rule("operators", ["struct.field"], exp.Dot)
def dot(writer: Writer, node: exp.Dot) -> str:
    """Write a field of a struct."""
    if not is_struct(writer.type(node.this)):
        refuse(node, f"a field of {writer.type(node.this)}")
    return f"{writer.write(node.this)}.`{node.expression.name}`"


@rule("operators", ["( )"], exp.Paren)
def paren(writer: Writer, node: exp.Paren) -> str:
    """Write parentheses."""
    return f"({writer.write(node.this)})"


@rule("operators", ["literals"], exp.Literal)
def literal(writer: Writer, node: exp.Literal) -> str:
    """Write a text or a number in the type DuckDB gives it."""
    if node.is_string:
        return text(node.name)
    kind = writer.type(node)
    if is_decimal(kind):
        refuse(node, "decimal")
    if kind in REAL:
        return writer.constant(node, kind)
    if kind not in ("INTEGER", "BIGINT"):
        refuse(node, f"a literal of {kind}")
    return node.name + ("L" if kind == "BIGINT" else "")


@rule("operators", ["true", "false"], exp.Boolean)
def boolean(_: Writer, node: exp.Boolean) -> str:
    """Write true or false."""
    return "true" if node.this else "false"


@rule("operators", ["null"], exp.Null)
def null(_writer: Writer, _node: exp.Null) -> str:
    """Write null; where its type matters, it is cast by what stands around it."""
    return "null"


@rule("operators", ["and"], exp.And)
def both(writer: Writer, node: exp.And) -> str:
    """Write a conjunction of booleans."""
    return f"({_condition(writer, node.this)} and {_condition(writer, node.expression)})"


@rule("operators", ["or"], exp.Or)
def either(writer: Writer, node: exp.Or) -> str:
    """Write a disjunction of booleans."""
    return f"({_condition(writer, node.this)} or {_condition(writer, node.expression)})"


@rule("operators", ["not"], exp.Not)
def negation(writer: Writer, node: exp.Not) -> str:
    """Write a negation."""
    return f"(not {_condition(writer, node.this)})"


def _condition(writer: Writer, node: exp.Expr) -> str:
    return writer.typed(node, ("BOOLEAN", '"NULL"'), "a condition", hint="compare it with something")


@rule("operators", ["=", "<>", "<", "<=", ">", ">=", "is not distinct from"], *_COMPARISONS)
def comparison(writer: Writer, node: exp.Binary) -> str:
    """Compare in the type DuckDB compares in; texts by their bytes in both."""
    left, right = compared(writer, node, [node.this, node.expression])
    return f"({left} {_COMPARISONS[type(node)]} {right})"


@rule("operators", ["is distinct from"], exp.NullSafeNEQ)
def distinct_from(writer: Writer, node: exp.NullSafeNEQ) -> str:
    """Compare, a null being equal to a null."""
    left, right = compared(writer, node, [node.this, node.expression])
    return f"(not ({left} <=> {right}))"


def compared(writer: Writer, node: exp.Expr, operands: list[exp.Expr]) -> list[str]:
    """Return operands in the one type DuckDB compares them in."""
    kind = writer.type(operands[0])
    for operand in operands[1:]:
        found = writer.type(operand)
        for one, other, side in ((kind, found, operands[0]), (found, kind, operand)):
            if one == "VARCHAR" and other in TEMPORAL and isinstance(bare(side), exp.Literal):
                kind = found = other
        common = widened(kind, found)
        if common is None or (common != '"NULL"' and spark_type(common) is None):
            refuse(node, f"comparing {kind} with {found}", hint="cast one of them")
        kind = common
    return [writer.coerced(operand, kind) for operand in operands]


@rule("operators", ["between"], exp.Between)
def between(writer: Writer, node: exp.Between) -> str:
    """Compare with both ends, which belong to it."""
    value, low, high = compared(writer, node, [node.this, node.args["low"], node.args["high"]])
    return f"({value} >= {low} and {value} <= {high})"


@rule("operators", ["in"], exp.In)
def within(writer: Writer, node: exp.In) -> str:
    """Look a value up in a list or in what a query returns."""
    query = node.args.get("query")
    if query is not None:
        return f"({writer.write(node.this)} in {writer.query(query, writer.scope)})"
    value, *listed = compared(writer, node, [node.this, *node.expressions])
    return f"({value} in ({', '.join(listed)}))"


@rule("operators", ["exists"], exp.Exists)
def exists(writer: Writer, node: exp.Exists) -> str:
    """Ask whether a query returns a row."""
    return f"exists {writer.query(node.this, writer.scope)}"


@rule("operators", ["scalar subquery"], exp.Subquery)
def subquery(writer: Writer, node: exp.Subquery) -> str:
    """Write a query of one value."""
    return writer.query(node, writer.scope)


@rule("operators", ["is null", "is true", "is false"], exp.Is)
def same(writer: Writer, node: exp.Is) -> str:
    """Ask for null, true or false."""
    if not isinstance(node.expression, exp.Null | exp.Boolean):
        refuse(node, name_of(node))
    return f"({writer.write(node.this)} is {writer.write(node.expression)})"


@rule("operators", ["like"], exp.Like)
def like(writer: Writer, node: exp.Like) -> str:
    """Match a pattern that has no backslash, which Spark alone would read as an escape."""
    if not (isinstance(node.expression, exp.Literal) and "\\" not in node.expression.name):
        refuse(node, "like with a pattern that is not a plain text", hint="use contains or starts_with")
    return f"({writer.typed(node.this, ('VARCHAR',), 'like')} like {text(node.expression.name)})"


@rule("operators", ["case"], exp.Case)
def case(writer: Writer, node: exp.Case) -> str:
    """Choose; every branch in the type of the whole."""
    kind, subject = writer.type(node), node.args.get("this")
    written = []
    for branch in node.args["ifs"]:
        if subject is None:
            condition = _condition(writer, branch.this)
        else:
            condition = " = ".join(compared(writer, node, [subject, branch.this]))
        written.append(f"when {condition} then {chosen(writer, branch.args['true'], kind)}")
    default = node.args.get("default")
    last = f" else {chosen(writer, default, kind)}" if default is not None else ""
    return f"case {' '.join(written)}{last} end"


def chosen(writer: Writer, node: exp.Expr, kind: str) -> str:
    """Return one of several values in the type of what they are chosen for."""
    if is_decimal(kind):
        refuse(node, "decimal")
    return writer.coerced(node, kind)


@rule("operators", ["+", "-", "*"], exp.Add, exp.Sub, exp.Mul)
def arithmetic(writer: Writer, node: exp.Binary) -> str:
    """Calculate in the type of the result; move an instant by an interval."""
    sign = {exp.Add: "+", exp.Sub: "-", exp.Mul: "*"}[type(node)]
    left, right, kind = writer.type(node.this), writer.type(node.expression), writer.type(node)
    if right == "INTERVAL" and left in TEMPORAL[1:] and sign != "*":
        return f"({writer.write(node.this)} {sign} {writer.write(node.expression)})"
    if kind not in (*WHOLE, *REAL):
        what = "decimal" if is_decimal(kind) else f"{left} {sign} {right}"
        refuse(node, what, hint="use date_diff" if kind == "INTERVAL" else "")
    return f"({writer.coerced(node.this, kind)} {sign} {writer.coerced(node.expression, kind)})"


@rule("operators", ["- (sign)"], exp.Neg)
def minus(writer: Writer, node: exp.Neg) -> str:
    """Change the sign of a number."""
    if is_decimal(writer.type(node)):
        refuse(node, "decimal")
    return f"(-{writer.typed(node.this, (*WHOLE, *REAL), 'the sign')})"


@rule("operators", ["/"], exp.Div)
def division(writer: Writer, node: exp.Div) -> str:
    """Divide as IEEE 754 says, also by zero, where Spark would fail; whole numbers as doubles."""
    kind = writer.type(node)
    if kind not in REAL:
        refuse(node, "decimal" if is_decimal(kind) else f"/ of {kind}")
    above, below = writer.coerced(node.this, kind), writer.coerced(node.expression, kind)
    divisor = bare(node.expression)
    plain = isinstance(divisor, exp.Literal) and float(divisor.name) != 0
    quotient = f"({above} / {below})"
    if not plain:
        sign = f"(if({above} > 0, 1, -1) * if(cast({below} as string) like '-%', -1, 1))"
        zero = f"case when {above} is null then null when {above} = 0 or isnan({above}) then double('NaN')"
        quotient = f"case when {below} = 0 then {zero} else {sign} * double('infinity') end else {quotient} end"
    return quotient if kind == "DOUBLE" else f"cast({quotient} as float)"


@rule("operators", ["//"], exp.IntDiv)
def whole_division(writer: Writer, node: exp.IntDiv) -> str:
    """Divide whole numbers; both engines drop the remainder, so -7 // 2 is -3."""
    kind = writer.type(node)
    if kind not in WHOLE:
        refuse(node, f"// of {writer.type(node.this)} and {writer.type(node.expression)}", hint="use / instead")
    quotient = f"({writer.coerced(node.this, 'BIGINT')} div {writer.coerced(node.expression, 'BIGINT')})"
    return quotient if spark_type(kind) == "bigint" else f"cast({quotient} as {spark_type(kind)})"


@rule("operators", ["%"], exp.Mod)
def remainder(writer: Writer, node: exp.Mod) -> str:
    """Return the remainder of whole numbers, with the sign of the first."""
    kind = writer.type(node)
    if kind not in WHOLE:
        refuse(node, f"% of {kind}")
    return f"({writer.coerced(node.this, kind)} % {writer.coerced(node.expression, kind)})"


@rule("operators", ["||"], exp.DPipe)
def joined(writer: Writer, node: exp.DPipe) -> str:
    """Join texts; null with anything is null."""
    return f"({as_text(writer, node.this)} || {as_text(writer, node.expression)})"


def as_text(writer: Writer, node: exp.Expr) -> str:
    """Return a value as both engines write it."""
    kind = writer.type(node)
    if kind == '"NULL"':
        return "cast(null as string)"
    if kind not in ("VARCHAR", "BOOLEAN", *WHOLE):
        refuse(node, f"{kind} as text", "the engines write it differently", hint="use strftime for times")
    return writer.write(node) if kind == "VARCHAR" else f"cast({writer.write(node)} as string)"


@rule("operators", ["at time zone"], exp.AtTimeZone)
def at_time_zone(writer: Writer, node: exp.AtTimeZone) -> str:
    """Return what the clocks of a zone show at an instant."""
    zone = node.args["zone"]
    if writer.type(node.this) != INSTANT or not isinstance(zone, exp.Literal):
        hint = "keep instants as timestamptz, and name the zone"
        refuse(node, "at time zone from a local time to an instant", "an hour that comes twice", hint=hint)
    utc = f"cast({writer.write(node.this)} as timestamp_ntz)"
    return f"convert_timezone('UTC', {text(zone.name)}, {utc})"


@rule("operators", ["interval"], exp.Interval)
def interval(_writer: Writer, node: exp.Interval) -> str:
    """Write a span of a whole number of units."""
    unit = str(node.args["unit"].name).upper().removesuffix("S") if node.args.get("unit") else ""
    count = node.this
    if not (isinstance(count, exp.Literal) and count.name.lstrip("-").isdigit() and unit in _UNITS):
        refuse(node, node.sql("duckdb").lower(), hint="write a whole number and a unit, such as interval 3 hour")
    return spread(int(count.name), unit)


def spread(count: int, unit: str) -> str:
    """Return an interval literal of Spark: days to microseconds, or years and months."""
    if unit in ("MONTH", "YEAR"):
        return f"interval '{count}' {unit.lower()}"
    seconds = {"WEEK": 604_800, "DAY": 86_400, "HOUR": 3_600, "MINUTE": 60, "SECOND": 1}.get(unit)
    if seconds is None:
        scale = 1_000 if unit == "MILLISECOND" else 1
        whole, rest = divmod(abs(count) * scale, 1_000_000)
        return f"interval '{'-' if count < 0 else ''}{whole}.{rest:06d}' second"
    return f"interval '{count * seconds}' second"


@rule("operators", ["cast", "::"], exp.Cast)
def cast(writer: Writer, node: exp.Cast) -> str:
    """Cast where both engines mean the same, rounding halves to even on the way to whole numbers."""
    source, kind = writer.type(node.this), writer.type(node)
    inner, named = bare(node.this), spark_type(kind)
    if named is None:
        refuse(node, f"cast to {kind}", hint="cast to another type")
    if source == kind:
        return writer.write(node.this)
    if is_decimal(source) or (source == "VARCHAR" and isinstance(inner, exp.Literal)):
        return writer.constant(inner, kind)
    if kind == "VARCHAR":
        return as_text(writer, node.this)
    if (source, kind) == ("DOUBLE", "FLOAT"):
        return _narrowed(writer, node.this)
    return _converted(writer, node.this, source, kind)


def _converted(writer: Writer, node: exp.Expr, source: str, kind: str) -> str:
    """Return a value in another type by Spark's cast, which means the same for these pairs."""
    numbers = ("BOOLEAN", *WHOLE, *REAL)
    same = (source in numbers and kind in numbers[1:]) or (source in TEMPORAL and kind in TEMPORAL)
    if not same and source != '"NULL"':
        refuse(node, f"cast from {source} to {kind}", hint="let the loader write the column in that type")
    value = writer.write(node)
    return f"cast({f'rint({value})' if source in REAL and kind in WHOLE else value} as {spark_type(kind)})"


def _narrowed(writer: Writer, node: exp.Expr) -> str:
    """Return a double as a float; one too large fails, as in DuckDB, where its size is not known to be small."""
    value = writer.write(node)
    small = (exp.Avg, exp.Sin, exp.Cos, exp.Radians)
    aggregate = bare(node).this if isinstance(bare(node), exp.Filter) else bare(node)
    if isinstance(aggregate, small):
        return f"cast({value} as float)"
    infinite = f"abs(cast({value} as float)) = float('infinity') and abs({value}) < double('infinity')"
    return f"if({infinite}, raise_error('a number is too large for a float'), cast({value} as float))"


@rule("operators", ["{field: value}", "struct_pack"], exp.Struct)
def struct(writer: Writer, node: exp.Struct) -> str:
    """Write a struct, field by field."""
    written = []
    for name, field in zip(fields(writer.type(node)), node.expressions, strict=True):
        value = field.expression if isinstance(field, exp.PropertyEQ) else field
        if spark_type(writer.type(value)) is None:
            refuse(node, f"a field of {writer.type(value)}")
        written.append(f"{text(name)}, {writer.write(value)}")
    return f"named_struct({', '.join(written)})"


def text(value: str) -> str:
    """Return a text as a literal of Spark."""
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"

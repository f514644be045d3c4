"""Rules for comparisons, conditions, and what is chosen by them, each with DuckDB's meaning.

Operands are brought into the type DuckDB would widen them to before Spark sees them, because Spark widens otherwise
(a FLOAT and a whole number to DOUBLE).
"""

from sqlglot import exp

from ml_core.data.spark.rules import name_of, refuse, rule
from ml_core.data.spark.scope import bare
from ml_core.data.spark.terms import text
from ml_core.data.spark.types import TEMPORAL, is_decimal, spark_type, widened
from ml_core.data.spark.writer import Writer

_COMPARISONS = {
    exp.EQ: "=",
    exp.NEQ: "<>",
    exp.LT: "<",
    exp.LTE: "<=",
    exp.GT: ">",
    exp.GTE: ">=",
    exp.NullSafeEQ: "<=>",
}


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


def _condition(writer: Writer, node: exp.Expr) -> str:
    return writer.typed(node, ("BOOLEAN", '"NULL"'), "a condition", hint="compare it with something")

"""Rules for calculating: each in the type DuckDB gives the result, with DuckDB's answer where Spark would fail.

Spark runs in ANSI mode, where overflow fails as in DuckDB.
"""

from sqlglot import exp

from ml_core.data.spark.rules import refuse, rule
from ml_core.data.spark.scope import bare
from ml_core.data.spark.types import REAL, TEMPORAL, WHOLE, is_decimal, spark_type
from ml_core.data.spark.writer import Writer


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

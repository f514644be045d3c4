"""Rules for values in another type, and as texts.

Spark runs in ANSI mode, where a bad cast fails as in DuckDB.
"""

from sqlglot import exp

from ml_core.data.spark.rules import refuse, rule
from ml_core.data.spark.scope import bare
from ml_core.data.spark.types import REAL, TEMPORAL, WHOLE, is_decimal, spark_type
from ml_core.data.spark.writer import Writer


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

"""Rules for what expressions are made of: columns, fields, literals, structs, and queries of one value."""

from sqlglot import exp

from ml_core.data.spark.rules import refuse, rule
from ml_core.data.spark.types import REAL, fields, is_decimal, is_struct, spark_type
from ml_core.data.spark.writer import Writer


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


@rule("operators", ["scalar subquery"], exp.Subquery)
def subquery(writer: Writer, node: exp.Subquery) -> str:
    """Write a query of one value."""
    return writer.query(node, writer.scope)


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

"""Rules for functions of one row, those of times apart (`times`).

Left out on purpose, because no Spark expression gives DuckDB's bytes: upper and lower (letters such as ß), round,
floor and ceil of doubles (the zero's sign, other types), numbers as texts.
"""

from sqlglot import exp

from ml_core.data.spark.casts import as_text
from ml_core.data.spark.comparisons import chosen, compared
from ml_core.data.spark.rules import name_of, refuse, rule
from ml_core.data.spark.terms import text
from ml_core.data.spark.types import REAL, WHOLE
from ml_core.data.spark.writer import Writer


@rule("functions", ["coalesce", "ifnull", "greatest", "least"], exp.Coalesce, exp.Greatest, exp.Least)
def coalesce(writer: Writer, node: exp.Func) -> str:
    """Return the first, largest or smallest value that is not null."""
    kind = writer.type(node)
    written = [chosen(writer, each, kind) for each in (node.this, *node.expressions)]
    return written[0] if len(written) == 1 else f"{name_of(node)}({', '.join(written)})"


@rule("functions", ["if"], exp.If)
def if_(writer: Writer, node: exp.If) -> str:
    """Choose one of two values."""
    kind, other = writer.type(node), node.args.get("false")
    condition = writer.typed(node.this, ("BOOLEAN",), "a condition")
    last = chosen(writer, other, kind) if other is not None else "null"
    return f"if({condition}, {chosen(writer, node.args['true'], kind)}, {last})"


@rule("functions", ["nullif"], exp.Nullif)
def nullif(writer: Writer, node: exp.Nullif) -> str:
    """Return null for one value and the first otherwise, in the first one's type."""
    left, right = compared(writer, node, [node.this, node.expression])
    return f"if({left} = {right}, null, {chosen(writer, node.this, writer.type(node))})"


@rule("functions", ["abs"], exp.Abs)
def absolute(writer: Writer, node: exp.Abs) -> str:
    """Return a number without its sign."""
    return f"abs({writer.typed(node.this, (*WHOLE, *REAL), 'abs')})"


@rule("functions", ["sin", "cos", "exp"], exp.Sin, exp.Cos, exp.Exp)
def elementary(writer: Writer, node: exp.Func) -> str:
    """Return an elementary function, equal but for the last bit of a double; DuckDB fails where Spark gives NaN."""
    return f"{name_of(node)}({_double(writer, node.this, name_of(node))})"


@rule("functions", ["ln"], exp.Ln)
def ln(writer: Writer, node: exp.Ln) -> str:
    """Return the natural logarithm: of zero minus infinity, of a negative number NaN, where Spark gives null."""
    value = _double(writer, node.this, "ln")
    beyond = f"when {value} = 0 then -double('infinity') when {value} < 0 then double('NaN')"
    return f"case when {value} > 0 then ln({value}) {beyond} end"


@rule("functions", ["sqrt"], exp.Sqrt)
def sqrt(writer: Writer, node: exp.Sqrt) -> str:
    """Return the square root; of a negative number NaN in both."""
    return f"sqrt({_double(writer, node.this, 'sqrt')})"


@rule("functions", ["radians"], exp.Radians)
def radians(writer: Writer, node: exp.Radians) -> str:
    """Multiply with π / 180, as DuckDB does it, which Spark's own function does in another order."""
    return f"({_double(writer, node.this, 'radians')} * 0.017453292519943295D)"


def _double(writer: Writer, node: exp.Expr, what: str) -> str:
    if writer.type(node) not in (*WHOLE, *REAL):
        refuse(node, f"{what} of {writer.type(node)}")
    return writer.coerced(node, "DOUBLE")


@rule("functions", ["concat"], exp.Concat)
def concat(writer: Writer, node: exp.Concat) -> str:
    """Join texts, leaving out nulls."""
    return f"concat_ws('', {', '.join(as_text(writer, each) for each in node.expressions)})"


@rule("functions", ["length"], exp.Length)
def length(writer: Writer, node: exp.Length) -> str:
    """Count the code points of a text."""
    return f"cast(char_length({_text(writer, node.this, 'length')}) as bigint)"


@rule("functions", ["substring", "substr"], exp.Substring)
def substring(writer: Writer, node: exp.Substring) -> str:
    """Return a part of a text that begins at a position counted from 1."""
    start, size = node.args["start"], node.args.get("length")
    if not _counts(start, least=1) or not (size is None or _counts(size)):
        refuse(node, "substring from the end", hint="use right, or count from 1")
    return f"substring({_text(writer, node.this, 'substring')}, {start.name}{f', {size.name}' if size else ''})"


@rule("functions", ["left", "right"], exp.Left, exp.Right)
def left(writer: Writer, node: exp.Left) -> str:
    """Return so many of the first or last code points of a text."""
    if not _counts(node.expression):
        refuse(node, f"{name_of(node)} by a count that is not a plain number")
    return f"{name_of(node)}({_text(writer, node.this, name_of(node))}, {node.expression.name})"


@rule("functions", ["lpad", "rpad"], exp.Pad)
def pad(writer: Writer, node: exp.Pad) -> str:
    """Fill a text up, or cut it, to a number of code points."""
    filler, name = node.args.get("fill_pattern"), "lpad" if node.args.get("is_left") else "rpad"
    if not _counts(node.expression) or not (isinstance(filler, exp.Literal) and filler.name):
        refuse(node, f"{name} with a length or filling that is not plain", hint="such as lpad(x, 2, '0')")
    return f"{name}({_text(writer, node.this, name)}, {node.expression.name}, {text(filler.name)})"


@rule("functions", ["trim", "ltrim", "rtrim"], exp.Trim)
def trim(writer: Writer, node: exp.Trim) -> str:
    """Remove spaces around a text."""
    name = {"LEADING": "ltrim", "TRAILING": "rtrim"}.get(str(node.args.get("position") or ""), "trim")
    if node.args.get("expression") is not None:
        refuse(node, f"{name} of other characters than spaces", hint="use replace")
    return f"{name}({_text(writer, node.this, name)})"


@rule("functions", ["replace"], exp.Replace)
def replace(writer: Writer, node: exp.Replace) -> str:
    """Put one text in the place of another wherever it stands."""
    old, new = node.expression, node.args.get("replacement")
    if not (isinstance(old, exp.Literal) and old.name and isinstance(new, exp.Literal)):
        refuse(node, "replace with what is not a plain text")
    return f"replace({_text(writer, node.this, 'replace')}, {text(old.name)}, {text(new.name)})"


@rule("functions", ["contains", "starts_with", "ends_with"], exp.Contains, exp.StartsWith, exp.EndsWith)
def contains(writer: Writer, node: exp.Func) -> str:
    """Ask whether a text holds another."""
    names = {exp.Contains: "contains", exp.StartsWith: "startswith", exp.EndsWith: "endswith"}
    return f"{names[type(node)]}({_text(writer, node.this, 'contains')}, {_text(writer, node.expression, 'contains')})"


def _text(writer: Writer, node: exp.Expr, what: str) -> str:
    return writer.typed(node, ("VARCHAR",), what)


def _counts(node: exp.Expr | None, *, least: int = 0) -> bool:
    return isinstance(node, exp.Literal) and node.name.isdigit() and int(node.name) >= least

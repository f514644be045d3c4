"""Rules for functions of one row.

Left out on purpose, because no Spark expression gives DuckDB's bytes: upper and lower (letters such as ß), round,
floor and ceil of doubles (the zero's sign, other types), numbers and times as texts other than through strftime.
"""

import re

from sqlglot import exp

from ml_core.data.spark.operators import as_text, chosen, compared, text
from ml_core.data.spark.rules import call, name_of, refuse, rule
from ml_core.data.spark.types import INSTANT, REAL, TEMPORAL, WHOLE
from ml_core.data.spark.writer import Writer

_MICROS = {"microsecond": 1, "millisecond": 1_000, "second": 1_000_000, "minute": 60_000_000, "hour": 3_600_000_000}
_PARTS = {
    "year": "year({0})", "quarter": "quarter({0})", "month": "month({0})", "week": "weekofyear({0})",
    "day": "day({0})", "doy": "dayofyear({0})", "dow": "(dayofweek({0}) - 1)", "isodow": "(weekday({0}) + 1)",
    "hour": "hour({0})", "minute": "minute({0})", "second": "second({0})",
}  # fmt: skip
_PART_NAMES = {
    "dayofweek": "dow",
    "weekday": "dow",
    "dayofyear": "doy",
    "dayofweekiso": "isodow",
    "dayofweek_iso": "isodow",
}
_NODES = {
    exp.Year: "year", exp.Quarter: "quarter", exp.Month: "month", exp.Week: "week", exp.WeekOfYear: "week",
    exp.Day: "day", exp.DayOfMonth: "day", exp.DayOfYear: "doy", exp.DayOfWeek: "dow", exp.DayOfWeekIso: "isodow",
    exp.Hour: "hour", exp.Minute: "minute", exp.Second: "second",
}  # fmt: skip
_STRFTIME = {
    "%Y": "yyyy", "%y": "yy", "%m": "MM", "%-m": "M", "%d": "dd", "%-d": "d", "%H": "HH", "%-H": "H", "%I": "hh",
    "%-I": "h", "%M": "mm", "%-M": "m", "%S": "ss", "%-S": "s", "%f": "SSSSSS", "%j": "DDD", "%p": "a", "%a": "EEE",
    "%A": "EEEE", "%b": "MMM", "%B": "MMMM",
}  # fmt: skip


def _moment(writer: Writer, node: exp.Expr, what: str) -> str:
    return writer.typed(node, TEMPORAL, what)


@rule("functions", ["year", "quarter", "month", "week", "weekofyear", "day", "dayofmonth", "dayofyear", "dayofweek",
                    "isodow", "hour", "minute", "second"], *_NODES)  # fmt: skip
def part(writer: Writer, node: exp.Func) -> str:
    """Return a part of a date or a time; instants are read in UTC."""
    name = _NODES[type(node)]
    return f"cast({_PARTS[name].format(_moment(writer, node.this, name))} as bigint)"


@rule("functions", ["extract"], exp.Extract)
def extract(writer: Writer, node: exp.Extract) -> str:
    """Return a part of a date or a time by its name."""
    name = node.this.name.lower()
    name = _PART_NAMES.get(name, name)
    if name not in _PARTS:
        refuse(node, f"extract({name})", hint=f"use one of {', '.join(_PARTS)}")
    return f"cast({_PARTS[name].format(_moment(writer, node.expression, 'extract'))} as bigint)"


@call("date_part")
def date_part(writer: Writer, node: exp.Anonymous) -> str:
    """Return a part of a date or a time; the same as extract."""
    name, moment = node.expressions
    if not isinstance(name, exp.Literal) or name.name.lower() not in _PARTS:
        refuse(node, f"date_part({name.sql('duckdb')})", hint=f"use one of {', '.join(_PARTS)}")
    return f"cast({_PARTS[name.name.lower()].format(_moment(writer, moment, 'date_part'))} as bigint)"


@call("epoch_us")
def epoch_us(writer: Writer, node: exp.Anonymous) -> str:
    """Return the microseconds since 1970."""
    (moment,) = node.expressions
    return f"unix_micros(cast({_moment(writer, moment, 'epoch_us')} as timestamp))"


@rule("functions", ["epoch"], exp.TimeToUnix)
def epoch(writer: Writer, node: exp.TimeToUnix) -> str:
    """Return the seconds since 1970, a double."""
    return f"(cast(unix_micros(cast({_moment(writer, node.this, 'epoch')} as timestamp)) as double) / 1000000D)"


@rule("functions", ["date_diff", "datediff"], exp.DateDiff)
def date_diff(writer: Writer, node: exp.DateDiff) -> str:
    """Count the boundaries of a unit between two instants, those before 1970 too."""
    unit = str(node.args["unit"].name).lower() if node.args.get("unit") else ""
    later, earlier = node.this, node.expression
    kinds = {writer.type(later), writer.type(earlier)}
    if not kinds <= set(TEMPORAL):
        refuse(node, f"date_diff of {' and '.join(sorted(kinds))}")
    end, start = (f"cast({writer.write(each)} as timestamp)" for each in (later, earlier))
    counted = {
        **{name: _floored("unix_micros({0})", micros) for name, micros in _MICROS.items()},
        "day": "cast(unix_date(cast({0} as date)) as bigint)",
        "month": "cast(12 * year({0}) + month({0}) as bigint)",
        "year": "cast(year({0}) as bigint)",
    }
    if unit not in counted:
        refuse(node, f"date_diff('{unit}')", hint=f"use one of {', '.join(counted)}")
    return f"({counted[unit].format(end)} - {counted[unit].format(start)})"


def _floored(micros: str, unit: int) -> str:
    """Return how many whole units; `div` alone would drop the part of a moment before 1970."""
    return micros if unit == 1 else f"(({micros} - pmod({micros}, {unit}L)) div {unit}L)"


@rule("functions", ["date_trunc"], exp.TimestampTrunc)
def date_trunc(writer: Writer, node: exp.TimestampTrunc) -> str:
    """Return the beginning of the unit a moment lies in."""
    unit = str(node.args["unit"].name).lower()
    if unit not in ("second", "minute", "hour", "day", "week", "month", "quarter", "year"):
        refuse(node, f"date_trunc('{unit}')", hint="use second, minute, hour, day, week, month, quarter or year")
    kind = writer.type(node)
    cut = f"date_trunc('{unit}', cast({_moment(writer, node.this, 'date_trunc')} as timestamp))"
    return cut if kind == INSTANT else f"cast({cut} as {'date' if kind == 'DATE' else 'timestamp_ntz'})"


@rule("functions", ["strftime"], exp.TimeToStr)
def strftime(writer: Writer, node: exp.TimeToStr) -> str:
    """Write a time by a pattern of letters that both engines know."""
    moment, pattern = node.this, node.args["format"]
    if isinstance(moment, exp.Literal):
        moment, pattern = pattern, moment
    if not isinstance(pattern, exp.Literal):
        refuse(node, "strftime with a pattern that is not a text")
    return f"date_format({_moment(writer, moment, 'strftime')}, {text(_pattern(node, pattern.name))})"


def _pattern(node: exp.Expr, pattern: str) -> str:
    """Return a pattern of strftime in Spark's letters, everything between them quoted."""
    written = plain = ""
    for letter in [*re.findall(r"%-?.|[^%]+|%", pattern, re.DOTALL), ""]:
        if letter == "%%" or (letter and not letter.startswith("%")):
            plain += letter.removeprefix("%").replace("'", "''")
            continue
        written += f"'{plain}'" if plain else ""
        plain = ""
        if letter and letter not in _STRFTIME:
            refuse(node, f"strftime({letter!r})", hint=f"use some of {' '.join(_STRFTIME)}")
        written += _STRFTIME.get(letter, "")
    return written


@rule("functions", ["dayname"], exp.Dayname)
def dayname(writer: Writer, node: exp.Dayname) -> str:
    """Return the English name of the day."""
    return f"date_format({_moment(writer, node.this, 'dayname')}, 'EEEE')"


@rule("functions", ["monthname"], exp.Monthname)
def monthname(writer: Writer, node: exp.Monthname) -> str:
    """Return the English name of the month."""
    return f"date_format({_moment(writer, node.this, 'monthname')}, 'MMMM')"


@call("to_seconds", "to_minutes", "to_hours")
def to_interval(writer: Writer, node: exp.Anonymous) -> str:
    """Return a span of so many units."""
    (count,) = node.expressions
    number = writer.typed(count, ("TINYINT", "SMALLINT", "INTEGER", "BIGINT"), node.name.lower())
    seconds = {"to_seconds": 1, "to_minutes": 60, "to_hours": 3_600}[node.name.lower()]
    return f"(cast({number} as bigint) * interval '{seconds}' second)"


@rule("functions", ["to_days"], exp.ToDays)
def to_days(writer: Writer, node: exp.ToDays) -> str:
    """Return a span of so many days of 24 hours, as they are in UTC."""
    number = writer.typed(node.this, ("TINYINT", "SMALLINT", "INTEGER", "BIGINT"), "to_days")
    return f"(cast({number} as bigint) * interval '86400' second)"


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

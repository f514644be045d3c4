"""Rules for dates, times and spans; as texts only through strftime, whose letters both engines share."""

import re

from sqlglot import exp

from ml_core.data.spark.rules import call, refuse, rule
from ml_core.data.spark.terms import text
from ml_core.data.spark.types import INSTANT, TEMPORAL
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
_UNITS = ("MICROSECOND", "MILLISECOND", "SECOND", "MINUTE", "HOUR", "DAY", "WEEK", "MONTH", "YEAR")


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

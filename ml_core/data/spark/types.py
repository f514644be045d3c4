"""DuckDB's types in Spark, and what both engines widen a pair of them to.

Types are written as DuckDB's `describe` writes them. A type without an entry is refused where it is used. HUGEINT is
what DuckDB sums whole numbers in; Spark holds them in 64 bits and fails, rather than wraps, past them.
"""

from sqlglot import exp

WHOLE = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT")
REAL = ("FLOAT", "DOUBLE")
INSTANT = "TIMESTAMP WITH TIME ZONE"
TEMPORAL = ("DATE", "TIMESTAMP", INSTANT)
SMALL_WHOLE = WHOLE[:3]
_SCALAR = {
    "BOOLEAN": "boolean",
    "TINYINT": "tinyint",
    "SMALLINT": "smallint",
    "INTEGER": "int",
    "BIGINT": "bigint",
    "HUGEINT": "bigint",
    "FLOAT": "float",
    "DOUBLE": "double",
    "VARCHAR": "string",
    "DATE": "date",
    "TIMESTAMP": "timestamp_ntz",
    INSTANT: "timestamp",
}


def is_decimal(kind: str) -> bool:
    """Whether a type is DuckDB's of a literal such as 0.5."""
    return kind.startswith("DECIMAL")


def is_struct(kind: str) -> bool:
    """Whether a type has fields."""
    return kind.startswith("STRUCT(")


def fields(kind: str) -> list[str]:
    """Return the names of a struct's fields, in order."""
    built = exp.DataType.build(kind, dialect="duckdb")
    return [field.name for field in built.expressions]


def spark_type(kind: str) -> str | None:
    """Return Spark's name of a scalar type; None where it has none that means the same."""
    return _SCALAR.get(kind)


def widened(left: str, right: str) -> str | None:
    """Return the type DuckDB compares two types in; None where no rule is known to hold in both engines.

    A whole number meets a FLOAT as a FLOAT, also one of 64 bits; a literal with a point becomes what it meets.
    """
    if left == right and not is_decimal(left):
        return left
    for one, other in ((left, right), (right, left)):
        if one == '"NULL"' or (is_decimal(one) and other in REAL):
            return other
        if is_decimal(one) and (other in SMALL_WHOLE or is_decimal(other)):
            return "DOUBLE"  # holds every such number, so that comparing is exact
    # from narrow to wide; a whole number of 64 bits is narrower than a FLOAT
    ladders = ((*WHOLE, *REAL), TEMPORAL)
    return next((max(left, right, key=ladder.index) for ladder in ladders if left in ladder and right in ladder), None)

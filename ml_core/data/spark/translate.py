"""features.sql, written in DuckDB's dialect, as one query of Spark SQL with the same rows.

sqlglot parses the text and qualifies it (stars, names, `using`); DuckDB, over empty tables, says every type; the
rules write the result. What has no rule is refused by name. No Spark is needed, and nothing is run.

The Spark text means what it should in ANSI mode with the session's zone UTC, as `session` sets both.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.optimizer.qualify import qualify

from ml_core.data.spark import aggregates, arithmetic, casts, comparisons, functions, terms, times
from ml_core.data.spark.probe import Probe
from ml_core.data.spark.rules import refuse
from ml_core.data.spark.scope import Source, ticked
from ml_core.data.spark.select import SelectWriter
from ml_core.data.spark.types import is_struct
from ml_core.errors import FeatureError

_ = (aggregates, arithmetic, casts, comparisons, functions, terms, times)  # importing them fills the table of rules


@dataclass(frozen=True, slots=True)
class Translation:
    """A query of Spark and what it is made of.

    Attributes
    ----------
    sql : str
        The query.
    columns : mapping of str to str
        The result's columns in order, with DuckDB's types.
    reads : mapping of str to tuple of str
        Per table the columns that are read, in lower case.
    """

    sql: str
    columns: Mapping[str, str]
    reads: Mapping[str, tuple[str, ...]]


def translate(sql: str, tables: Mapping[str, Mapping[str, str]], *, file: str = "features.sql") -> str:
    """Return `sql`, DuckDB's, as Spark SQL.

    Parameters
    ----------
    sql : str
        One select.
    tables : mapping
        Per table its columns, each with DuckDB's name of its type.
    file : str
        What to call the text in errors.

    Raises
    ------
    FeatureError
        DuckDB does not accept the text, or it holds something that is not translated, which is named.
    """
    return translation(sql, tables, file=file).sql


def translation(sql: str, tables: Mapping[str, Mapping[str, str]], *, file: str = "features.sql") -> Translation:
    """Return `sql` as Spark SQL, with what it reads and returns; raises as `translate` does."""
    try:
        with Probe(tables) as probe:
            return _translated(sql.rstrip().rstrip(";"), tables, probe)
    except FeatureError as error:
        raise FeatureError(f"{file}{error}") from error


def _translated(sql: str, tables: Mapping[str, Mapping[str, str]], probe: Probe) -> Translation:
    columns = probe.columns(sql)
    known = {
        name: {column: kind if is_struct(kind) else "VARCHAR" for column, kind in of.items()}
        for name, of in tables.items()
    }
    try:
        parsed = sqlglot.parse_one(sql, read="duckdb")
        for join in parsed.find_all(exp.Join):
            if str(join.args.get("method") or "").upper() == "ASOF" and join.args.get("using"):
                refuse(join, "asof join using")
        tree = qualify(parsed, schema=dict(known), dialect="duckdb", quote_identifiers=True)
    except SqlglotError as error:
        raise FeatureError(f": sqlglot cannot read what DuckDB can: {error}; write it more plainly") from error
    if not isinstance(tree, exp.Query):
        refuse(tree, f"a statement {tree.key}", hint="write one select")
    queries = {
        name.lower(): Source(ticked(name), name, {each.lower(): kind for each, kind in of.items()}, base=name)
        for name, of in tables.items()
    }
    writer = SelectWriter(probe)
    text = writer.query(tree, queries)
    read_back = probe.columns(tree.sql("duckdb", comments=False))
    if [name.lower() for name in columns] != [name.lower() for name in read_back] or [*columns.values()] != [
        *read_back.values()
    ]:
        raise FeatureError(f": expected the columns {columns}, sqlglot reads {read_back}; write it more plainly")
    if list(columns) != list(read_back):  # sqlglot writes names in lower case
        renamed = ", ".join(f"{ticked(old)} as {ticked(new)}" for old, new in zip(read_back, columns, strict=True))
        text = f"select {renamed} from ({text})"
    return Translation(text, columns, {name: tuple(sorted(of)) for name, of in sorted(writer.reads.items())})

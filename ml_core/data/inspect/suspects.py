"""Columns that know too much: what tells the label almost alone, or lies after the moment of the request."""

from collections.abc import Sequence

from ml_core.data.inspect.findings import Column, Label
from ml_core.data.inspect.table import SourceTable
from ml_core.data.leakage import TELLS_ALL, told
from ml_core.data.sources import as_number, as_time
from ml_core.data.tables import quoted

_SAMPLE_ROWS = 50_000


def suspects(
    source: SourceTable,
    columns: Sequence[Column],
    *,
    label: str,
    found: Label,
    event_time: str,
    time_format: str | None,
) -> dict[str, str]:
    """Return the suspects among `columns`, and why; on a sample of rows, always the same."""
    labelled = f"from source where {quoted(label)} is not null"
    sample = f"({labelled} using sample reservoir({_SAMPLE_ROWS} rows) repeatable (1))"
    target = f"{quoted(label)}::varchar" if found.n_classes else as_number(quoted(label), source.decimal)
    suspected: dict[str, str] = {}
    when = as_time(quoted(event_time), source.types[event_time], time_format, source.zone)
    for column in columns:
        name = quoted(column.name)
        if column.kind == "time":
            read = as_time(
                name,
                source.types[column.name],
                time_format if source.types[column.name] == "VARCHAR" else None,
                source.zone,
            )
            later, present = source.connection.execute(
                f"select count(*) filter ({read} > {when}), count({read}) from {sample}"
            ).fetchall()[0]
            if later > present / 10:
                suspected[column.name] = f"lies after {event_time!r} in {later / present:.0%} of the rows"
        elif column.kind in {"number", "text"} and not column.constant:
            value = as_number(name, source.decimal) if column.kind == "number" else f"{name}::varchar"
            drawn = source.connection.sql(f"select {value} as x, {target} as y from {sample}").to_arrow_table()
            share = told(drawn.column("x").to_pylist(), drawn.column("y").to_pylist(), column.kind, found.n_classes)
            if share > TELLS_ALL:
                suspected[column.name] = f"alone tells {label!r} in {share:.1%} of the cases"
    return suspected

"""A flow's data tried out on a sample, in a home that is thrown away.

The sample is the first of what the source or the loader holds, so it has a beginning like the real history.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from ml_core.data.log import OFFSET
from ml_core.data.replay import Replay, load_facts
from ml_core.data.sources import opened
from ml_core.data.store import FeatureStore
from ml_core.data.tables import quoted
from ml_core.errors import ProjectError
from ml_core.project import Flow


def sample_facts(flow: Flow, *, root: Path, home: Path, rows: int) -> dict[str, pa.Table]:
    """Return the facts of about `rows` requests per kind, each sorted by `known_at`.

    Raises
    ------
    ProjectError
        The flow names neither a source nor a loader: its facts come from elsewhere.
    """
    data = flow.data
    if data.source is not None:
        with opened(flow, root, limit=rows) as connection:
            return {
                kind: connection.sql(f"from {quoted(kind)} order by known_at, {quoted(data.key)}").to_arrow_table()
                for kind in (data.entity, data.label_fact)
            }
    if data.loader is None:
        raise ProjectError(
            f"flow {flow.name}: expected a table `source` or a `loader` in [flows.{flow.name}.data] to take a sample"
            " from, found neither"
        )
    facts = load_facts(flow, home)
    entities = facts[data.entity]
    if entities.num_rows <= rows:
        return facts
    until = entities.column("known_at")[rows].as_py()
    return {kind: _known_by(table, until) for kind, table in facts.items()}


@contextmanager
def tried(flow: Flow, facts: dict[str, pa.Table], *, root: Path, steps: int = 1) -> Iterator[FeatureStore]:
    """Take facts into a store that lasts as long as the context, in `steps` of about equal numbers of requests.

    DuckDB builds the rows whatever the flow's engine: they are the same, and a sample is not worth starting Spark.
    """
    replay = Replay(facts)
    flow = flow.model_copy(update={"data": flow.data.model_copy(update={"engine": "duckdb"})})
    known = facts[flow.data.entity].column("known_at")
    with tempfile.TemporaryDirectory(prefix="modelflow-trial-") as home:
        store = FeatureStore(flow, root=root, home=Path(home))
        with store.session():
            for step in range(1, steps):
                replay.ingest(store.log, known[len(known) * step // steps].as_py())
                store.absorb()
            replay.ingest(store.log, replay.end)
            store.absorb()
        yield store


def require_translation(flow: Flow, facts: dict[str, pa.Table], *, root: Path) -> None:
    """Raise FeatureError where features.sql holds what is not translated for Spark; Spark itself is not needed."""
    import duckdb

    from ml_core.data.spark.engine import described
    from ml_core.data.spark.translate import translate

    tables = {}
    with duckdb.connect() as connection:
        connection.execute("set TimeZone = 'UTC'")
        for kind, table in facts.items():
            connection.register("of_one_kind", table.slice(0, 0))
            tables[kind] = {OFFSET: "BIGINT", **described(connection, "of_one_kind")}
    tables["requests"] = {**tables[flow.data.entity], "request_time": "TIMESTAMP WITH TIME ZONE"}
    file = root / flow.data.features
    translate(file.read_text(encoding="utf-8"), tables, file=str(flow.data.features))


def _known_by(table: pa.Table, until: object) -> pa.Table:
    import pyarrow.compute as pc

    return table.filter(pc.less_equal(table.column("known_at"), pa.scalar(until, table.schema.field("known_at").type)))

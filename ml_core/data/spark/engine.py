"""Building feature rows on Spark: facts out as Parquet, the translated query, rows back as Parquet.

DuckDB stays the store: what a fact is and when it became known (lateness included) is settled there before Spark sees
it, and the rows come back into the table that DuckDB would have made. So examples, order and watermarks know nothing
of the engine. Files live in a folder of their own for one build and are removed with it; on a cluster the folder has
to be one that the driver and every worker see under the same path.
"""

import shutil
import tempfile
from collections.abc import Collection, Mapping
from datetime import datetime
from pathlib import Path

from ml_core.data.spark import session as spark
from ml_core.data.spark.scope import ticked
from ml_core.data.spark.translate import Translation, translation
from ml_core.data.spark.types import TEMPORAL
from ml_core.data.tables import Connection, quoted
from ml_core.errors import FeatureError
from ml_core.project import DataSettings

_ROW_GROUP = 65_536  # so that several executors share one file


class SparkEngine:
    """Makes the table `built` for the requests of a build, as `create temp table built as <features.sql>` does.

    Parameters
    ----------
    directory : Path
        Where the files of a build go.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def __call__(
        self,
        connection: Connection,
        data: DataSettings,
        sql: str,
        *,
        partitions: Collection[str],
        since: datetime | None,
    ) -> None:
        """Run `sql` on Spark over `requests` and the facts of `partitions`.

        Parameters
        ----------
        since : datetime or None
            Facts known by then are too old for any feature of these requests, and are not handed over.

        Raises
        ------
        FeatureError
            The definition is not translated, Spark refused it, or it broke while running.
        """
        names = ["requests", *partitions]
        tables = {name: described(connection, name) for name in names}
        query = translation(sql, tables, file=str(data.features))
        self._directory.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="build-", dir=self._directory)).resolve()
        try:
            folder.chmod(0o777)  # workers may run as another user, and write here
            handed = {}
            for number, name in enumerate(names):  # numbered: a kind of fact may have any name
                reads = query.reads.get(name, ())
                kinds = {column: kind for column, kind in tables[name].items() if column.lower() in reads}
                handed[name] = folder / f"{number}.parquet"
                start = None if name == "requests" else since
                _hand_over(connection, name, kinds or {"known_at": tables[name]["known_at"]}, handed[name], since=start)
            _run(query, handed, folder / "rows", data)
            _taken_back(connection, query, folder / "rows", data)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def described(connection: Connection, table: str) -> dict[str, str]:
    """Return the columns of a relation with DuckDB's types."""
    return {row[0]: row[1] for row in connection.execute(f"describe {quoted(table)}").fetchall()}


def _hand_over(
    connection: Connection, name: str, kinds: Mapping[str, str], file: Path, *, since: datetime | None
) -> None:
    """Write some columns of a relation as one Parquet file, without facts that are too old."""
    recent = "" if since is None else f" where known_at > timestamptz '{since.isoformat()}'"
    times = [quoted(column) for column, kind in kinds.items() if kind in TEMPORAL]
    infinite = " or ".join(f"isinf({column})" for column in times) or "false"
    counted = f"select count(*) from {quoted(name)} where {infinite}"
    if connection.execute(counted).fetchall()[0][0]:
        raise FeatureError(
            f"{name}: expected times that Spark knows, found an infinite one in {', '.join(times)}; write null"
            ' instead, or set engine = "duckdb"'
        )
    columns = ", ".join(
        quoted(column) if kind != "HUGEINT" else f"{quoted(column)}::bigint as {quoted(column)}"
        for column, kind in kinds.items()
    )
    connection.execute(
        f"copy (select {columns} from {quoted(name)}{recent}) to '{_escaped(file)}'"
        f" (format parquet, compression zstd, row_group_size {_ROW_GROUP})"
    )


def _run(query: Translation, handed: Mapping[str, Path], target: Path, data: DataSettings) -> None:
    session = spark.session(data.spark_master, data.spark_settings)
    try:
        for name, file in handed.items():
            session.read.parquet(file.as_uri()).createOrReplaceTempView(ticked(name))
        session.sql(query.sql).write.parquet(target.as_uri())
    except spark.failures() as error:
        raise FeatureError(
            f"{data.features}: Spark at {data.spark_master} refused or broke: {spark.first_line(error)}"
        ) from None  # its own text is the whole query, twice


def _taken_back(connection: Connection, query: Translation, rows: Path, data: DataSettings) -> None:
    """Make `built` of what Spark wrote; its types have to be those DuckDB gives the same text."""
    source = f"read_parquet('{_escaped(rows)}/*.parquet')"
    found = {row[0]: row[1] for row in connection.execute(f"describe from {source}").fetchall()}
    expected = {
        name: kind.replace("HUGEINT", "BIGINT").replace('"NULL"', "INTEGER") for name, kind in query.columns.items()
    }
    if found != expected:
        different = {name: kind for name, kind in found.items() if expected.get(name) != kind}
        raise FeatureError(f'{data.features}: expected of Spark {expected}, found {different}; set engine = "duckdb"')
    columns = ", ".join(
        f"{quoted(name)}::{kind} as {quoted(name)}" if kind == "HUGEINT" else quoted(name)
        for name, kind in query.columns.items()
    )
    connection.execute(f"create or replace temp table built as select {columns} from {source}")


def _escaped(path: Path) -> str:
    return str(path).replace("'", "''")

"""`make bench-registry`: a flow with a version a minute for a month, beside one with a hundred.

A real MLflow server over sqlite. Two packages of the seed pipeline are published as the platform publishes them; the
other versions are copies of the first one's rows, made in SQL with their tags, runs and ledger entries, because
publishing 40,000 takes a day. Then what a flow does all the time is timed at both sizes: a follower's poll, finding the
head, listing, promoting, publishing, telling the history, planning retention; beside MLflow's own calls for the same.
"""

import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from mlflow import MlflowClient

from benchmarks.flights import SCHEMA, wide_flights
from benchmarks.model import FLOW, SEED, free_port, mlflow_server, running, trained
from benchmarks.report import Row, bound, less, write
from ml_core.flow.package import write_package
from ml_core.flow.read import ModelAddress, open_registry
from ml_core.flow.registry import Registry
from ml_core.flow.retention import plan
from ml_core.flow.verdict import Verdict
from ml_core.pipeline.model import PipelineModel
from ml_core.project import load_project

_FEW, _MANY = 100, 40_000
_RUNS = 3
_LONG_AGO_MS = 1_600_000_000_000
_COLUMNS = {"version": 0, "run_id": 1, "last_updated_time": 2}
ACCEPTED = Verdict(accepted=True, policy="non-inferiority", rows=20_000, reasons=(), figures={"log_loss": 0.4})


def rows() -> Iterator[Row]:
    """Measure one registry at both sizes and yield the rows of `var/bench/registry.json`."""
    table = wide_flights(5_000)
    with tempfile.TemporaryDirectory(prefix="bench-registry-") as folder:
        home, port = Path(folder), free_port()
        uri = f"http://127.0.0.1:{port}"
        with running(mlflow_server(home, port), port, "/health", home / "mlflow.log"):
            registry = Registry(uri, ledger_uri=f"sqlite:///{home}/ledger.db")
            packages = Packages(home, trained(SEED, table), table)
            first, second = (packages.publish(registry) for _ in range(2))
            for champion, version in ((None, first), (first, second)):
                registry.promote(FLOW, version, verdict=ACCEPTED, expected_champion=champion)
            timed: list[dict[str, float]] = []
            for size in (_FEW, _MANY):
                _grow(home, size)
                timed.append(_measure(registry, packages, uri))
            yield from _told(*timed)


def _told(few: dict[str, float], many: dict[str, float]) -> Iterator[Row]:
    for name, ours in many.items():
        if not name.startswith("MLflow: "):
            yield bound(f"{name}, {_MANY:,} versions; peer: {_FEW} versions", ours, "ms", None, peer=few[name])
    for name, peer in (
        ("a follower's poll", "MLflow: get_latest_versions(Production)"),
        ("find the head", "MLflow: get_registered_model"),
    ):
        yield less(f"{name}, {_MANY:,} versions; peer: {peer}", many[name], many[peer], "ms")


class Packages:
    """Publishes one package again and again, each time as a child of the champion."""

    def __init__(self, home: Path, model: PipelineModel, table: pa.Table) -> None:
        self._home = home
        (home / "state").mkdir()
        model.save(home / "state")
        golden = table.slice(0, 50).select(list(SCHEMA))
        self._digest = write_package(
            home / "package",
            graph=model.to_onnx(),
            state=home / "state",
            signature=model.signature,
            golden=golden,
            golden_scores=model.predict(golden),
            feature_fingerprint="f" * 64,
        )
        (home / "evaluation").mkdir()
        np.savez(home / "evaluation" / "scored_slice.npz", scores=np.zeros(20_000))

    def publish(self, registry: Registry) -> int:
        """Publish a child of the champion and return its number."""
        champion = registry.head(FLOW)
        tags = {
            "kind": "full" if champion is None else "incremental",
            "parent": "" if champion is None else str(champion.version),
            "watermark": '{"examples": 1000}',
            "trained_through": "2013-09-01T00:00:00+00:00",
            "feature_fingerprint": "f" * 64,
            "manifest_sha256": self._digest,
            "metrics": "{}",
        }
        made = registry.publish(
            FLOW, self._home / "package", tags=tags, metrics={}, evaluation=self._home / "evaluation"
        )
        return made.version


def _grow(home: Path, size: int) -> None:
    """Copy version 1, archived, until the flow has `size` versions; give each its promotion in the ledger."""
    with closing(sqlite3.connect(home / "mlflow.db", timeout=60)) as database, database:
        have = database.execute("select max(version) from model_versions where name = ?", [FLOW]).fetchone()[0]
        numbers = [(number, f"{number:032x}", _LONG_AGO_MS + number) for number in range(have + 1, size + 1)]
        _copy(database, "model_versions", {"name": FLOW, "version": 1}, numbers, _COLUMNS)
        _copy(database, "model_version_tags", {"name": FLOW, "version": 1}, numbers, {"version": 0})
        lineage = "update model_version_tags set value = {} where key = ? and version > ?"
        database.execute(lineage.format("cast(version - 1 as text)"), ["parent", have])
        database.execute(lineage.format("json_object('examples', 1000 * version)"), ["watermark", have])
        run = database.execute("select run_id from model_versions where name = ? and version = 1", [FLOW]).fetchone()[0]
        _copy(database, "runs", {"run_uuid": run}, numbers, {"run_uuid": 1})
    with closing(sqlite3.connect(home / "ledger.db", timeout=60)) as database, database:
        (table,) = database.execute("select name from sqlite_master where type = 'table'").fetchone()
        last = database.execute(f"select max(entry) from {table}").fetchone()[0]  # noqa: S608 - our own table
        entries = [(number, number) for number in range(last + 1, size + 1)]
        _copy(database, table, {"flow": FLOW, "entry": last}, entries, {"entry": 0})


def _copy(
    database: sqlite3.Connection,
    table: str,
    which: dict[str, Any],
    values: list[tuple[Any, ...]],
    changed: dict[str, int],
) -> None:
    """Insert the rows that `which` names once per entry of `values`, `changed` columns by their place in the entry."""
    wanted = " and ".join(f"{name} = {value!r}" for name, value in which.items())
    found = database.execute(f"select * from {table} where {wanted}")  # noqa: S608 - our own names
    names = [column[0] for column in found.description]
    copies = (
        [each[changed[name]] if name in changed else value for name, value in zip(names, row, strict=True)]
        for row in found.fetchall()
        for each in values
    )
    places = ", ".join("?" * len(names))
    database.executemany(f"insert into {table} values ({places})", copies)  # noqa: S608 - the table is ours or MLflow's


def _measure(registry: Registry, packages: Packages, uri: str) -> dict[str, float]:
    """Return the median milliseconds of each operation."""
    reader, client = open_registry(uri), MlflowClient(uri, uri)
    address = ModelAddress.parse(f"models:/{FLOW}/Production")
    flow = next(iter(load_project().flows.values())).model_copy(update={"name": FLOW})
    later = datetime.now(UTC) + timedelta(days=365)

    def promote() -> None:
        champion = registry.ledger.last(FLOW).champion
        registry.promote(FLOW, next(waiting), verdict=ACCEPTED, expected_champion=champion)

    timed = {"publish": _median(lambda: packages.publish(registry))}
    waiting = iter([packages.publish(registry) for _ in range(_RUNS)])
    timed["promote"] = _median(promote)
    timed["a follower's poll"] = _median(lambda: reader.resolve(address))
    timed["find the head"] = _median(lambda: registry.head(FLOW))
    timed["versions that wait to be judged"] = _median(lambda: registry.pending(FLOW))
    timed["reconcile with what people moved"] = _median(lambda: registry.reconcile(FLOW))
    timed["list the 50 newest versions"] = _median(lambda: registry.versions(FLOW, newest=50))
    timed["what served at a time"] = _median(lambda: registry.ledger.at(FLOW, later))
    timed["the ledger's 50 newest entries"] = _median(lambda: registry.ledger.entries(FLOW, limit=50))
    timed["list all and plan retention (a dry run)"] = _median(
        lambda: plan(flow, registry.versions(FLOW), registry.ledger.last(FLOW), now=later)
    )
    timed["MLflow: get_latest_versions(Production)"] = _median(
        lambda: client.get_latest_versions(FLOW, stages=["Production"])
    )
    timed["MLflow: get_registered_model"] = _median(lambda: client.get_registered_model(FLOW))
    reader.close()
    return timed


def _median(call: Callable[[], object]) -> float:
    seconds = []
    for _ in range(_RUNS):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds) * 1e3


if __name__ == "__main__":
    write("registry", list(rows()))

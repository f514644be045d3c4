"""`make bench-capacity`: what rows, columns and flows cost, each point in a process of its own.

Rows and columns: a flow of orders, its facts made up, of one string column and so many number columns; the facts are
absorbed (features built, labels joined) and learned once in a full training. Flows: so many of them in one project,
and what Dagster needs to load them all. Seconds are of the wall, and memory is the most that the process held.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.report import Row, bound, write

_ROWS, _COLUMNS = (300_000, 1_000_000, 3_000_000, 10_000_000), (5, 20, 80)
_FEW_ROWS, _FEW_COLUMNS = 300_000, 5
_FLOWS = (1, 10, 50)
_START = datetime(2024, 5, 1, tzinfo=UTC)
_DAYS = 100
_SEGMENT_ROWS = 500_000
_LONGEST_S = 1_800
_FLOW = """
[flows.{name}]
description = "Made up to be measured"
owners = ["team:bench"]

[flows.{name}.data]
features = "features.sql"
entity = "ordered"
key = "order_id"
request_time = "asked_at"
label_fact = "arrived"
label = "late"
lookback = "2 days"
label_window = "3 days"
starts = 2024-05-01
ends = 2025-05-01

[flows.{name}.pipeline]
stages = [{{ stage = "hash", columns = ["shop"], bits = 18 }}, {{ stage = "standardise", columns = {numbers} }}]
estimator = {{ name = "FTRLClassifier", alpha = 0.5 }}
"""


def rows() -> Iterator[Row]:
    """Measure every point and yield the rows of `var/bench/capacity.json`."""
    points = [("rows", count, _FEW_COLUMNS) for count in _ROWS]
    points += [("columns", _FEW_ROWS, count) for count in _COLUMNS if count != _FEW_COLUMNS]
    for kind, count, columns in points:
        told = _point("data", count, columns)
        name = f"{count:,} rows of {columns + 1} columns" if kind == "columns" else f"{count:,} rows"
        yield bound(f"{name}: absorb, build features, join labels", told["absorb_s"], "s", None)
        yield bound(f"{name}: memory of that", told["absorb_mib"], "MiB", None)
        yield bound(f"{name}: full training", told["train_s"], "s", None)
        yield bound(f"{name}: memory of both", told["train_mib"], "MiB", None)
        yield bound(f"{name}: on disk, log and store", told["disk_mib"], "MiB", None)
    for count in _FLOWS:
        told = _point("flows", count, 0)
        yield bound(f"{count} flows: Dagster's definitions are loaded", told["load_s"], "s", None)
        yield bound(f"{count} flows: memory of a process that holds them", told["mib"], "MiB", None)


def _point(kind: str, count: int, columns: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.capacity", kind, str(count), str(columns)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_LONGEST_S)
    if ran.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{ran.stderr[-2000:]}")
    told: dict[str, float] = json.loads(ran.stdout.splitlines()[-1])
    return told


def _data(count: int, columns: int) -> dict[str, float]:
    from ml_core.data import FeatureStore
    from ml_core.flow.registry import registry_of
    from ml_core.project import load_project
    from ml_core.training import train_full

    numbers = [f"n{number}" for number in range(columns)]
    with tempfile.TemporaryDirectory(prefix="bench-capacity-") as folder:
        root = Path(folder)
        (root / "dagster_project.toml").write_text(_FLOW.format(name="orders", numbers=json.dumps(numbers)), "utf-8")
        selected = ", ".join(f"o.{name}::float as {name}" for name in numbers)
        sql = f"select o.order_id as key, o.request_time, o.shop, {selected} from requests o"  # noqa: S608 - our names
        (root / "features.sql").write_text(sql, "utf-8")
        project = load_project(root, environment={"MODELFLOW_HOME": str(root / "home")})
        flow = project.flow("orders")
        store = FeatureStore(flow, root=project.root, home=project.home)
        registry = registry_of(project)
        registry.versions("orders")  # MLflow makes its database now
        parts = -(-count // _SEGMENT_ROWS)
        for part in range(parts):
            for kind, facts in _facts(part, parts, count, numbers).items():
                store.log.append(kind, facts, through=_START + timedelta(days=_DAYS * (part + 1) / parts))
        started = time.perf_counter()
        store.absorb()
        told = {"absorb_s": time.perf_counter() - started, "absorb_mib": _peak_mib()}
        started = time.perf_counter()
        train_full(flow, store, registry)
        told |= {"train_s": time.perf_counter() - started, "train_mib": _peak_mib()}
        size = sum(file.stat().st_size for file in (root / "home").rglob("*") if file.is_file())
        return told | {"disk_mib": size / 2**20}


def _facts(part: int, parts: int, count: int, numbers: list[str]) -> dict[str, pa.Table]:
    """Return one part of the facts of both kinds, in order of time."""
    random = np.random.default_rng(part)
    size = min(_SEGMENT_ROWS, count - part * _SEGMENT_ROWS)
    span = timedelta(days=_DAYS) / parts
    begins = int((_START + part * span).timestamp() * 1e6)
    asked = begins + np.sort(random.integers(1, int(span.total_seconds() * 1e6 * 0.9), size))
    instants = {"asked": pa.array(asked, pa.timestamp("us", tz="UTC"))}
    instants["known"] = pa.array(asked + 60_000_000, pa.timestamp("us", tz="UTC"))
    keys = pa.array(np.char.add(f"{part}-", np.arange(size).astype(str)))
    shops = pa.array(np.char.add("shop ", random.zipf(1.3, size).clip(max=50_000).astype(str)))
    values = {name: pa.array(random.standard_normal(size).astype(np.float32)) for name in numbers}
    first = values[numbers[0]].to_numpy()
    late = pa.array(random.random(size) < 1 / (1 + np.exp(1 - first)))
    ordered = {"event_time": instants["asked"], "known_at": instants["asked"], "asked_at": instants["asked"]}
    arrived = {"event_time": instants["known"], "known_at": instants["known"], "order_id": keys, "late": late}
    return {
        "ordered": pa.table(ordered | {"order_id": keys, "shop": shops} | values),
        "arrived": pa.table(arrived),
    }


def _flows(count: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="bench-capacity-") as folder:
        root = Path(folder)
        project = "\n".join(_FLOW.format(name=f"orders_{number}", numbers='["days"]') for number in range(count))
        (root / "dagster_project.toml").write_text(project, "utf-8")
        (root / "features.sql").write_text("select o.order_id as key from requests o", "utf-8")
        started = time.perf_counter()
        from ml_core.project import load_project
        from orchestration.definitions import build_definitions

        loaded = load_project(root, environment={"MODELFLOW_HOME": str(root / "home")})
        build_definitions(loaded).get_repository_def()
        return {"load_s": time.perf_counter() - started, "mib": _peak_mib()}


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _told(kind: str, count: int, columns: int) -> dict[str, Any]:
    return _data(count, columns) if kind == "data" else _flows(count)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(_told(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
    else:
        write("capacity", list(rows()))

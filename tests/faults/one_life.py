"""A small flow's life in a process of its own, told as JSON: `python -m tests.faults.one_life <folder>`.

A table of orders with local times and names beyond ASCII is taken in from CSV on two days; features are built, a full
and an incremental version are trained, judged and published, and the model card is written. What it prints holds
nothing of when or where it ran, so two lives that were given the same have to print the same.
"""

import hashlib
import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ml_core.data import FeatureStore
from ml_core.data.ingest import take_in
from ml_core.flow.package import STATE
from ml_core.flow.registry import registry_of
from ml_core.pipeline import PipelineModel
from ml_core.project import Project, load_project
from ml_core.training import judge_and_promote, train_full, train_increment

FLOW = "orders"
START = datetime(2024, 3, 29)  # noqa: DTZ001 - local times, over the night the clocks of Berlin go forward
ROWS_A_DAY = 150
PROJECT = """
[flows.orders]
description = "Will an order arrive late?"
owners = ["team:shop"]

[flows.orders.data]
features = "features.sql"
entity = "requested"
key = "id"
request_time = "when"
label_fact = "outcome"
label = "late"
lookback = "2 days"
label_window = "3 days"
starts = 2024-03-28

[flows.orders.data.source]
path = "orders.csv"
event_time = "when"
time_format = "%d.%m.%Y %H:%M"
time_zone = "Europe/Berlin"
key = "id"
label = "late"
classes = ["no", "yes"]
label_delay = "2 hours"
delimiter = ";"
decimal = ","
columns = { shop = "text", days = "number" }

[flows.orders.pipeline]
stages = [{ stage = "hash", columns = ["shop", "weekday"], bits = 10 }, { stage = "standardise", columns = ["days", "hour", "recent"] }]
estimator = { name = "FTRLClassifier", alpha = 0.5 }

[flows.orders.incremental_training]
min_rows = 50

[flows.orders.gate]
min_rows = 50
non_inferiority_margin = 0.5
first_max_normalised_entropy = 2.0
max_calibration_error = 0.9
"""  # noqa: E501 - a line of TOML
FEATURES = """
select r.id as key, r.request_time, r.shop, r.days::float as days,
       hour(r.request_time)::float as hour, dayname(r.request_time) as weekday,
       (select avg(o.late::integer) from outcome o join requested q on q.id = o.id
        where q.shop = r.shop and o.known_at <= r.request_time
          and o.known_at > r.request_time - interval 1 day)::float as recent
from requests r
"""


def main() -> None:
    """Live, and print what became of it."""
    folder = Path(sys.argv[1])
    project = project_at(folder)
    told = {}
    for days in (2, 4):
        write_orders(folder, days)
        told[f"after {days} days"] = live(project, datetime(2024, 6, 1, tzinfo=UTC))
    sys.stdout.write(json.dumps(told, sort_keys=True) + "\n")


def project_at(folder: Path, home: Path | None = None) -> Project:
    """Write the project into a folder and read it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dagster_project.toml").write_text(PROJECT, encoding="utf-8")
    (folder / "features.sql").write_text(FEATURES, encoding="utf-8")
    return load_project(folder, environment={"MODELFLOW_HOME": str(home or folder / "home")})


def write_orders(folder: Path, days: int) -> None:
    """Write the orders of so many days, the earlier ones among them."""
    lines = ["id;when;shop;days;late"]
    for day in range(days):
        random = np.random.default_rng(day)
        for number, minute in enumerate(np.sort(random.integers(0, 1_439, ROWS_A_DAY))):
            when = START + timedelta(days=day, minutes=int(minute))
            shop = ("Zürich", "İzmir", "北京", "apia")[int(random.integers(4))]
            days_open = f"{random.normal():.3f}".replace(".", ",")
            late = "yes" if random.random() < (0.8 if shop == "İzmir" else 0.2) else "no"
            lines.append(f"{day}-{number};{when:%d.%m.%Y %H:%M};{shop};{days_open};{late}")
    (folder / "orders.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def live(project: Project, now: datetime) -> dict[str, Any]:
    """Take in what there is, learn it, publish, and tell of it; what was done already is gone over."""
    flow, registry = project.flow(FLOW), registry_of(project)
    store = FeatureStore(flow, root=project.root, home=project.home)
    take_in(flow, store, root=project.root, now=now)
    store.absorb()
    trained = train_increment(flow, store, registry) if registry.head(FLOW) else train_full(flow, store, registry)
    if trained is not None:
        judge_and_promote(flow, registry, trained)
    return standing(project)


def standing(project: Project) -> dict[str, Any]:
    """Return what a flow came to, without when and where."""
    flow, registry = project.flow(FLOW), registry_of(project)
    store = FeatureStore(flow, root=project.root, home=project.home)
    head = registry.head(FLOW)
    if head is None:
        raise SystemExit("expected a version that was promoted, found none")
    with registry.proved(head) as package:
        state = PipelineModel.load(package.directory / STATE, flow.pipeline).state_digest()
    features = store.feature_rows(datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC))
    verdict = head.verdict
    figures = {} if verdict is None else {k: v for k, v in verdict.figures.items() if not k.startswith("latency")}
    return {
        "version": head.version,
        "watermark": head.watermark,
        "manifest": head.manifest_sha256,
        "state": state,
        "trained_through": head.trained_through.isoformat(),
        "metrics": {name: value for name, value in head.metrics.items() if not name.startswith("latency")},
        "features": _digest(features),
        "examples": _digest(store.examples(0, 100_000)),
        "verdict": figures,
        "rows": features.num_rows,
        "segments": [segment.path.name for segment in store.log.newest()],
    }


def _digest(table: pa.Table) -> str:
    content = {name: table.column(name).to_pylist() for name in table.column_names}
    return hashlib.sha256(f"{table.schema.names} {content}".encode()).hexdigest()


if __name__ == "__main__":
    main()

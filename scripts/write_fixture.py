"""Write what this release writes, once for each release: `python -m scripts.write_fixture` fills `tests/upgrade/`.

A tiny flow lives for two days; then its backup (packages, trainer's state, ledger, feature store, event log), the
records of a model topic, and the facts of a third day are packed into `tests/upgrade/format-<number>/state.tar.xz`.
Beside it, `expected.json` tells where the flow stands and what the next increment makes of the third day.
`tests/upgrade/test_formats.py` holds every later release against every folder that is there; none is ever written anew.
"""

import base64
import json
import sys
import tarfile
import tempfile
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ml_core.data import FeatureStore
from ml_core.flow.backup import take
from ml_core.flow.backup.taking import place_of
from ml_core.flow.package import GRAPH, STATE
from ml_core.flow.registry import registry_of
from ml_core.flow.topic import ModelWriter
from ml_core.pipeline import PipelineModel
from ml_core.project import Project, load_project
from ml_core.training import judge_and_promote, train_full, train_increment

UPGRADE = Path(__file__).resolve().parent.parent / "tests" / "upgrade"
FLOW = "orders"
START = datetime(2024, 5, 1, tzinfo=UTC)
DAYS = 2
_INSTANT = pa.timestamp("us", tz="UTC")
_PROJECT = """
[flows.orders]
description = "Will an order arrive late?"
owners = ["team:shop"]

[flows.orders.data]
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

[flows.orders.pipeline]
stages = [{ stage = "hash", columns = ["shop"], bits = 8 }, { stage = "standardise", columns = ["recent"] }]
estimator = { name = "FTRLClassifier", alpha = 0.5 }

[flows.orders.incremental_training]
min_rows = 100

[flows.orders.gate]
min_rows = 100
non_inferiority_margin = 0.5
first_max_normalised_entropy = 2.0
max_calibration_error = 0.9
"""
_FEATURES = """
select o.order_id as key, o.request_time, o.shop,
       (select avg(a.late::integer) from arrived a
        where a.shop = o.shop and a.known_at <= o.request_time
          and a.known_at > o.request_time - interval 1 day)::float as recent
from requests o
"""


def main() -> None:
    """Write the folder of the number that is given; refuse to write one anew."""
    folder = UPGRADE / f"format-{sys.argv[1] if len(sys.argv) > 1 else 1}"
    if folder.exists():
        raise SystemExit(f"{folder}: expected nothing there, found what a release wrote; name the next number")
    with tempfile.TemporaryDirectory(prefix="write-fixture-") as scratch:
        place = Path(scratch)
        expected = written(place / "state", place / "home")
        folder.mkdir(parents=True)
        with tarfile.open(folder / "state.tar.xz", "w:xz") as packed:
            for each in sorted((place / "state").iterdir()):
                packed.add(each, each.name, filter=_anonymous)
    (folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n", encoding="utf-8")
    print(f"{folder}: {sum(file.stat().st_size for file in folder.iterdir()) / 1024:.0f} KiB")


def written(state: Path, home: Path) -> dict[str, Any]:
    """Let the flow live at `home`, put everything it left into `state`, and return what to expect of it."""
    (state / "project").mkdir(parents=True)
    (state / "project" / "dagster_project.toml").write_text(_PROJECT, encoding="utf-8")
    (state / "project" / "features.sql").write_text(_FEATURES, encoding="utf-8")
    project = load_project(state / "project", environment={"MODELFLOW_HOME": str(home)})
    store = store_of(project)
    for day in range(DAYS):
        live(project, day, day_of_orders(day))
    (state / "next").mkdir()
    for kind, facts in day_of_orders(DAYS).items():
        pq.write_table(facts, state / "next" / f"{kind}.parquet")
    expected = {"release": version("modelflow"), "day": DAYS, "before": standing(project)}
    expected["predictions"] = predictions(project)
    expected["examples"] = store.examples(0, 10_000).select(["offset", "key", "label"]).slice(0, 20).to_pydict()
    (state / "topic.json").write_text(json.dumps(topic(project)), encoding="utf-8")
    take(project, state / "backup", place_of(project))
    live(project, DAYS, {kind: pq.read_table(state / "next" / f"{kind}.parquet") for kind in ("ordered", "arrived")})
    expected["after"] = standing(project)
    return expected


def store_of(project: Project) -> FeatureStore:
    """Return the flow's feature store."""
    return FeatureStore(project.flow(FLOW), root=project.root, home=project.home)


def live(project: Project, day: int, facts: dict[str, pa.Table]) -> None:
    """Take in a day's facts, train, and promote what came of it."""
    flow, store, registry = project.flow(FLOW), store_of(project), registry_of(project)
    for kind, table in facts.items():
        store.log.append(kind, table, through=START + timedelta(days=day + 1))
    store.absorb()
    trained = train_increment(flow, store, registry) if day else train_full(flow, store, registry)
    if trained is None:
        raise SystemExit(f"day {day}: expected a version, found nothing to learn")
    judge_and_promote(flow, registry, trained)


def standing(project: Project) -> dict[str, Any]:
    """Return where the flow stands: its head, what that has learned, and every bit of its trainer's state."""
    registry, progress = registry_of(project), store_of(project).progress()
    head = registry.head(FLOW)
    if head is None:
        raise SystemExit("expected a head, found no version that was promoted")
    with registry.proved(head) as package:
        model = PipelineModel.load(package.directory / STATE, project.flow(FLOW).pipeline)
    return {
        "head": head.version,
        "watermark": head.watermark,
        "state_digest": model.state_digest(),
        "next_example": progress.next_example,
        "offsets": dict(progress.offsets or {}),
        "ledger": [[entry.kind, entry.version, entry.champion] for entry in registry.ledger.entries(FLOW)],
        "segments": [segment.path.name for segment in store_of(project).log.newest()],
    }


def predictions(project: Project) -> dict[str, Any]:
    """Return rows as callers send them, and what the served version says of them."""
    rows = [{"shop": shop, "recent": recent} for shop in ("north", "south", "", None) for recent in (0.25, 0.5, None)]
    registry = registry_of(project)
    head = registry.head(FLOW)
    if head is None:
        raise SystemExit("expected a head, found no version that was promoted")
    with registry.proved(head) as package:
        feed = {
            "shop": np.array([row["shop"] or "" for row in rows], object),
            "recent": np.array([np.nan if row["recent"] is None else row["recent"] for row in rows], np.float32),
        }
        return {"rows": rows, "scores": package.score(feed).astype(float).tolist()}


def topic(project: Project) -> list[dict[str, Any]]:
    """Return the records of a model topic: both versions, a snapshot and what changed since."""
    registry, writer = registry_of(project), ModelWriter(snapshot_every=10)
    records = []
    for number in range(1, DAYS + 1):
        with registry.proved(registry.version(FLOW, number)) as package:
            graph = (package.directory / GRAPH).read_bytes()
        described = {"flow": FLOW, "version": number, "watermark": number}
        for chunk in writer.write(graph, described=described, golden_scores=[number / 10]):
            headers = {name: value.decode() for name, value in chunk.headers}
            told = {"key": chunk.key.decode(), "value": base64.b64encode(chunk.value).decode(), "headers": headers}
            records.append(told)
    return records


def day_of_orders(day: int, rows: int = 200) -> dict[str, pa.Table]:
    """Return the facts of one day: one shop is late more often, every label comes two hours after its order."""
    random = np.random.default_rng(day)
    begins = START + timedelta(days=day)
    asked = [begins + timedelta(minutes=int(minute)) for minute in np.sort(random.integers(0, 1_000, rows))]
    shops = random.choice(["north", "south"], rows)
    late = random.random(rows) < np.where(shops == "north", 0.8, 0.1)
    arrived = pa.array([instant + timedelta(hours=2) for instant in asked], _INSTANT)
    ordered = pa.array(asked, _INSTANT)
    own = {"order_id": pa.array([f"{day}-{number}" for number in range(rows)]), "shop": pa.array(shops)}
    return {
        "ordered": pa.table({"event_time": ordered, "known_at": ordered, "asked_at": ordered} | own),
        "arrived": pa.table({"event_time": arrived, "known_at": arrived} | own | {"late": pa.array(late)}),
    }


def _anonymous(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = info.mtime = 0
    info.uname = info.gname = ""
    return info


if __name__ == "__main__":
    main()

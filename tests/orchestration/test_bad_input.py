"""Bad input at noon: the run fails and says which flow, what, where and what to do; the served model stays."""

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest

from ml_core.flow.registry import registry_of
from ml_core.project import load_project
from tests.orchestration.conftest import World

PROJECT = """
[flows.orders.data]
features = "features.sql"
entity = "requested"
key = "id"
request_time = "when"
label_fact = "outcome"
label = "late"
lookback = "1 day"
label_window = "3 days"
starts = 2024-05-01

[flows.orders.data.source]
path = "orders.csv"
event_time = "when"
key = "id"
label = "late"
label_delay = "2 hours"
delimiter = ";"
columns = { shop = "text", days = "number" }

[flows.orders.pipeline]
stages = [{ stage = "hash", columns = ["shop"], bits = 8 }]
estimator = { name = "FTRLClassifier", alpha = 0.5 }

[flows.orders.gate]
min_rows = 100
"""
FEATURES = "select id as key, request_time, shop, days::float as days from requests"
START = datetime(2024, 5, 1, tzinfo=UTC)


def row(number: int, when: datetime, late: int) -> str:
    return f"{number};{when:%Y-%m-%d %H:%M:%S};{'north' if late else 'south'};{number % 7};{late}\n"


ROWS = "id;when;shop;days;late\n" + "".join(
    row(number, START + timedelta(minutes=20 * number), number % 3 == 0) for number in range(400)
)
LAST = START + timedelta(minutes=20 * 400)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Return a world whose first version is served."""
    root = tmp_path_factory.mktemp("project")
    for name, text in {"dagster_project.toml": PROJECT, "features.sql": FEATURES, "orders.csv": ROWS}.items():
        (root / name).write_text(text, encoding="utf-8")
    with dg.DagsterInstance.ephemeral() as instance, pytest.MonkeyPatch.context() as patch:
        world = World(load_project(root, environment={}), instance, patch)
        assert world.run("take_in").success
        assert world.run("full_training").success
        yield world


CASES = {
    "empty file": ("take_in", "orders.csv", (ROWS, ""), ["orders.csv"]),
    "renamed column": ("take_in", "orders.csv", (";shop;", ";store;"), ["'shop'"]),
    "label column": ("take_in", "dagster_project.toml", ('label = "late"\nlabel_d', 'label = "lat"\nlabel_d'), ["lat"]),
    "future": ("take_in", "orders.csv", ("7;2024", "7;2124"), ["expected times up to now", "time_format"]),
    "text": ("take_in", "orders.csv", (";north;0;", ";north;none;"), ["expected a finite number", "days", "line"]),
    "sql": ("full_training", "features.sql", ("select id", "selec id"), ["features.sql, line 1"]),
    "no such column": ("full_training", "features.sql", ("days::", "hours::"), ["features.sql, line 1", "hours"]),
    "stage": ("full_training", "features.sql", ("shop, ", "shop as store, "), ["shop"]),
}


@pytest.mark.parametrize("case", CASES)
def test_a_run_that_cannot_go_on_says_why_and_the_served_model_stays(served: World, case: str) -> None:
    job, file, (old, new), says = CASES[case]
    place = served.project.root / file
    kept = place.with_suffix(".kept")
    shutil.copy(place, kept)
    before = registry_of(served.project).head("orders")
    try:
        text = place.read_text(encoding="utf-8")
        assert old in text
        place.write_text(text.replace(old, new, 1), encoding="utf-8")
        world = World(load_project(served.project.root, environment={}), served.instance, served.monkeypatch)
        result = world.run(job, raise_on_error=False)
    finally:
        shutil.move(kept, place)
    assert not result.success
    messages = _reasons(result)
    assert all(part in messages for part in ["orders", *says]), messages
    assert registry_of(served.project).head("orders") == before


def test_a_day_without_rows_and_a_day_of_one_class_are_days_like_others(served: World) -> None:
    """A holiday is no failure; what is wrong with a model that learned it, the gate finds."""
    day = (LAST + timedelta(days=2)).replace(hour=0, minute=0)
    more = "".join(row(1_000 + number, day + timedelta(minutes=10 * number), 1) for number in range(144))
    (served.project.root / "orders.csv").write_text(ROWS + more, encoding="utf-8")
    assert served.run("take_in").success
    empty = (LAST + timedelta(days=1)).date().isoformat()
    tags = {f"dagster/asset_partition_range_{bound}": empty for bound in ("start", "end")}
    assert served.run("ingest", tags).success
    before = registry_of(served.project).head("orders")
    assert served.run("incremental_training").success
    newest = registry_of(served.project).versions("orders")[-1]
    head = registry_of(served.project).head("orders")
    assert newest.verdict is not None
    assert head is not None
    assert (head == before) is not newest.verdict.accepted


def _reasons(result: dg.ExecuteInProcessResult) -> str:
    failures = [event for event in result.all_events if event.is_step_failure]
    found = []
    for event in failures:
        data = event.step_failure_data
        found.append(str(data.user_failure_data.description if data.user_failure_data else data.error))
    return "\n".join(found)

"""features.sql in Spark's words: what is translated, and what is refused by name. No Spark runs here."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ml_core.data import FeatureStore
from ml_core.data.replay import load_facts
from ml_core.data.spark import rules
from ml_core.data.spark.session import session
from ml_core.data.spark.translate import translate, translation
from ml_core.data.trial import require_translation
from ml_core.errors import FeatureError, ProjectError
from ml_core.project import Project, load_project
from ml_core.training.trying import try_flow
from tests.data.conftest import arrived, ordered, orders_flow
from tests.data.spark import cases

ROOT = Path(__file__).resolve().parents[3]
FLOWS = [
    pytest.param(ROOT, "flight_delays", id="flight_delays"),
    pytest.param(ROOT / "examples", "flight_outcomes", id="flight_outcomes", marks=pytest.mark.slow),  # a year again
    pytest.param(ROOT / "examples", "temperature", id="temperature"),
]


@pytest.mark.parametrize("name", cases.TRANSLATED)
def test_every_construct_of_the_table_is_translated(name: str) -> None:
    """The slow tests run each on Spark; here a mistake shows in milliseconds."""
    made = translation(cases.TRANSLATED[name], cases.TABLES)
    assert made.sql.startswith(("select", "with", "("))
    assert set(made.reads) <= set(cases.TABLES)


def test_no_rule_is_without_a_case(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule that nothing compares with DuckDB is a guess."""
    used: set[object] = set()

    class Noted(dict[Any, Any]):
        def get(self, key: Any, default: Any = None) -> Any:
            used.add(key)
            return super().get(key, default)

        def __getitem__(self, key: Any) -> Any:
            used.add(key)
            return super().__getitem__(key)

    tables = {name: Noted(getattr(rules, name)) for name in ("RULES", "CALLS", "AGGREGATES", "WINDOWS")}
    for name, table in tables.items():
        for module in ("writer", "aggregates"):
            if hasattr(sys.modules[f"ml_core.data.spark.{module}"], name):
                monkeypatch.setattr(f"ml_core.data.spark.{module}.{name}", table)
    for sql in cases.TRANSLATED.values():
        translate(sql, cases.TABLES)
    unused = {str(kind) for table in tables.values() for kind in table} - set(map(str, used))
    assert unused == set()


@pytest.mark.parametrize("name", cases.REFUSED)
def test_what_is_not_in_the_table_is_refused_by_its_name(name: str) -> None:
    """Spark would run most of these, and give something else or something that depends on the order of rows."""
    sql, words = cases.REFUSED[name]
    with cases.edges() as connection:
        connection.execute(f"explain {sql}")
    with pytest.raises(FeatureError, match="is not translated for Spark") as refusal:
        translate(sql, cases.TABLES, file="flows/mine/features.sql")
    assert words in str(refusal.value)
    assert str(refusal.value).startswith("flows/mine/features.sql")
    assert 'engine = "duckdb"' in str(refusal.value)


def test_a_refusal_says_the_line() -> None:
    """Definitions have a hundred lines."""
    sql = "select id,\n    n + 1 as more,\n    upper(s) as loud\nfrom readings"
    with pytest.raises(FeatureError, match=r"features\.sql, line 3: upper is not translated"):
        translate(sql, cases.TABLES)


def test_what_duckdb_refuses_is_refused_in_its_words() -> None:
    """One definition, one set of errors."""
    with pytest.raises(FeatureError, match=r"features\.sql, line 2: Binder Error.*nothing"):
        translate("select id,\n nothing from readings", cases.TABLES)


def test_only_the_columns_that_are_read_are_handed_over() -> None:
    """Facts are wide, and every column of theirs is written, sent and read."""
    made = translation(
        "select r.id, o.v from readings r asof join others o on r.k = o.k and r.seen >= o.seen", cases.TABLES
    )
    assert made.reads == {"readings": ("id", "k", "seen"), "others": ("k", "seen", "v")}


def test_names_keep_their_letters() -> None:
    """A model asks for its features by name."""
    assert list(translation('select id as "Number", k as "a b" from readings', cases.TABLES).columns) == [
        "Number",
        "a b",
    ]


@pytest.mark.parametrize(("root", "name"), FLOWS)
def test_the_definitions_of_the_project_are_translated(
    root: Path, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are what the platform shows, and hold what people write."""
    monkeypatch.syspath_prepend(str(ROOT))
    flow = load_project(root).flow(name)
    require_translation(flow, load_facts(flow, tmp_path), root=root)


def project(folder: Path, engine: str, features: str) -> Project:
    """Return a project of one flow from a table."""
    rows = ["shop,asked,late"] + [f"s{i % 3},2024-05-{1 + i // 24:02d} {i % 24:02d}:00,{i % 2}" for i in range(200)]
    (folder / "orders.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    (folder / "features.sql").write_text(features, encoding="utf-8")
    (folder / "dagster_project.toml").write_text(
        f"""
        [flows.orders.data]
        engine = "{engine}"
        features = "features.sql"
        entity = "requested"
        key = "row"
        request_time = "asked"
        label_fact = "outcome"
        label = "late"
        lookback = "1 day"
        label_window = "1 day"
        starts = 2024-05-01
        [flows.orders.data.source]
        path = "orders.csv"
        event_time = "asked"
        label = "late"
        columns = {{ shop = "text" }}
        [flows.orders.pipeline]
        stages = [{{ stage = "hash", columns = ["shop"] }}]
        estimator = {{ name = "FTRLClassifier" }}
        """,
        encoding="utf-8",
    )
    return load_project(folder)


def test_check_refuses_what_is_not_translated(tmp_path: Path) -> None:
    """The first night on the cluster is too late to learn it."""
    features = 'select r."row" as key, r.request_time, upper(r.shop) as shop from requests r'
    found = project(tmp_path, "spark", features)
    with pytest.raises(FeatureError, match=r"features\.sql, line 1: upper is not translated for Spark"):
        list(try_flow(found, found.flow("orders")))


def test_check_says_that_a_definition_is_translated_without_spark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever writes features has no Java on their machine."""
    monkeypatch.setitem(sys.modules, "pyspark", None)
    found = project(tmp_path, "spark", 'select r."row" as key, r.request_time, r.shop from requests r')
    steps = {}
    try:
        for step in try_flow(found, found.flow("orders")):
            steps[step.name] = step.found
    finally:
        assert "is translated whole" in steps.get("spark", json.dumps(steps))
    assert "features" in steps


def test_a_missing_pyspark_is_said_with_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no part of the locked environment."""
    for module in ("pyspark", "pyspark.errors", "pyspark.sql"):
        monkeypatch.setitem(sys.modules, module, None)
    (tmp_path / "features.sql").write_text("select order_id as key, request_time, shop from requests", encoding="utf-8")
    orders = orders_flow()
    flow = orders.model_copy(update={"data": orders.data.model_copy(update={"engine": "spark"})})
    store = FeatureStore(flow, root=tmp_path, home=tmp_path)
    facts: dict[str, pa.Table] = {"ordered": ordered(("o1", "s", 0, 0)), "arrived": arrived(("o1", "s", 1, 5))}
    for kind, table in facts.items():
        store.log.append(kind, table, through=table.column("known_at")[0].as_py())
    with pytest.raises(ProjectError, match=r"found no pyspark; install it with `make spark`"):
        store.absorb()
    assert store.progress().clock is None
    assert list((tmp_path / "flows" / "orders" / "spark").iterdir()) == []


def test_settings_that_would_change_the_meaning_are_refused() -> None:
    """Another zone, and every hour of the day is another."""
    with pytest.raises(ProjectError, match=r"spark_settings.*spark\.sql\.session\.timeZone"):
        session("local[1]", {"spark.sql.session.timeZone": "Europe/Berlin"})


def test_the_guide_lists_what_is_translated() -> None:
    """People look up whether a function is there before they write it."""
    page = (ROOT / "docs" / "spark.md").read_text(encoding="utf-8")
    for group, names in rules.NAMES.items():
        (row,) = re.findall(rf"^\| {group} \| (.*) \|$", page, re.MULTILINE)
        listed = re.findall(r"`((?:[^`\\]|\\.)+)`", row.replace("\\|", "|"))
        assert listed == sorted(set(names)), group

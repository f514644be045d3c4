"""The flows under `examples/`: a number from numbers, and one of four classes from names, on real data."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest

from flows.flight_outcomes.load import facts as outcome_facts
from flows.temperature.load import facts as temperature_facts
from ml_core.clock import SystemClock
from ml_core.data import FeatureStore
from ml_core.data.ingest import take_in_all
from ml_core.flow.registry import Registry
from ml_core.project import Project, load_project
from ml_core.training import judge_and_promote, train_full
from ml_core.training.trying import try_flow
from orchestration.definitions import build_definitions
from serving import LocalPredictor
from tests.registries import empty_registry

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Return the examples' project with a home of this test's own."""
    return load_project(EXAMPLES, environment={"MODELFLOW_HOME": str(tmp_path / "home")})


def test_dagster_loads_both(project: Project) -> None:
    groups = {key.path[0] for key in build_definitions(project).resolve_asset_graph().get_all_asset_keys()}
    assert {"temperature", "flight_outcomes"} <= groups


def test_the_temperature_six_hours_on_is_that_of_the_same_station(tmp_path: Path) -> None:
    """Every label is the difference of two readings of the source, and known when the later one is."""
    read = temperature_facts(tmp_path)
    asked, measured = read["reading_taken"], read["measured"]
    assert asked.num_rows == pc.count_distinct(asked["reading"]).as_py() > 26_000
    known: Mapping[str, float | None] = dict(zip(asked["reading"].to_pylist(), asked["temp"].to_pylist(), strict=True))
    row = measured.filter(pc.equal(measured["reading"], "JFK 2013-07-04T12")).to_pylist()[0]
    assert row["warming"] == pytest.approx(known["JFK 2013-07-04T18"] - known["JFK 2013-07-04T12"], abs=1e-4)  # type: ignore[operator]
    assert row["known_at"].isoformat() == "2013-07-04T19:00:00+00:00"


def test_every_flight_ends_one_way_or_was_diverted(tmp_path: Path) -> None:
    read = outcome_facts(tmp_path)
    counted = {each["values"]: each["counts"] for each in pc.value_counts(read["outcomes"]["outcome"]).to_pylist()}
    assert set(counted) == {0, 1, 2, 3, None}
    assert counted[3] == 8_255
    assert counted[0] + counted[1] + counted[2] == 327_346


@pytest.mark.parametrize("name", ["temperature", pytest.param("flight_outcomes", marks=pytest.mark.slow)])
def test_it_passes_modelflow_check(project: Project, name: str) -> None:
    """Among its steps: the rows are the same when facts come in one after the other."""
    steps = [step.name for step in try_flow(project, project.flow(name), rows=3_000)]
    assert {"point in time", "training", "package"} <= set(steps)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "skill"), [("temperature", 0.45), ("flight_outcomes", 0.95)])
def test_it_is_trained_and_served(project: Project, tmp_path: Path, name: str, skill: float) -> None:
    """The loss of a model that knows nothing but how often each label comes is 1."""
    flow = project.flow(name)
    store = FeatureStore(flow, root=project.root, home=project.home)
    take_in_all(flow, store, root=project.root, home=project.home, now=SystemClock().now())
    tracking_uri = empty_registry(tmp_path / "mlflow.db")
    registry = Registry(tracking_uri, artifacts=(tmp_path / "artifacts").as_uri())
    first = train_full(flow, store, registry)
    assert judge_and_promote(flow, registry, first).accepted
    assert first.metrics["skill_ratio"] < skill
    rows = store.feature_rows(datetime(2013, 12, 20, tzinfo=UTC), datetime(2013, 12, 24, tzinfo=UTC))
    with LocalPredictor(f"models:/{name}/Production", tracking_uri=tracking_uri) as predictor:
        answers = predictor.predict_batch(rows)
    assert np.isfinite(answers.scores).all()
    assert len(answers.scores) == rows.num_rows > 200

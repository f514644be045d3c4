"""With a real MLflow server: its stages, aliases and artifacts, and its own client for scoring servers."""

import time
import warnings
from pathlib import Path
from typing import Any

import pytest

from serving import LocalPredictor

ROW: dict[str, Any] = {"carrier": "UA", "origin": "EWR", "delay": 12.5, "hour": 7}


class Flow:
    """A flow in a real registry."""

    def __init__(self, uri: str, name: str, folder: Path, write_package: Any) -> None:
        from mlflow import MlflowClient

        self.client = MlflowClient(uri, uri)
        self.name = name
        self._folder = folder
        self._write_package = write_package
        self.client.create_registered_model(name)

    def publish(self, level: int) -> int:
        """Upload a package whose scores are `level / 100`, and register it."""
        package = self._folder / str(level)
        digest = self._write_package(package, level)
        run = self.client.create_run("0")
        self.client.log_artifacts(run.info.run_id, str(package), "model")
        source = f"{run.info.artifact_uri}/model"
        version = self.client.create_model_version(self.name, source, run.info.run_id, tags={"manifest_sha256": digest})
        return int(version.version)

    def move(self, version: int, stage: str, *, archive: bool = True) -> None:
        """Move a version as a person would in the UI."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            self.client.transition_model_version_stage(
                self.name, str(version), stage, archive_existing_versions=archive
            )


@pytest.fixture
def flow(mlflow_server: str, tmp_path: Path, write_small_package: Any, request: pytest.FixtureRequest) -> Flow:
    return Flow(mlflow_server, request.node.name[:60], tmp_path, write_small_package)


def test_the_sidecar_follows_stage_moves_made_by_people(flow: Flow, mlflow_server: str, sidecar: Any) -> None:
    """Promotion, rollback and an unfinished transition are all made in MLflow, not here."""
    first, second = flow.publish(11), flow.publish(22)
    running = sidecar(f"models:/{flow.name}/Production", mlflow_server, "--poll-interval", "0.1")
    assert running.request("GET", "/ping")[0] == 503
    flow.move(first, "Production")
    running.wait_version(first)
    flow.move(second, "Production", archive=False)
    time.sleep(0.5)
    assert running.get("/version")["version"] == first  # two stand in Production: the transition is not complete
    flow.move(first, "Archived", archive=False)
    running.wait_version(second)
    flow.move(first, "Production")
    running.wait_version(first)
    assert running.get("/status")["swaps"] == 3
    assert running.get("/status")["quarantine"] == []


def test_a_promotion_is_served_within_a_poll_interval_and_a_bit(flow: Flow, mlflow_server: str, sidecar: Any) -> None:
    """Freshness is what the whole platform is for; the figure itself is the benchmark's."""
    versions = [flow.publish(level) for level in (11, 22, 33)]
    flow.move(versions[0], "Production")
    running = sidecar(f"models:/{flow.name}/Production", mlflow_server, "--poll-interval", "0.1")
    running.wait_version(versions[0])
    for version in versions[1:]:
        flow.move(version, "Production")
        running.wait_version(version)
    assert running.get("/version")["stage"] == "Production"


def test_aliases_and_numbers_are_addresses_too(flow: Flow, mlflow_server: str) -> None:
    """MLflow's own ways to name a version."""
    first, second = flow.publish(11), flow.publish(22)
    flow.client.set_registered_model_alias(flow.name, "champion", str(second))
    with LocalPredictor(f"models:/{flow.name}@champion", tracking_uri=mlflow_server, poll_interval_s=0.05) as follows:
        assert follows.predict(ROW).version == second
        flow.client.set_registered_model_alias(flow.name, "champion", str(first))
        deadline = time.monotonic() + 10
        while follows.predict(ROW).version != first and time.monotonic() < deadline:
            time.sleep(0.02)
        assert round(follows.predict(ROW).score, 2) == 0.11
    with LocalPredictor(f"models:/{flow.name}/{second}", tracking_uri=mlflow_server) as pinned:
        assert round(pinned.predict(ROW).score, 2) == 0.22


@pytest.mark.filterwarnings("ignore:.*Any type hint:UserWarning")  # MLflow's own, when it is imported
def test_mlflows_own_client_and_scorer_get_the_sidecars_scores(
    flow: Flow, mlflow_server: str, sidecar: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever changes from `mlflow models serve` changes an address and nothing else."""
    import mlflow
    import pandas as pd
    from mlflow.pyfunc.scoring_server.client import ScoringServerClient

    version = flow.publish(42)
    flow.move(version, "Production")
    running = sidecar(f"models:/{flow.name}/Production", mlflow_server)
    running.wait_version(version)
    client = ScoringServerClient("127.0.0.1", running.port)
    client.ping()
    rows = pd.DataFrame([ROW, {**ROW, "delay": None, "hour": 3.0}, {**ROW, "origin": "JFK"}]).astype(
        {"delay": "float64"}
    )
    served = client.invoke(rows).get_predictions()[0].to_list()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)  # `set_tracking_uri` would leave it to later tests
    loaded = mlflow.pyfunc.load_model(f"models:/{flow.name}/{version}", dst_path=str(flow._folder))
    assert served == pytest.approx(loaded.predict(rows.astype({"hour": "float64"})).tolist(), abs=1e-6)

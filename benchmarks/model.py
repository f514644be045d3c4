"""The seed pipeline trained on flights, as a package in a real MLflow registry: what sidecar and peer both serve."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.flights import NUMBERS, SCHEMA, STRINGS
from ml_core.flow.package import write_package
from ml_core.pipeline.model import PipelineModel
from ml_core.project import PipelineSettings

FLOW = "flights"
SEED = (
    {"stage": "onehot", "columns": list(STRINGS), "min_count": 1, "cap": 4096},
    {"stage": "standardise", "columns": list(NUMBERS)},
    {"stage": "impute", "columns": list(NUMBERS)},
)
HASHED = (
    {"stage": "hash", "columns": list(STRINGS), "bits": 18},
    {"stage": "standardise", "columns": list(NUMBERS)},
    {"stage": "impute", "columns": list(NUMBERS)},
)


def trained(stages: Sequence[Mapping[str, Any]], rows: pa.Table) -> PipelineModel:
    """Return a pipeline model that has learned the rows once."""
    settings = PipelineSettings(stages=tuple(stages), estimator={"name": "FTRLClassifier", "alpha": 0.1})
    model = PipelineModel.build(settings, SCHEMA)
    model.learn(rows, rows.column("late").to_numpy().astype(np.float64))
    return model


def publish(uri: str, model: PipelineModel, rows: pa.Table, folder: Path) -> int:
    """Register the model as the flow's next version, in stage None, and return its number."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    package, state = folder / "package", folder / "state"
    state.mkdir(parents=True)
    model.save(state)
    golden = rows.slice(0, 50).select(list(model.signature))
    digest = write_package(
        package,
        graph=model.to_onnx(),
        state=state,
        signature=model.signature,
        golden=golden,
        golden_scores=model.predict(golden),
        feature_fingerprint="f" * 64,
    )
    client = MlflowClient(uri, uri)
    with contextlib.suppress(MlflowException):  # it is there already
        client.create_registered_model(FLOW)
    run = client.create_run("0")
    client.log_artifacts(run.info.run_id, str(package), "model")
    tags = {"manifest_sha256": digest, "kind": "full", "trained_through": "2013-09-01T00:00:00+00:00"}
    source = f"{run.info.artifact_uri}/model"
    return int(client.create_model_version(FLOW, source, run.info.run_id, tags=tags).version)


def free_port() -> int:
    """Return a loopback port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running(command: Sequence[str], port: int, path: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server in a session of its own until `path` answers 200, and end it and its children afterwards."""
    environment = {
        **os.environ,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PYTHONWARNINGS": "ignore",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env=environment, cwd=log.parent, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 120
        while not answers(port, path):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{' '.join(command)} did not start:\n{log.read_text()[-3000:]}")
            time.sleep(0.05)
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(15)


def answers(port: int, path: str) -> bool:
    """Say whether a GET is answered with 200."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def split_body(rows: pa.Table) -> bytes:
    """Return rows as MLflow's dataframe_split."""
    data = [[row[name] for name in SCHEMA] for row in rows.to_pylist()]
    return json.dumps({"dataframe_split": {"columns": list(SCHEMA), "data": data}}).encode()


def mlflow_server(home: Path, port: int) -> list[str]:
    """Return the command of a registry with one worker."""
    store = ("--backend-store-uri", f"sqlite:///{home}/mlflow.db", "--artifacts-destination", str(home / "artifacts"))
    return [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1", *store]

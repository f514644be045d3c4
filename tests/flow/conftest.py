"""A small real package, made from a pipeline model that learned a few rows, and the registries it is published to."""

import grp
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from mlflow import MlflowClient

from ml_core.flow.package import write_package
from ml_core.flow.registry import Registry
from ml_core.flow.verdict import Verdict
from ml_core.flow.version import ModelVersion
from ml_core.pipeline import PipelineModel
from ml_core.project import PipelineSettings
from orchestration.processes import Supervisor, free_port, start_mlflow, wait_for_mlflow
from tests.registries import empty_registry

SETTINGS = PipelineSettings(
    stages=({"stage": "hash", "columns": ["shop"], "bits": 8}, {"stage": "standardise", "columns": ["days"]}),
    estimator={"name": "FTRLClassifier"},
)
ACCEPTED = Verdict(accepted=True, policy="first", rows=100, reasons=(), figures={"log_loss": 0.5})


def rows() -> pa.Table:
    return pa.table(
        {
            "shop": pa.array(["a", "b", None, "", "\u00fcber", "a", "b", "c"]),
            "days": pa.array([1.0, 2.0, np.nan, 0.0, -3.5, 7.0, None, 1e6], pa.float32()),
        }
    )


@pytest.fixture
def make_package(tmp_path: Path) -> Callable[..., Path]:
    """Make packages; another `passes` gives another model."""

    def make(name: str = "package", passes: int = 1) -> Path:
        model = PipelineModel.build(SETTINGS, {"shop": "string", "days": "float"})
        for _ in range(passes):
            model.learn(rows(), np.array([0, 1, 0, 1, 1, 0, 0, 1], np.float32))
        state = tmp_path / f"{name}-state"
        state.mkdir()
        model.save(state)
        write_package(
            tmp_path / name,
            graph=model.to_onnx(),
            state=state,
            signature=model.signature,
            golden=rows(),
            golden_scores=model.predict_proba(rows()),
            feature_fingerprint="f" * 64,
        )
        return tmp_path / name

    return make


@pytest.fixture
def publish(make_package: Callable[..., Path], tmp_path: Path) -> Callable[..., ModelVersion]:
    """Publish versions of the flow `shop`."""
    evaluation = tmp_path / "evaluation"
    evaluation.mkdir()
    (evaluation / "scored_slice.npz").write_bytes(b"evidence")

    def make(registry: Registry, watermark: int, parent: int | None = None, flow: str = "shop") -> ModelVersion:
        tags = {
            "kind": "full" if parent is None else "incremental",
            "parent": "" if parent is None else str(parent),
            "watermark": f'{{"examples": {watermark}}}',
            "trained_through": "2024-05-01T12:00:00+00:00",
            "feature_fingerprint": "f" * 64,
            "dagster_run_id": "a-run",
        }
        package = make_package(f"package-{watermark}", passes=watermark)
        return registry.publish(flow, package, tags=tags, metrics={"log_loss": 0.5}, evaluation=evaluation)

    return make


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run a real MLflow server and return its address."""
    home = tmp_path_factory.mktemp("mlflow-server")
    with Supervisor(home) as supervisor:
        port = free_port()
        empty_registry(home / "mlflow" / "mlflow.db")  # the server would spend seconds on its migrations
        uri = start_mlflow(supervisor, home, port)
        wait_for_mlflow(supervisor, port)
        yield uri


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """Run Debian's PostgreSQL on loopback, as a user without rights, and return the address of an empty database."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found and os.getuid() == 0 and shutil.which("apt-get"):
        install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "postgresql"]
        subprocess.run(install, check=True, timeout=400, stdout=subprocess.DEVNULL)
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("needs Debian's postgresql: apt-get install postgresql")
    programs, port = found[-1].parent, free_port()
    ids = {}
    if os.getuid() == 0:  # the server refuses to run as root
        ids = {"user": pwd.getpwnam("postgres").pw_uid, "group": grp.getgrnam("postgres").gr_gid, "extra_groups": []}
    folder = Path(tempfile.mkdtemp(prefix="modelflow-postgresql-"))
    if ids:
        shutil.chown(folder, "postgres", "postgres")
    make = [programs / "initdb", "--pgdata", folder / "data", "--username", "modelflow", "--auth", "trust", "--no-sync"]
    subprocess.run(make, check=True, timeout=120, stdout=subprocess.DEVNULL, cwd=folder, **ids)
    options = ["-h", "127.0.0.1", "-p", str(port), "-k", str(folder), "-c", "fsync=off"]
    log = (folder / "log").open("wb")
    process = subprocess.Popen(
        [programs / "postgres", "-D", folder / "data", *options], stdout=log, stderr=log, cwd=folder, **ids
    )
    try:
        create = [programs / "createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "modelflow", "mlflow"]
        deadline = time.monotonic() + 60
        while subprocess.run(create, capture_output=True, timeout=30, check=False).returncode:
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.1)
        yield f"postgresql+psycopg2://modelflow@127.0.0.1:{port}/mlflow"
    finally:
        process.send_signal(signal.SIGINT)  # ends sessions still open; TERM would wait for them
        process.wait(30)
        log.close()
        shutil.rmtree(folder)


@pytest.fixture
def sqlite(tmp_path: Path) -> str:
    """Return the address of an empty MLflow database of this test's own."""
    return empty_registry(tmp_path / "mlflow.db")


# for what asks a server nothing that other tests do not ask it: it takes several times as long to answer as a file
FIRST_IN_A_FILE = pytest.mark.parametrize(
    "registry",
    ["sqlite", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("http", "postgresql"))],
    indirect=True,
)


@pytest.fixture(params=["sqlite", "http", pytest.param("postgresql", marks=pytest.mark.slow)])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Registry]:
    """Return an empty registry on each kind of store."""
    if request.param == "sqlite":
        yield Registry(request.getfixturevalue("sqlite"))
        return
    uri = request.getfixturevalue({"http": "server", "postgresql": "postgresql"}[request.param])
    ledger = {"ledger_uri": f"sqlite:///{tmp_path}/ledger.db"} if request.param == "http" else {}
    yield Registry(uri, artifacts=(tmp_path / "artifacts").as_uri(), **ledger)
    client = MlflowClient(uri, uri)
    client.delete_registered_model("shop")
    for experiment in client.search_experiments(filter_string="name = 'shop'"):
        client.rename_experiment(experiment.experiment_id, f"shop {tmp_path}")
    if request.param == "postgresql":
        with Registry(uri).ledger._engine.begin() as connection:
            connection.exec_driver_sql("drop table if exists modelflow_ledger")


def stages(registry: Registry) -> dict[int, str]:
    """Return the stage of every version of the flow `shop`."""
    return {version.version: version.stage for version in registry.versions("shop")}


def aliases(registry: Registry) -> dict[str, int]:
    """Return where the aliases of the flow `shop` point."""
    client = MlflowClient(registry.tracking_uri, registry.tracking_uri)
    return {name: int(version) for name, version in client.get_registered_model("shop").aliases.items()}

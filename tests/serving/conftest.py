"""What the stories of serving share: small real packages, registries to break, a real sidecar, a real MLflow server."""

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pytest
from onnx import TensorProto, helper

from ml_core.errors import ModelFlowError, VersionNotFoundError
from ml_core.flow.package import MANIFEST, file_digest, verify_package, write_package
from ml_core.flow.read import ModelAddress, VersionRef
from serving.follower import Follower

SIGNATURE = {"carrier": "string", "origin": "string", "delay": "float", "hour": "float"}
ROW: dict[str, Any] = {"carrier": "UA", "origin": "EWR", "delay": 12.5, "hour": 7}


def small_graph(level: float, signature: Mapping[str, str] = SIGNATURE) -> bytes:
    """Return a graph whose scores lie within 0.0001 of `level`, and depend on every column."""
    nodes, terms = [], []
    for name, kind in signature.items():
        if kind == "string":
            nodes.append(helper.make_node("MurmurHash3", [name], [f"{name}_h"], domain="com.microsoft", positive=1))
            nodes.append(helper.make_node("Cast", [f"{name}_h"], [f"{name}_f"], to=TensorProto.DOUBLE))
            nodes.append(helper.make_node("Mul", [f"{name}_f", "tiny"], [f"{name}_t"]))
        else:
            nodes.append(helper.make_node("IsNaN", [name], [f"{name}_n"]))
            nodes.append(helper.make_node("Where", [f"{name}_n", "zero", name], [f"{name}_w"]))
            nodes.append(helper.make_node("Tanh", [f"{name}_w"], [f"{name}_s"]))
            nodes.append(helper.make_node("Cast", [f"{name}_s"], [f"{name}_d"], to=TensorProto.DOUBLE))
            nodes.append(helper.make_node("Mul", [f"{name}_d", "small"], [f"{name}_t"]))
        terms.append(f"{name}_t")
    nodes.append(helper.make_node("Sum", [*terms, "level"], ["sum"]))
    nodes.append(helper.make_node("Cast", ["sum"], ["score"], to=TensorProto.FLOAT))
    kinds = {"string": TensorProto.STRING, "float": TensorProto.FLOAT}
    constants = [
        helper.make_tensor("zero", TensorProto.FLOAT, [1], [0.0]),
        helper.make_tensor("tiny", TensorProto.DOUBLE, [1], [5e-5 / 2**32 / len(signature)]),
        helper.make_tensor("small", TensorProto.DOUBLE, [1], [5e-5 / len(signature)]),
        helper.make_tensor("level", TensorProto.DOUBLE, [1], [level]),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info(name, kinds[kind], ["n"]) for name, kind in signature.items()],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["n"])],
        constants,
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()


def small_package(
    directory: Path, version: int, *, signature: Mapping[str, str] = SIGNATURE, graph: bytes | None = None
) -> str:
    """Write a package whose scores say its version, `version / 100`; return its manifest's digest."""
    import onnxruntime

    graph = graph or small_graph(version / 100, signature)
    texts, numbers = ["UA", "", "ünïcode"], [1.5, None, -3.0]
    golden = pa.table(
        {
            name: pa.array(texts if kind == "string" else numbers, pa.string() if kind == "string" else pa.float32())
            for name, kind in signature.items()
        }
    )
    feed = {
        name: np.array(texts, object) if kind == "string" else np.array(numbers, np.float32)
        for name, kind in signature.items()
    }
    scores = onnxruntime.InferenceSession(graph).run(None, feed)[0].astype(np.float64)
    with tempfile.TemporaryDirectory() as state:
        Path(state, "state.json").write_text("{}")
        return write_package(
            directory,
            graph=graph,
            state=Path(state),
            signature=signature,
            golden=golden,
            golden_scores=scores,
            feature_fingerprint="f" * 64,
        )


@dataclass
class FolderRegistry:
    """A registry in a folder, with hooks to make it fail: what the follower's stories are told with."""

    root: Path
    production: int | None = None
    previous: int | None = None
    down: ModelFlowError | None = None
    downloading: Callable[[VersionRef, Path], None] = lambda *_: None
    refs: dict[int, VersionRef] = field(default_factory=dict)
    downloads: list[int] = field(default_factory=list)
    resolved: int = 0

    def add(self, version: int, **package: Any) -> VersionRef:
        """Write and register a package."""
        digest = small_package(self.root / str(version), version, **package)
        tags = {"manifest_sha256": digest, "kind": "full", "trained_through": "2013-09-01T00:00:00+00:00"}
        tags |= {"watermark": '{"examples": 10}', "parent": str(version - 1) if version > 1 else ""}
        self.refs[version] = VersionRef("f", version, "None", str(self.root / str(version)), tags)
        return self.refs[version]

    def promote(self, version: int | None) -> None:
        """Make a version the one in Production."""
        self.previous, self.production = self.production, version

    def resolve(self, address: ModelAddress, *, serving: int | None = None) -> VersionRef:
        """Answer as a registry does."""
        del serving
        self.resolved += 1
        if self.down is not None:
            raise self.down
        wanted = address.version or (self.previous if address.alias == "previous" else self.production)
        if wanted is None or wanted not in self.refs:
            raise VersionNotFoundError(f"{address.flow}: nothing there")
        return self.refs[wanted]

    def download(self, ref: VersionRef, directory: Path) -> Path:
        """Copy the package, then let the story tamper with the copy."""
        if self.down is not None:
            raise self.down
        self.downloads.append(ref.version)
        shutil.copytree(ref.source, directory)
        self.downloading(ref, directory)
        return directory

    def close(self) -> None:
        """Hold nothing."""


@pytest.fixture
def registry(tmp_path: Path) -> FolderRegistry:
    """Return an empty registry."""
    return FolderRegistry(tmp_path / "registry")


@pytest.fixture
def follower(registry: FolderRegistry) -> Follower:
    """Return a follower that serves version 7, and follows nothing by itself."""
    registry.add(7)
    registry.promote(7)
    follower = Follower(ModelAddress.parse("models:/f/Production"), "folder", registry=registry)
    follower.load_first()
    return follower


@pytest.fixture(scope="session")
def new_registry() -> type[FolderRegistry]:
    """Return the maker of registries, for stories that need many."""
    return FolderRegistry


@pytest.fixture(scope="session")
def make_graph() -> Callable[..., bytes]:
    """Return `small_graph`."""
    return small_graph


@pytest.fixture(scope="session")
def write_small_package() -> Callable[..., str]:
    """Return `small_package`."""
    return small_package


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return version 7's package, verified."""
    directory = tmp_path_factory.mktemp("packages") / "7"
    digest = small_package(directory, 7)
    assert digest == file_digest(directory / MANIFEST)
    return verify_package(directory, expect_digest=digest)


@dataclass
class RunningSidecar:
    """A sidecar process and a way to talk to it."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    def request(
        self, method: str, path: str, body: bytes | Any = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Send one request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        try:
            connection.request(method, path, content, dict(headers or {"Content-Type": "application/json"}))
            response = connection.getresponse()
            return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()
        finally:
            connection.close()

    def get(self, path: str) -> Any:
        """Return the JSON at a path."""
        return json.loads(self.request("GET", path)[2])

    def wait(self, until: Callable[["RunningSidecar"], bool], what: str, timeout_s: float = 15) -> None:
        """Wait for something to become true."""
        deadline = time.monotonic() + timeout_s
        while not _tried(lambda: until(self)):
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, f"waited for: {what}\n{self.log.read_text()}"
            time.sleep(0.01)

    def wait_live(self) -> None:
        """Wait until it listens."""
        self.wait(lambda sidecar: sidecar.request("GET", "/v2/health/live")[0] == 200, "live")

    def wait_version(self, version: int) -> None:
        """Wait until it serves a version."""
        self.wait(lambda sidecar: sidecar.get("/version").get("version") == version, f"version {version}")

    def terminate(self) -> int:
        """Send TERM and return the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)


def _tried(question: Callable[[], bool]) -> bool:
    try:
        return question()
    except (OSError, http.client.HTTPException):
        return False


def free_port_now() -> int:
    """Return a loopback port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def sidecar(tmp_path: Path) -> Iterator[Callable[..., RunningSidecar]]:
    """Return a starter of real sidecar processes: `sidecar("models:/f/Production", tracking_uri, "--option", ...)`."""
    started: list[subprocess.Popen[bytes]] = []

    def start(uri: str, tracking_uri: str, *options: str, wait: bool = True) -> RunningSidecar:
        port, log = free_port_now(), tmp_path / f"sidecar-{len(started)}.log"
        command = [sys.executable, "-m", "serving", uri, "--tracking-uri", tracking_uri, "--port", str(port), *options]
        with log.open("wb") as output:
            started.append(subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT))
        running = RunningSidecar(started[-1], port, log)
        if wait:
            running.wait_live()
        return running

    yield start
    for process in started:
        process.kill()
        process.wait(10)


class RestRegistry:
    """MLflow's REST answers over a `FolderRegistry`, in a thread: a registry that can be slow, gone and back."""

    def __init__(self, folder: FolderRegistry) -> None:
        self.folder = folder
        self.delay_s = 0.0
        self.port = free_port_now()
        self._server: Any = None

    @property
    def uri(self) -> str:
        """Its tracking address."""
        return f"http://127.0.0.1:{self.port}"

    def up(self) -> None:
        """Listen."""
        from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

        registry = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._answer()

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                self._answer()

            def log_message(self, *_: Any) -> None:
                """Stay quiet."""

            def _answer(self) -> None:
                if self.server is not registry._server:
                    self.close_connection = True
                    return
                time.sleep(registry.delay_s)
                body = registry.answer(self.path)
                self.send_response(404 if body is None else 200)
                self.send_header("content-length", str(len(body or b"")))
                self.end_headers()
                self.wfile.write(body or b"")

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: Any) -> None:
                """Callers that went away are part of the stories."""

        self._server = Server(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def gone(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def answer(self, path: str) -> bytes | None:
        """Return what MLflow's server would, or None for nothing there."""
        if path.startswith("/api/2.0/mlflow-artifacts/artifacts/"):
            file = self.folder.root / path.removeprefix("/api/2.0/mlflow-artifacts/artifacts/")
            return file.read_bytes() if file.is_file() else None
        if "get-latest-versions" in path:
            standing = self.folder.production
            return json.dumps({"model_versions": [self._described(standing)] if standing else []}).encode()
        if "alias=champion" in path:
            standing = self.folder.production
            return json.dumps({"model_version": self._described(standing)}).encode() if standing else None
        wanted = path.partition("version=")[2] or str(self.folder.previous or "")
        known = wanted.isdigit() and int(wanted) in self.folder.refs
        return json.dumps({"model_version": self._described(int(wanted))}).encode() if known else None

    def _described(self, version: int) -> dict[str, Any]:
        ref = self.folder.refs[version]
        return {
            "name": ref.flow,
            "version": str(version),
            "current_stage": "Production" if version == self.folder.production else "Archived",
            "source": f"mlflow-artifacts:/{version}",
            "tags": [{"key": key, "value": value} for key, value in ref.tags.items()],
        }


@pytest.fixture
def rest_registry(registry: FolderRegistry) -> Iterator[RestRegistry]:
    """Return a registry over HTTP that is up."""
    rest = RestRegistry(registry)
    rest.up()
    yield rest
    rest.gone()


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the address of a real MLflow server."""
    home, port = tmp_path_factory.mktemp("mlflow"), free_port_now()
    store = ("--backend-store-uri", f"sqlite:///{home}/mlflow.db", "--artifacts-destination", str(home / "artifacts"))
    # under the platform's guard, so that it ends with the tests however they end
    guard = (sys.executable, "-m", "orchestration.guard", str(os.getpid()), "--")
    command = (sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1")
    environment = {
        **os.environ,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PYTHONWARNINGS": "ignore",
    }
    with (home / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [*guard, *command, *store], cwd=home, stdout=log, stderr=log, env=environment, start_new_session=True
        )
    deadline = time.monotonic() + 90
    try:
        while not _tried(lambda: _healthy(port)):
            assert process.poll() is None, (home / "server.log").read_text()[-2000:]
            assert time.monotonic() < deadline, (home / "server.log").read_text()[-2000:]
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


def _healthy(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    finally:
        connection.close()

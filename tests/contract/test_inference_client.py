"""A client of the Open Inference Protocol from the package index, in an environment of its own, works unchanged."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.serving.conftest import FolderRegistry, RestRegistry, RunningSidecar, registry, rest_registry, sidecar

__all__ = ["registry", "rest_registry", "sidecar"]  # fixtures

_CLIENT = """
import json, sys
import numpy as np
import tritonclient.http as http
client = http.InferenceServerClient(sys.argv[1])
assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("f")
described = client.get_model_metadata("f")
columns = {"carrier": np.array([b"UA", "Zürich".encode()], object), "origin": np.array([b"EWR", b""], object),
           "delay": np.array([12.5, np.nan], np.float32), "hour": np.array([7, 23], np.int64)}
answers = {}
for binary in (True, False):
    kinds = {"carrier": "BYTES", "origin": "BYTES", "delay": "FP32", "hour": "INT64"}
    inputs = [http.InferInput(name, [2], kinds[name]) for name in columns]
    for tensor in inputs:
        values = columns[tensor.name()]
        if not binary and tensor.name() == "delay":
            values = np.array([12.5, -1.0], np.float32)
        tensor.set_data_from_numpy(values, binary_data=binary)
    wanted = [http.InferRequestedOutput("score", binary_data=binary)]
    result = client.infer("f", inputs, outputs=wanted, request_id="mine")
    version = result.get_response()["model_version"]
    answers[str(binary)] = {"scores": result.as_numpy("score").tolist(), "version": version}
try:
    client.infer("f", inputs[:1])
except http.InferenceServerException as error:
    answers["refused"] = str(error)
print(json.dumps({"inputs": [tensor["name"] for tensor in described["inputs"]], **answers}))
"""


@pytest.mark.timeout(600)
def test_an_inference_client_works_unchanged(
    plain_environment: Callable[..., Path],
    sidecar: Callable[..., RunningSidecar],
    rest_registry: RestRegistry,
    registry: FolderRegistry,
) -> None:
    """Those who have such a client keep it, in binary form and as JSON."""
    registry.add(7)
    registry.promote(7)
    running = sidecar("models:/f/Production", rest_registry.uri)
    running.wait(lambda it: it.request("GET", "/ping")[0] == 200, "ready")
    python = plain_environment("inference-client", "tritonclient[http]==2.73.0")
    client = [str(python), "-W", "ignore", "-c", _CLIENT, f"127.0.0.1:{running.port}"]
    done = subprocess.run(client, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2_000:]
    answer = json.loads(done.stdout.strip().splitlines()[-1])
    assert answer["inputs"] == ["carrier", "origin", "delay", "hour"]
    for form in ("True", "False"):
        assert answer[form]["version"] == "7"
        assert answer[form]["scores"] == pytest.approx([0.07, 0.07], abs=2e-4)
    assert answer["True"]["scores"][0] == answer["False"]["scores"][0]
    assert "column" in answer["refused"]

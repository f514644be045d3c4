"""A registry entry scores for anybody with MLflow and onnxruntime, and nothing of Model Flow."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ml_core.flow.package import as_feed, verify_package
from ml_core.flow.registry import Registry
from ml_core.flow.version import ModelVersion
from tests.flow.conftest import ACCEPTED, make_package, publish
from tests.registries import empty_registry

__all__ = ["make_package", "publish"]  # fixtures

_CLIENT = """
import json, os, sys
import mlflow, pandas
mlflow.set_tracking_uri(sys.argv[1])
mlflow.set_registry_uri(sys.argv[1])
frame = pandas.DataFrame(json.loads(sys.argv[2]))
model = mlflow.pyfunc.load_model("models:/shop/Production")
try:
    import ml_core
except ImportError:
    print(json.dumps({"pandas": pandas.__version__, "scores": [float(score) for score in model.predict(frame)]}))
"""

ROWS = {"shop": ["a", None, "\u2603 never seen", ""], "days": [1.0, 2.5, None, -4.0]}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("pandas", ["2", pytest.param("3", marks=pytest.mark.slow)])  # the lock has 3: other tests do
def test_plain_mlflow_gives_the_sidecars_scores_without_pickle(
    plain_environment: Callable[..., Path],
    publish: Callable[..., ModelVersion],
    tmp_path: Path,
    pandas: str,
) -> None:
    """Users fetch models from the MLflow registry and never need to know our code."""
    registry = Registry(empty_registry(tmp_path / "mlflow.db"))
    publish(registry, 3)
    registry.promote("shop", 1, verdict=ACCEPTED, expected_champion=None)
    package = verify_package(tmp_path / "package-3")
    expected = package.score(as_feed(ROWS, package.signature))

    python = plain_environment(f"mlflow-pandas{pandas}", "mlflow==3.17.2", "onnxruntime", f"pandas=={pandas}.*")
    client = [str(python), "-W", "ignore", "-c", _CLIENT, registry.tracking_uri, json.dumps(ROWS)]
    forbidden = {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false", "MLFLOW_DISABLE_TELEMETRY": "true", "PATH": "/usr/bin"}
    done = subprocess.run(client, capture_output=True, text=True, timeout=240, cwd=tmp_path, env=forbidden, check=False)
    assert done.returncode == 0, done.stderr[-2_000:]
    answer = json.loads(done.stdout.strip().splitlines()[-1])
    assert answer["pandas"].startswith(f"{pandas}.")
    np.testing.assert_allclose(answer["scores"], expected, atol=1e-6)

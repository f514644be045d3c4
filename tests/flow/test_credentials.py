"""Who a follower says it is, against a real MLflow server with basic auth."""

import base64
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ml_core.errors import RegistryDownError, RegistryError, VersionNotFoundError
from ml_core.flow.credentials import authorization
from ml_core.flow.read import ModelAddress, RestReader
from orchestration.processes import Supervisor, answers, free_port

PASSWORD = "a password of some length"  # noqa: S105 - of this test's own server


def basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def written(home: Path, text: str) -> dict[str, str]:
    """Write MLflow's file of credentials, and return the environment that has it at home."""
    (home / ".mlflow").mkdir(exist_ok=True)
    (home / ".mlflow" / "credentials").write_text(text, encoding="utf-8")
    return {"HOME": str(home)}


FILE = "[mlflow]\nmlflow_tracking_username = follower\nmlflow_tracking_password = p%%w=1\n"


def test_it_is_told_where_mlflows_client_is_told(tmp_path: Path) -> None:
    home = written(tmp_path, FILE)
    assert authorization({"HOME": str(tmp_path / "nobody")}) == {}
    assert authorization(home) == basic("follower", "p%w=1")
    told = {"MLFLOW_TRACKING_USERNAME": "me", "MLFLOW_TRACKING_PASSWORD": "p"}
    assert authorization(home | told) == basic("me", "p")
    assert authorization(home | {"MLFLOW_TRACKING_TOKEN": "t"}) == {"Authorization": "Bearer t"}


def test_mlflows_own_client_would_say_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is MLflow's, so its own reading of it decides."""
    from mlflow.utils import credentials

    monkeypatch.setenv("HOME", written(tmp_path, FILE)["HOME"])
    read = credentials.read_mlflow_creds()
    assert authorization(dict(os.environ)) == basic(str(read.username), str(read.password))


def test_a_file_that_is_none_says_so(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match=r"expected MLflow's credentials, a table \[mlflow\]"):
        authorization(written(tmp_path, "follower p%w"))


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run an MLflow server that wants to know who asks."""
    home = tmp_path_factory.mktemp("guarded")
    (home / "auth.ini").write_text(
        f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{home}/users.db\nadmin_username = admin\n"
        f"admin_password = {PASSWORD}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n",
        encoding="utf-8",
    )
    port = free_port()
    with Supervisor(home) as servers:
        servers.start(
            "mlflow",
            [
                *(sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth", "--port", str(port)),
                *("--workers", "1", "--backend-store-uri", f"sqlite:///{home}/mlflow.db"),
                *("--artifacts-destination", str(home / "artifacts")),
            ],
            environment={
                "MLFLOW_AUTH_CONFIG_PATH": str(home / "auth.ini"),
                "MLFLOW_FLASK_SERVER_SECRET_KEY": "of this test",
                "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            },
        )
        servers.wait_until("mlflow", lambda: answers(port, "/health"))
        yield f"http://127.0.0.1:{port}"


@pytest.mark.slow
def test_a_guarded_registry_is_read_by_who_may_and_tells_others_what_to_do(
    guarded: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = ModelAddress.parse("models:/shop/Production")
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME", raising=False)
    reader = RestReader(guarded)
    with pytest.raises(RegistryDownError, match="set MLFLOW_TRACKING_USERNAME"):
        reader.resolve(address)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    with pytest.raises(VersionNotFoundError):  # the same reader, who was told meanwhile
        reader.resolve(address)
    reader.close()

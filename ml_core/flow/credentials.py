"""Who a follower is to an MLflow server with basic auth: told in the places where MLflow's own client looks.

`MLFLOW_TRACKING_USERNAME` and `MLFLOW_TRACKING_PASSWORD`, else `MLFLOW_TRACKING_TOKEN`, else the table ``[mlflow]`` of
`~/.mlflow/credentials`, which a deployment mounts as a secret. Read again with every connection, so that a password may
be changed while a follower runs.
"""

import base64
import configparser
import os
from collections.abc import Mapping
from pathlib import Path

from ml_core.errors import RegistryError

_FILE = Path(".mlflow") / "credentials"


def authorization(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the header that says who asks; empty where nobody told.

    Parameters
    ----------
    environment : mapping, optional
        Stands in for the process environment.

    Raises
    ------
    RegistryError
        The file of credentials is there and cannot be read.
    """
    env = os.environ if environment is None else environment
    user, password = env.get("MLFLOW_TRACKING_USERNAME"), env.get("MLFLOW_TRACKING_PASSWORD")
    if not (user and password):
        if token := env.get("MLFLOW_TRACKING_TOKEN"):
            return {"Authorization": f"Bearer {token}"}
        user, password = _written(Path(env.get("HOME", "/")) / _FILE)
    if not (user and password):
        return {}
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def _written(file: Path) -> tuple[str | None, str | None]:
    parser = configparser.ConfigParser()  # as MLflow reads it: a percent sign is written twice
    try:
        parser.read_string(file.read_text(encoding="utf-8"))
        told = parser["mlflow"] if parser.has_section("mlflow") else {}
        return told.get("mlflow_tracking_username"), told.get("mlflow_tracking_password")
    except FileNotFoundError:
        return None, None
    except (OSError, UnicodeDecodeError, configparser.Error) as error:
        raise RegistryError(f"{file}: expected MLflow's credentials, a table [mlflow], found: {error}") from error

"""Write `docker/secrets/`: a password for every part of the deployed platform, each in the file its owner reads.

Run once, before `docker compose up`; what is there already is never replaced. Needs nothing but the standard library.
Every file can be read by the one user that needs it and nobody else: where this runs as root it belongs to the user of
that container, else to whoever runs this, who then has to hand it over.
"""

import os
import secrets
import sys
from pathlib import Path

SECRETS = Path(__file__).resolve().parent / "secrets"
USER = 10001  # of our own images
USERS = {"postgres-password": 999, "postgres-roles.sql": 999, "prometheus-token": 65534, "grafana-password": 472}
ROLES = ("dagster", "mlflow", "modelflow")
# each database and the role that owns it; MLflow keeps its users apart
DATABASES = {"dagster": "dagster", "mlflow": "mlflow", "mlflow_users": "mlflow", "modelflow": "modelflow"}


def main(folder: Path) -> None:
    """Write the secrets that are missing into `folder`."""
    if (folder / "complete").exists():
        print(f"{folder}: secrets are there already")
        return
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in contents().items():
        file = folder / name
        file.write_text(text, encoding="utf-8")
        file.chmod(0o400)
        if os.getuid() == 0:
            owner = USERS.get(name, USER)
            os.chown(file, owner, owner)
    (folder / "complete").touch()
    print(f"{folder}: {len(contents())} secrets written")


def contents() -> dict[str, str]:
    """Return the text of every secret by the name of its file."""
    password = {name: secrets.token_urlsafe(24) for name in (*ROLES, "admin", "trainer", "follower")}
    tokens = [secrets.token_urlsafe(24) for _ in range(2)]
    services = {
        name: f"[{name}]\nhost=postgres\nport=5432\ndbname={name}\nuser={owner}\npassword={password[owner]}\n"
        for name, owner in DATABASES.items()
    }
    roles = (f"create role {name} login password '{password[name]}';\n" for name in ROLES)
    databases = (f"create database {name} owner {owner};\n" for name, owner in DATABASES.items())
    credentials = {
        f"mlflow-{name}": f"[mlflow]\nmlflow_tracking_username = {name}\nmlflow_tracking_password = {password[name]}\n"
        for name in ("trainer", "follower")
    }
    return {
        "postgres-password": secrets.token_urlsafe(24),
        "postgres-roles.sql": "".join((*roles, *databases)),
        "pg-dagster": services["dagster"],
        "pg-mlflow": services["mlflow"] + services["mlflow_users"],
        "pg-platform": services["dagster"] + services["modelflow"],
        "pg-backup": services["mlflow"] + services["mlflow_users"] + services["modelflow"],
        "mlflow-auth.ini": (
            "[mlflow]\ndefault_permission = READ\ndatabase_uri = postgresql+psycopg2:///?service=mlflow_users\n"
            f"admin_username = admin\nadmin_password = {password['admin']}\n"
            "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
        ),
        "mlflow-session-key": secrets.token_urlsafe(32),
        **credentials,
        "signing-key": secrets.token_urlsafe(32),
        "sidecar-tokens": f"# for callers\n{tokens[0]}\n# for Prometheus\n{tokens[1]}\n",
        "caller-token": tokens[0],
        "prometheus-token": tokens[1],
        "grafana-password": secrets.token_urlsafe(24),
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else SECRETS)

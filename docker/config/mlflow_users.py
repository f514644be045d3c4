"""Give the registry its users: each file of credentials named becomes one, with the password that stands in it.

The users may read everything, and manage what they made themselves (`default_permission` of the server's own file).
Runs once beside the server, needs nothing but the standard library, and may run again: a user that is there gets the
file's password.
"""

import base64
import configparser
import json
import os
import sys
import urllib.error
import urllib.request
from pathlib import Path

USERS = "/api/2.0/mlflow/users"


def main(files: list[str]) -> None:
    """Make or change the users whose credentials stand in `files`, as the admin of MLFLOW_AUTH_CONFIG_PATH."""
    server = os.environ["MLFLOW_TRACKING_URI"]
    config = table(Path(os.environ["MLFLOW_AUTH_CONFIG_PATH"]))
    admin = (config["admin_username"], config["admin_password"])
    for file in files:
        told = table(Path(file))
        user = {"username": told["mlflow_tracking_username"], "password": told["mlflow_tracking_password"]}
        if ask(server, "POST", f"{USERS}/create", user, admin) is None:
            ask(server, "PATCH", f"{USERS}/update-password", user, admin)
        print(f"user {user['username']} is there")


def table(file: Path) -> configparser.SectionProxy:
    """Return the table [mlflow] of an INI file."""
    parser = configparser.ConfigParser()
    parser.read_string(file.read_text(encoding="utf-8"))
    return parser["mlflow"]


def ask(server: str, method: str, path: str, body: dict[str, str], admin: tuple[str, str]) -> object | None:
    """Send JSON as the admin; return the answer, None where what was to be made is there already."""
    request = urllib.request.Request(server + path, json.dumps(body).encode(), method=method)  # noqa: S310 - our server
    request.add_header("Content-Type", "application/json")
    request.add_header("Authorization", "Basic " + base64.b64encode(":".join(admin).encode()).decode())
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            return json.loads(answer.read() or b"{}")
    except urllib.error.HTTPError as error:
        said = error.read().decode(errors="replace")
        if "RESOURCE_ALREADY_EXISTS" in said:
            return None
        raise SystemExit(f"{method} {path}: status {error.code}: {said[:300]}") from error


if __name__ == "__main__":
    main(sys.argv[1:])

"""Empty MLflow databases for tests, copied from one that was made once: its migrations take seconds."""

import shutil
import tempfile
from functools import cache
from pathlib import Path

from mlflow import MlflowClient


def empty_registry(file: Path) -> str:
    """Return the address of the database `file`, made empty unless it is there."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(_empty_database())
    return f"sqlite:///{file}"


@cache
def _empty_database() -> bytes:
    folder = Path(tempfile.mkdtemp(prefix="modelflow-empty-registry-"))
    try:
        address = f"sqlite:///{folder}/mlflow.db"
        MlflowClient(address, address).search_registered_models()
        return (folder / "mlflow.db").read_bytes()
    finally:
        shutil.rmtree(folder)

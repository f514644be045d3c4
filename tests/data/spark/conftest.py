"""Spark for the slow tests: installed where it is missing, as `make spark` does."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="session")
def pyspark() -> Iterator[None]:
    """Have pyspark in this environment, and no Spark left when the session ends."""
    subprocess.run([sys.executable, "-m", "scripts.install_spark"], cwd=ROOT, check=True, timeout=600)
    from ml_core.data.spark.session import stop

    yield
    stop()

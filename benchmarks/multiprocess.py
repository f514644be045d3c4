"""The platform's code location with a process of its own for each step, for `benchmarks.orchestration`."""

import dagster as dg

from ml_core.project import load_project
from orchestration.definitions import build_definitions
from orchestration.resources import Platform


@dg.definitions
def defs() -> dg.Definitions:
    """Return the project's definitions, its jobs on the multiprocess executor."""
    return build_definitions(load_project(), Platform(), executor=dg.multiprocess_executor)

"""The directions of import, and the two doors to the outside: the clock and the environment."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("ml_core", "serving", "orchestration", "flows")
FILES = sorted(file for room in ROOMS for file in (ROOT / room).rglob("*.py"))

WALL_CLOCK = {"datetime.now", "datetime.utcnow", "datetime.today", "date.today", "time.time", "time.time_ns"}
MAY_ASK_THE_TIME = {"ml_core/clock.py"}
MAY_READ_THE_ENVIRONMENT = {
    "ml_core/project/reading.py",
    "ml_core/flow/credentials.py",  # stands in for MLflow's client, which reads its own variables
    "ml_core/flow/backup/databases.py",  # hands it on to PostgreSQL's programs
    "serving/settings.py",
    "orchestration/processes.py",  # hands it on to the processes it starts
}


def uses(names: set[str]) -> Iterator[str]:
    """Yield ``file:line name`` for each use of one of the dotted names in the rooms."""
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and (found := dotted(node)) in names:
                yield f"{file.relative_to(ROOT)}:{node.lineno} {found}"


def dotted(node: ast.Attribute) -> str:
    """Return the last two parts of an attribute, as in ``datetime.now`` of ``datetime.datetime.now``."""
    owner = node.value
    part = owner.id if isinstance(owner, ast.Name) else owner.attr if isinstance(owner, ast.Attribute) else ""
    return f"{part}.{node.attr}"


def test_the_import_contracts_hold() -> None:
    """A room that imports the wrong way can no longer be tested, replaced or kept small alone."""
    lint = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([lint], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout


def test_only_the_clock_asks_for_the_time() -> None:
    """A decision made by the machine's time cannot be replayed."""
    assert [use for use in uses(WALL_CLOCK) if use.split(":")[0] not in MAY_ASK_THE_TIME] == []


def test_the_environment_is_read_in_one_place_per_process() -> None:
    """A setting that is read in many places is a setting nobody can list."""
    found = uses({"os.environ", "os.getenv", "os.putenv"})
    assert [use for use in found if use.split(":")[0] not in MAY_READ_THE_ENVIRONMENT] == []


def test_nothing_hides_those_doors_behind_another_name() -> None:
    """`from time import time` would pass the tests above unseen."""
    hidden = {("os", "environ"), ("os", "getenv"), ("time", "time"), ("time", "time_ns")}
    found = [
        f"{file.relative_to(ROOT)}:{node.lineno}"
        for file in FILES
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom)
        for name in node.names
        if (node.module, name.name) in hidden
    ]
    assert found == []


def test_every_module_says_what_it_is() -> None:
    """The first thing read in a file is what it is for."""
    silent = [
        str(file.relative_to(ROOT)) for file in FILES if not ast.get_docstring(ast.parse(file.read_text("utf-8")))
    ]
    assert silent == []

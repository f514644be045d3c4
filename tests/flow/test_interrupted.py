"""A process that dies between any two steps of a publication or a transition leaves a flow that heals.

The steps are found rather than listed: every call to MLflow and every write to the ledger is a place to die at, before
it and after it. Nothing is written between two of them, so to die before one is to die after the one that precedes it:
only the slow tests do both.
"""

import itertools
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from ml_core.clock import ManualClock
from ml_core.flow.ledger import LEASE, Ledger
from ml_core.flow.read import ModelAddress, open_registry
from ml_core.flow.registry import Registry
from ml_core.flow.upload import _PATIENCE, _PUBLISHER, finish_interrupted
from ml_core.flow.verdict import Verdict
from ml_core.flow.version import ModelVersion
from tests.flow.conftest import ACCEPTED, aliases, stages

Publish = Callable[..., ModelVersion]
REFUSED = Verdict(accepted=False, policy="non-inferiority", rows=9, reasons=("worse",), figures={})
NOW = datetime(2024, 5, 1, tzinfo=UTC)
EITHER_SIDE = pytest.mark.parametrize(
    "after", [pytest.param(False, marks=pytest.mark.slow), True], ids=["before", "after"]
)
READS = ("get_", "search_", "list_", "download_")


class Died(BaseException):
    """The process is gone: nothing after this runs, not even what lets a lock go."""


class Dying:
    """MLflow's client and the ledger of a registry whose process dies at the n-th thing it changes."""

    def __init__(self, registry: Registry, at: int, *, after: bool) -> None:
        self.calls: list[str] = []
        self._at, self._after, self._dead = at, after, False
        registry._shelf.client = self._watched(registry._shelf.client, reading=READS)
        registry._ledger = self._watched(registry.ledger, reading=("newest", "last", "at", "entries", "served"))

    def _watched(self, subject: Any, reading: tuple[str, ...]) -> Any:
        watch = self

        class Watched:
            def __getattr__(self, name: str) -> Any:
                found = getattr(subject, name)
                return found if name.startswith(reading) or not callable(found) else watch._call(name, found)

        return Watched()

    def _call(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def dying(*arguments: Any, **named: Any) -> Any:
            if self._dead:
                raise Died
            here = len(self.calls) == self._at
            self.calls.append(name)
            self._dead = here
            if here and not self._after:
                raise Died
            answer = call(*arguments, **named)
            if here:
                raise Died
            return answer

        return dying


def promote(registry: Registry) -> None:
    registry.promote("shop", 2, verdict=ACCEPTED, expected_champion=1)


def force(registry: Registry) -> None:
    registry.force_promote("shop", 2, reason="because")


def refuse(registry: Registry) -> None:
    registry.refuse("shop", 2, verdict=REFUSED)


def roll_back(registry: Registry) -> None:
    registry.rollback("shop", to=0 + 1, why="because", resume_at=7)


def obey(registry: Registry) -> None:
    registry.reconcile("shop")


def set_out(uri: str, publish: Publish, *, story: str) -> None:
    """Bring a flow to where the story begins."""
    registry = Registry(uri, clock=ManualClock(NOW))
    publish(registry, 1)
    registry.promote("shop", 1, verdict=ACCEPTED, expected_champion=None)
    publish(registry, 2, parent=1)
    if story == "roll_back":
        registry.promote("shop", 2, verdict=ACCEPTED, expected_champion=1)
    if story == "obey":
        MlflowClient(uri, uri).set_registered_model_alias("shop", "champion", "2")


ENDS = {
    "promote": ({1: "Archived", 2: "Production"}, {"champion": 2, "previous": 1}),
    "force": ({1: "Archived", 2: "Production"}, {"champion": 2, "previous": 1}),
    "refuse": ({1: "Production", 2: "Archived"}, {"champion": 1}),
    "roll_back": ({1: "Production", 2: "Archived"}, {"champion": 1}),
    "obey": ({1: "Archived", 2: "Production"}, {"champion": 2, "previous": 1}),
}


@pytest.mark.parametrize(
    "story",
    [promote, pytest.param(force, marks=pytest.mark.slow), refuse, roll_back, obey],
    ids=lambda story: story.__name__,
)
@EITHER_SIDE
def test_a_transition_that_dies_anywhere_is_carried_out_by_whoever_comes_next(
    sqlite: str, publish: Publish, tmp_path: Path, story: Callable[[Registry], None], after: bool
) -> None:
    name = story.__name__
    set_out(sqlite, publish, story=name)
    database = Path(sqlite.removeprefix("sqlite:///"))
    shutil.copy(database, tmp_path / "start.db")
    for at in itertools.count():
        shutil.copy(tmp_path / "start.db", database)
        registry = Registry(sqlite, clock=ManualClock(NOW))
        dying = Dying(registry, at, after=after)
        try:
            story(registry)
        except Died:
            pass
        else:
            break
        found = stages(Registry(sqlite))
        assert list(found.values()).count("Production") == 1, dying.calls
        later = Registry(sqlite, clock=ManualClock(NOW + LEASE + timedelta(seconds=1)))
        later.reconcile("shop")
        assert not later.ledger.newest("shop").open
        found = stages(later)
        assert list(found.values()).count("Production") == 1, dying.calls
        assert aliases(later)["champion"] == next(number for number, stage in found.items() if stage == "Production")
        story(later)
        assert (stages(later), aliases(later)) == ENDS[name], dying.calls
        assert later.reconcile("shop") == []
        entries = later.ledger.entries("shop")
        assert [entry.number for entry in entries] == list(range(1, len(entries) + 1))
        assert entries[-1].champion == aliases(later)["champion"]
    assert at >= 4  # it did die, at each of its steps
    assert {"begin", "mark", "settle"} <= set(dying.calls)


@EITHER_SIDE
def test_a_publication_that_dies_anywhere_leaves_no_version_or_a_whole_one(
    sqlite: str, publish: Publish, tmp_path: Path, after: bool
) -> None:
    """Readers never see half a version, and what was uploaded for nothing does not stay."""
    client = MlflowClient(sqlite, sqlite)
    seen = set()
    for at in itertools.count():
        shutil.rmtree(tmp_path / "artifacts", ignore_errors=True)
        for made in tmp_path.glob("package*"):
            shutil.rmtree(made)
        for model in client.search_registered_models():
            client.delete_registered_model(model.name)
        registry = Registry(sqlite)
        dying = Dying(registry, at, after=after)
        try:
            publish(registry, 1)
        except Died:
            pass
        else:
            break
        seen |= set(dying.calls)
        later = Registry(sqlite, clock=ManualClock(datetime.now(UTC) + timedelta(hours=2)))
        later.reconcile("shop")
        whole = later.versions("shop")
        for version in whole:
            reader = open_registry(sqlite)
            reader.download(
                reader.resolve(ModelAddress("shop", version=version.version)), tmp_path / f"read-{at}-{after}"
            )
            with later.proved(version):
                pass
        experiment = client.get_experiment_by_name("shop")
        runs = [] if experiment is None else client.search_runs([experiment.experiment_id])
        assert {run.info.run_id for run in runs if run.info.status == "RUNNING"} == set()
        left = [path for path in (tmp_path / "artifacts").glob("*/*") if any(path.rglob("*.onnx"))]
        assert len(left) == len(whole), dying.calls
        for made in tmp_path.glob("package*"):
            shutil.rmtree(made)
        again = publish(later, 1)
        assert again.version == len(whole) + 1
    assert {"create_run", "log_artifacts", "create_model_version", "set_terminated"} <= seen


_KILLED = """
import os, signal, sys
from ml_core.flow.ledger import Ledger
from ml_core.flow.registry import Registry
from tests.flow.conftest import ACCEPTED

real, left = Ledger.mark, [int(sys.argv[2])]

def mark(self, held, step):
    real(self, held, step)
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    left[0] -= 1

Ledger.mark = mark
Registry(sys.argv[1]).promote("shop", 2, verdict=ACCEPTED, expected_champion=1)
"""


@pytest.mark.parametrize("step", [3, *(pytest.param(step, marks=pytest.mark.slow) for step in (0, 1, 2, 4, 5, 6))])
def test_a_killed_process_holds_nobody_up(sqlite: str, publish: Publish, step: int) -> None:
    """Its row is taken over at once, not when its lease ends: the kernel says that it is gone."""
    set_out(sqlite, publish, story="promote")
    command = [sys.executable, "-W", "ignore", "-c", _KILLED, sqlite, str(step)]
    killed = subprocess.run(command, check=False, timeout=120, env={**os.environ, "PYTHONPATH": "."})
    assert killed.returncode == -signal.SIGKILL
    registry = Registry(sqlite)
    assert registry.ledger.newest("shop").open
    registry.reconcile("shop")
    assert (stages(registry), aliases(registry)) == ENDS["promote"]
    assert registry.ledger.last("shop").kind == "promote"


def test_a_process_that_wakes_up_after_its_lease_changes_nothing_more(
    sqlite: str, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A suspended promotion is finished by another process; when it goes on, it has to notice."""
    set_out(sqlite, publish, story="promote")
    clock = ManualClock(NOW)
    sleeper = Registry(sqlite, clock=clock)
    real = Ledger.mark

    def mark(self: Ledger, held: Any, step: str) -> None:
        real(self, held, step)
        if step == "challenger" and self is sleeper.ledger:
            clock.advance(LEASE * 2)
            Registry(sqlite, clock=clock).rollback("shop", to=1, why="while it slept")

    monkeypatch.setattr(Ledger, "mark", mark)
    with pytest.raises(Exception, match="its lease ran out and another process took it over"):
        promote(sleeper)
    assert stages(sleeper) == {1: "Production", 2: "Archived"}
    kinds = [entry.kind for entry in sleeper.ledger.entries("shop")]
    assert kinds == ["promote", "promote", "rollback"]


def test_a_run_whose_deletion_fails_is_deleted_the_next_time(sqlite: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Marked as failed beforehand it would not be looked at again, and its artifacts would stay for good."""
    shelf, later = Registry(sqlite)._shelf, datetime.now(UTC) + 2 * _PATIENCE
    run = shelf.client.create_run(shelf.experiment("shop"), tags={_PUBLISHER: "elsewhere:1:1"})
    deleting = shelf.delete_run

    def dying(_: str) -> None:
        raise Died

    monkeypatch.setattr(shelf, "delete_run", dying)
    with pytest.raises(Died):
        finish_interrupted(shelf, "shop", now=later)
    monkeypatch.setattr(shelf, "delete_run", deleting)
    (done,) = finish_interrupted(shelf, "shop", now=later)
    assert run.info.run_id in done
    assert shelf.client.get_run(run.info.run_id).info.lifecycle_stage == "deleted"

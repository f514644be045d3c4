"""A backup is one moment of a platform that goes on, and what is restored from it goes on as the platform did."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from ml_core.data import FeatureStore
from ml_core.errors import BackupError
from ml_core.flow.backup import restore, take, taking
from ml_core.flow.backup.taking import MANIFEST, place_of
from ml_core.flow.package import STATE
from ml_core.flow.registry import registry_of
from ml_core.pipeline import PipelineModel
from ml_core.project import Project, load_project
from ml_core.training import judge_and_promote, train_full, train_increment
from orchestration.processes import Supervisor, answers, free_port
from tests.orchestration.conftest import FEATURES, PROJECT, START, day_of_orders
from tests.registries import empty_registry

MODELFLOW = Path(sys.executable).with_name("modelflow")
FIRST_DAYS, MORE_DAYS = 3, 2
EASY_GATE = "\nnon_inferiority_margin = 0.5\nfirst_max_normalised_entropy = 2.0\nmax_calibration_error = 0.9\n"


def project_at(root: Path, *, home: Path, **environment: str) -> Project:
    """Write the flow of orders, with a gate that lets its small increments through, and read it."""
    root.mkdir(exist_ok=True)
    (root / "dagster_project.toml").write_text(PROJECT + EASY_GATE, encoding="utf-8")
    (root / "features.sql").write_text(FEATURES, encoding="utf-8")
    return load_project(root, environment={"MODELFLOW_HOME": str(home), **environment})


def store_of(project: Project) -> FeatureStore:
    return FeatureStore(project.flow("orders"), root=project.root, home=project.home)


def live(project: Project, days: Iterable[int]) -> None:
    """Let the flow live these days: facts come, are absorbed, and teach it; what is there already is gone over."""
    flow, store, registry = project.flow("orders"), store_of(project), registry_of(project)
    for day in days:
        for kind, facts in day_of_orders(day, 200).items():
            last = store.log.last(kind)
            through = START + timedelta(days=day + 1)
            if last is None or last.through < through:
                store.log.append(kind, facts, through=through)
        store.absorb()
        trained = train_full(flow, store, registry) if day == 0 else train_increment(flow, store, registry)
        if trained is not None:
            judge_and_promote(flow, registry, trained)


def head_state(project: Project) -> tuple[int, str]:
    """Return the head's watermark, and the digest of its whole trainer's state."""
    registry = registry_of(project)
    head = registry.head("orders")
    assert head is not None
    with registry.proved(head) as package:
        model = PipelineModel.load(package.directory / STATE, project.flow("orders").pipeline)
        return head.watermark, model.state_digest()


@dataclass
class Places:
    """A project at work and an empty place for another, with what names each one's databases.

    Attributes
    ----------
    start : callable
        Starts what the other one needs once its databases are there, and returns its project.
    """

    one: Project
    two: Project
    here: list[str]
    there: list[str]
    start: Callable[[], Project]


@pytest.fixture(params=["sqlite", pytest.param("server", marks=pytest.mark.slow)])
def places(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Places]:
    """Yield both places, on files, and as they are deployed."""
    here, there = tmp_path / "here", tmp_path / "there"
    if request.param == "sqlite":
        empty_registry(here / "mlflow" / "mlflow.db")
        two = project_at(tmp_path / "two", home=there)
        yield Places(project_at(tmp_path / "one", home=here), two, [], [], lambda: two)
        return
    # an MLflow server over PostgreSQL that hands artifacts out, the ledger in a database of its own
    address = sa.make_url(request.getfixturevalue("postgresql"))
    names = ("here_mlflow", "here_ledger", "there_mlflow", "there_ledger")
    engine = sa.create_engine(address, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for name in names:
            connection.exec_driver_sql(f"create database {name}")
    engine.dispose()
    uri = {name: address.set(database=name).render_as_string(hide_password=False) for name in names}
    with Supervisor(tmp_path / "servers") as servers:

        def served(name: str, root: Path, home: Path) -> Project:
            port = free_port()
            command = [
                *(sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"),
                *("--backend-store-uri", uri[f"{name}_mlflow"]),
                *("--artifacts-destination", str(home / "mlflow" / "artifacts")),
            ]
            servers.start(f"mlflow-{name}", command)
            servers.wait_until(f"mlflow-{name}", lambda: answers(port, "/health"))
            told = {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{port}", "MODELFLOW_LEDGER_URI": uri[f"{name}_ledger"]}
            return project_at(root, home=home, **told)

        not_yet = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "MODELFLOW_LEDGER_URI": uri["there_ledger"]}
        yield Places(
            served("here", tmp_path / "one", here),
            project_at(tmp_path / "two", home=there, **not_yet),
            [uri["here_mlflow"]],
            [uri["there_mlflow"]],
            lambda: served("there", tmp_path / "two", there),
        )


def test_a_backup_under_load_continues_bit_for_bit_elsewhere(places: Places, tmp_path: Path) -> None:
    """The story of the day the machine is lost."""
    one = places.one
    live(one, range(FIRST_DAYS))
    lived = [FIRST_DAYS]
    reached, done = threading.Event(), threading.Event()
    failed: list[BaseException] = []

    def days() -> Iterator[int]:
        """Yield the days that come until the backup is made, and some more."""
        while not done.is_set():
            yield lived[-1]
            reached.set()
            lived.append(lived[-1] + 1)
        for _ in range(MORE_DAYS):
            yield lived[-1]
            lived.append(lived[-1] + 1)

    def go_on() -> None:
        try:
            live(one, days())
        except BaseException as error:
            failed.append(error)
            reached.set()
            raise

    working = threading.Thread(target=go_on)
    working.start()
    reached.wait(120)
    command = [MODELFLOW, "backup", tmp_path / "backup", "--json"]
    for uri in places.here:
        command += ["--database", uri]
    environment = os.environ | {
        "MODELFLOW_HOME": str(one.home),
        "MLFLOW_TRACKING_URI": one.tracking_uri,
        "MODELFLOW_LEDGER_URI": one.ledger_uri,
    }
    made = subprocess.run(
        command, cwd=one.root, env=environment, capture_output=True, text=True, check=False, timeout=200
    )
    done.set()
    working.join(300)
    assert made.returncode == 0, made.stderr
    assert not failed
    told = json.loads(made.stdout)

    restore(places.two, tmp_path / "backup", place_of(places.two, tuple(places.there)))
    two = places.start()
    watermark, _ = head_state(two)
    assert watermark == told["flows"]["orders"]["watermark"] < head_state(one)[0]
    assert store_of(two).progress().next_example >= watermark

    days_there = (store_of(two).log.newest()[0].through - START).days
    live(two, range(days_there - 1, lived[-1]))
    assert head_state(two) == head_state(one)
    assert store_of(two).examples(0, 10_000).equals(store_of(one).examples(0, 10_000))
    assert len(registry_of(two).ledger.entries("orders")) >= told["flows"]["orders"]["entry"]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a place with a small platform under `here` and its backup."""
    place = tmp_path_factory.mktemp("small")
    empty_registry(place / "here" / "mlflow" / "mlflow.db")
    one = project_at(place / "one", home=place / "here")
    live(one, range(1))
    take(one, place / "backup", place_of(one))
    return place


@pytest.fixture
def backed_up(small: Path, tmp_path: Path) -> tuple[Path, Project]:
    """Return a copy of its backup, and an empty project to restore it into."""
    shutil.copytree(small / "backup", tmp_path / "backup")
    return tmp_path / "backup", project_at(tmp_path / "two", home=tmp_path / "there")


def test_a_restored_registry_knows_its_artifacts_new_place(small: Path, backed_up: tuple[Path, Project]) -> None:
    """The old machine is gone, and a version's package must not be looked for there."""
    directory, two = backed_up
    restore(two, directory, place_of(two))
    (small / "here").rename(small / "gone")
    try:
        head_state(two)
    finally:
        (small / "gone").rename(small / "here")


@pytest.mark.parametrize("harm", ["altered", "missing", "added", "no manifest", "later format"])
def test_a_damaged_backup_is_refused_and_nothing_is_put_anywhere(backed_up: tuple[Path, Project], harm: str) -> None:
    directory, two = backed_up
    victim = next((directory / "artifacts").rglob("*.onnx"))
    if harm == "altered":
        content = bytearray(victim.read_bytes())
        content[len(content) // 2] ^= 1
        victim.write_bytes(bytes(content))
    elif harm == "missing":
        victim.unlink()
    elif harm == "added":
        (directory / "flows" / "orders" / "log" / "more").write_text("x")
    elif harm == "no manifest":
        (directory / MANIFEST).unlink()
    else:
        manifest = json.loads((directory / MANIFEST).read_text())
        (directory / MANIFEST).write_text(json.dumps(manifest | {"format": 2}))
    with pytest.raises(BackupError, match=r"expected (every file as it was copied|a backup)"):
        restore(two, directory, place_of(two))
    assert not two.home.exists()


def test_what_is_there_is_never_overwritten(backed_up: tuple[Path, Project]) -> None:
    directory, two = backed_up
    restore(two, directory, place_of(two))
    before = head_state(two)
    with pytest.raises(BackupError, match="expected no state there yet"):
        restore(two, directory, place_of(two))
    with pytest.raises(BackupError, match="expected nothing there yet"):
        take(two, directory, place_of(two))
    assert head_state(two) == before


def test_a_server_that_hides_its_database_has_to_be_told_of(tmp_path: Path) -> None:
    one = project_at(tmp_path / "one", home=tmp_path / "here", MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    with pytest.raises(BackupError, match="--database"):
        place_of(one, ("http://127.0.0.1:9",))
    with pytest.raises(BackupError, match="expected a database at"):
        take(one, tmp_path / "backup", place_of(one))


def test_a_backup_without_its_artifacts_has_to_be_asked_for(small: Path, tmp_path: Path) -> None:
    """One that cannot be restored is worse than none."""
    one = project_at(small / "one", home=small / "here")
    with pytest.raises(BackupError, match="--without-artifacts"):
        take(one, tmp_path / "backup", place_of(one, artifacts=tmp_path / "elsewhere"))
    assert not (tmp_path / "backup").exists()
    manifest = take(one, tmp_path / "backup", place_of(one, without_artifacts=True))
    assert manifest["artifacts"] is None
    assert not (tmp_path / "backup" / "artifacts").exists()


def test_versions_let_go_meanwhile_are_noticed(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = project_at(small / "one", home=small / "here")
    copied = taking._artifacts

    def slow(source: Path, target: Path) -> None:
        copied(source, target)
        ledger = registry_of(one).ledger
        last = ledger.newest("orders")
        held = ledger.begin(replace(last, kind="delete", version=None), after=last)
        assert held is not None
        ledger.settle(held)

    monkeypatch.setattr(taking, "_artifacts", slow)
    with pytest.raises(BackupError, match="retention let versions go"):
        take(one, tmp_path / "backup", place_of(one))


def test_nothing_is_put_anywhere_while_one_database_is_in_use(backed_up: tuple[Path, Project], tmp_path: Path) -> None:
    """Half a restore could be taken for a whole one."""
    directory, two = backed_up
    manifest = json.loads((directory / MANIFEST).read_text())
    shutil.copy(directory / "databases" / "0.dump", directory / "databases" / "1.dump")
    manifest["databases"] = ["sqlite", "sqlite"]
    manifest["files"]["databases/1.dump"] = manifest["files"]["databases/0.dump"]
    (directory / MANIFEST).write_text(json.dumps(manifest))
    free, used = tmp_path / "there" / "free.db", tmp_path / "used.db"
    used.touch()
    with pytest.raises(BackupError, match="expected no database"):
        restore(two, directory, replace(place_of(two), databases=(f"sqlite:///{free}", f"sqlite:///{used}")))
    assert not free.exists()

"""A disk that is really full: nothing is lost or read in half, the error names the place, and the same command goes on.

The disk is a file system in memory of some megabytes, mounted for a test and filled up to a few bytes with ballast.
Each step meets it with less and less ballast until it has room; what came of it then is what an undisturbed life comes
to, bit for bit.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from ml_core.data import FeatureStore
from ml_core.data.ingest import take_in
from ml_core.errors import DiskFullError
from ml_core.flow.backup import restore, take
from ml_core.flow.backup.restoring import prove
from ml_core.flow.backup.taking import place_of
from ml_core.flow.read import ModelAddress
from ml_core.project import Project
from serving.follower import Follower
from serving.following import FollowerSettings
from tests.faults.one_life import FLOW, live, project_at, standing, write_orders
from tests.registries import empty_registry

pytestmark = pytest.mark.slow

NOW = datetime(2024, 6, 1, tzinfo=UTC)
SIZE = 64 << 20
# of the 300 orders of two days, those whose label is known two hours later
EXAMPLES = 287
ROOM = [0, 4 << 10, 16 << 10, 64 << 10, 128 << 10, 256 << 10, 512 << 10, *(n << 20 for n in (1, 2, 4, 8, 16))]
SAME = ("watermark", "manifest", "state", "trained_through", "features", "examples", "metrics", "rows", "segments")


class Disk:
    """A mounted file system and what fills it."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def leave(self, room: int) -> None:
        """Fill it but for so many bytes."""
        self.free()
        found = os.statvfs(self.place)
        with (self.place / "ballast").open("wb") as ballast:
            ballast.write(b"\0" * max(0, found.f_bavail * found.f_frsize - room))

    def free(self) -> None:
        """Take the ballast away."""
        (self.place / "ballast").unlink(missing_ok=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """Mount a small file system; it is unmounted whatever happens."""
    if os.getuid() != 0:
        pytest.skip("only root may mount the small file system that is filled here")
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(place)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"this machine lets nobody mount a file system: {mounted.stderr.strip()}")
    try:
        yield Disk(place)
    finally:
        # databases of this process may still be open on it: it goes when they do
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def met(disk: Disk, step: Callable[[], object]) -> list[DiskFullError]:
    """Take a step with more and more room until it is made; return what was said before."""
    said = []
    for room in ROOM:
        disk.leave(room)
        try:
            step()
        except DiskFullError as error:
            said.append(error)
        else:
            break
        finally:
            disk.free()
    else:
        raise AssertionError(f"expected the step to be made with {ROOM[-1]} bytes, found {said[-1]}")
    for error in said:
        assert error.retryable
        assert "full" in str(error)
        assert "run the same command again" in str(error)
        assert str(disk.place) in str(error)
    return said


def undisturbed(root: Path) -> dict[str, Any]:
    root.mkdir(exist_ok=True)
    write_orders(root, 2)
    project = project_at(root, root / "home")
    empty_registry(root / "home" / "mlflow" / "mlflow.db")
    return live(project, NOW)


@pytest.fixture
def project(disk: Disk, tmp_path: Path) -> Project:
    """Return a project whose home is the small disk."""
    made = project_at(tmp_path / "root", disk.place / "home")
    write_orders(tmp_path / "root", 2)
    empty_registry(disk.place / "home" / "mlflow" / "mlflow.db")
    return made


def store_of(project: Project) -> FeatureStore:
    return FeatureStore(project.flow(FLOW), root=project.root, home=project.home)


def test_from_the_source_to_a_version_every_step_goes_on_where_the_disk_was_full(
    disk: Disk, project: Project, tmp_path: Path
) -> None:
    """The store is made, facts are taken in and absorbed, a version is trained, published and promoted."""
    flow = project.flow(FLOW)
    assert met(disk, lambda: take_in(flow, store_of(project), root=project.root, now=NOW))
    assert not list((project.home / "flows").rglob("*.part"))
    assert met(disk, lambda: store_of(project).absorb())
    assert store_of(project).progress().next_example == EXAMPLES
    assert met(disk, lambda: live(project, NOW))

    found, expected = standing(project), undisturbed(tmp_path / "other")
    assert {name: found[name] for name in SAME} == {name: expected[name] for name in SAME}


def test_a_store_that_grows_is_whole_after_a_full_disk(disk: Disk, project: Project, tmp_path: Path) -> None:
    """An increment's facts meet a full disk: the first days' examples stay what they were."""
    live(project, NOW)
    before = store_of(project).examples(0, EXAMPLES)
    write_orders(project.root, 4)
    flow = project.flow(FLOW)
    met(disk, lambda: take_in(flow, store_of(project), root=project.root, now=NOW))
    assert met(disk, lambda: store_of(project).absorb())
    assert before.num_rows == EXAMPLES
    assert store_of(project).examples(0, EXAMPLES).equals(before)
    met(disk, lambda: live(project, NOW))  # the absorption may have left it room enough
    undisturbed(tmp_path / "other")
    write_orders(tmp_path / "other", 4)
    expected = live(project_at(tmp_path / "other", tmp_path / "other" / "home"), NOW)
    found = standing(project)
    assert {name: found[name] for name in SAME} == {name: expected[name] for name in SAME}


def test_a_backup_that_finds_no_room_leaves_nothing_that_could_be_taken_for_one(
    disk: Disk, project: Project, tmp_path: Path
) -> None:
    """Half a backup would be found out on the day it is needed."""
    live(project, NOW)
    backup = disk.place / "backups" / "monday"
    backup.parent.mkdir()

    def step() -> None:
        try:
            take(project, backup, place_of(project))
        except DiskFullError:
            assert list(backup.parent.iterdir()) == []
            raise

    assert met(disk, step)
    assert prove(backup)["flows"][FLOW]["head"] is not None
    elsewhere = project_at(tmp_path / "two", tmp_path / "there")
    restore(elsewhere, backup, place_of(elsewhere))
    assert standing(elsewhere) == standing(project)


def test_a_sidecar_whose_cache_is_full_serves_the_new_version_and_keeps_the_old_one(disk: Disk, tmp_path: Path) -> None:
    """A cache that cannot be written costs the cache, never a swap."""
    from tests.serving.conftest import FolderRegistry

    registry = FolderRegistry(tmp_path / "registry")
    for version in (1, 2, 3):
        registry.add(version)
    settings = FollowerSettings(cache=disk.place / "cache")
    address = ModelAddress.parse("models:/f/Production")
    follower = Follower(address, "folder", settings=settings, registry=registry)
    registry.promote(1)
    follower.step()
    for room, version in ((0, 2), (4 << 10, 3)):
        disk.leave(room)
        registry.promote(version)
        follower.step()
        assert follower.current is not None
        assert (follower.current.version, follower.quarantine) == (version, ())
        assert [path.name for path in (disk.place / "cache").glob("incoming*")] == []
    disk.free()
    registry.down = RuntimeError("the registry is gone")  # type: ignore[assignment]
    later = Follower(address, "folder", settings=settings, registry=registry)
    later.step()
    assert later.current is not None
    assert later.current.version == 1, "what was kept before is kept"
    shutil.rmtree(disk.place / "cache")

"""What a released version wrote still loads and goes on, and what a later one wrote is refused with what to do."""

import base64
import json
import sqlite3
import tarfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from ml_core.errors import BackupError, DataError, PackageError, RegistryError, SegmentError, StateError
from ml_core.flow import topic
from ml_core.flow.backup import restore
from ml_core.flow.backup.restoring import prove
from ml_core.flow.backup.taking import MANIFEST, place_of
from ml_core.flow.package import read_manifest
from ml_core.flow.registry import registry_of
from ml_core.pipeline.state import read_state
from ml_core.project import Project, load_project
from scripts.write_fixture import live, standing, store_of
from serving import LocalPredictor

FORMATS = sorted(Path(__file__).parent.glob("format-*"))
KINDS = ("ordered", "arrived")


@dataclass
class Written:
    """What a release left, unpacked, and a project that it was restored into.

    Attributes
    ----------
    state : Path
        The unpacked archive: `backup/`, `next/`, `topic.json` and `project/`.
    expected : mapping
        What the release said of it.
    """

    state: Path
    expected: dict[str, Any]
    project: Project


def unpacked(folder: Path, place: Path) -> Path:
    with tarfile.open(folder / "state.tar.xz") as packed:
        packed.extraction_filter = getattr(tarfile, "data_filter", None)  # Python 3.11.4 and newer have one
        packed.extractall(place)  # noqa: S202 - written by us
    return place


@pytest.fixture(params=FORMATS, ids=lambda folder: str(folder.name))
def written(request: pytest.FixtureRequest, tmp_path: Path) -> Written:
    """Restore what a release wrote."""
    state = unpacked(request.param, tmp_path / "state")
    project = load_project(state / "project", environment={"MODELFLOW_HOME": str(tmp_path / "home")})
    restore(project, state / "backup", place_of(project))
    return Written(state, json.loads((request.param / "expected.json").read_text()), project)


def test_there_is_a_fixture_for_every_format() -> None:
    """A glob that finds nothing passes every test."""
    assert "format-1" in {folder.name for folder in FORMATS}
    assert max(int(folder.name.partition("-")[2]) for folder in FORMATS) == len(FORMATS)


@pytest.mark.slow
def test_a_flow_that_a_release_wrote_goes_on_bit_for_bit(written: Written) -> None:
    """An upgrade is no reason to train a flow again from the beginning, nor to learn an example twice."""
    project, expected = written.project, written.expected
    assert standing(project) == expected["before"]
    examples = store_of(project).examples(0, 10_000)
    assert examples.num_rows == expected["before"]["next_example"]
    assert examples.select(["offset", "key", "label"]).slice(0, 20).to_pydict() == expected["examples"]
    live(project, expected["day"], {kind: pq.read_table(written.state / "next" / f"{kind}.parquet") for kind in KINDS})
    assert standing(project) == expected["after"]


def test_a_version_that_a_release_published_is_served_as_it_was(written: Written) -> None:
    told = written.expected["predictions"]
    address = f"models:/orders/{written.expected['before']['head']}"
    with LocalPredictor(address, tracking_uri=written.project.tracking_uri) as predictor:
        found = [predictor.predict(row).score for row in told["rows"]]
    assert found == pytest.approx(told["scores"], abs=1e-6)


def test_records_that_a_release_put_on_a_model_topic_are_read(written: Written) -> None:
    """A predictor that is brought up to date first finds what the older learner published."""
    reader = topic.ModelReader()
    models = [
        reader.read(base64.b64decode(record["value"]), {k: v.encode() for k, v in record["headers"].items()})
        for record in json.loads((written.state / "topic.json").read_text())
    ]
    read = [model for model in models if model is not None]
    assert [model.described["version"] for model in read] == [1, 2]
    assert [model.golden_scores for model in read] == [[0.1], [0.2]]
    with registry_of(written.project).proved(registry_of(written.project).version("orders", 2)) as package:
        graph = (package.directory / "model.onnx").read_bytes()
    _, parameters = topic.take_apart(graph)
    assert {name: array.tobytes() for name, array in read[-1].parameters.items()} == {
        name: array.tobytes() for name, array in parameters.items()
    }


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Return what the newest format's release wrote, unpacked."""
    return unpacked(FORMATS[-1], tmp_path / "state")


def edited(file: Path, **changed: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))


def test_a_later_package_is_refused(state: Path) -> None:
    manifest = next((state / "backup" / "artifacts").rglob("manifest.json"))
    edited(manifest, format=99)
    with pytest.raises(PackageError, match=r"expected package format \d+, found 99; bring this installation up"):
        read_manifest(manifest.parent)


def test_a_later_trainers_state_is_refused(state: Path) -> None:
    description = next((state / "backup" / "artifacts").rglob("state.json"))
    edited(description, format=99)
    with pytest.raises(StateError, match=r"expected state format \d+, found 99; bring this installation up"):
        read_state(description.parent)


def test_a_later_backup_is_refused(state: Path) -> None:
    edited(state / "backup" / MANIFEST, format=99, release="9.0")
    with pytest.raises(BackupError, match=r"format \d+, found 99, made by release 9.0; restore it with that release"):
        prove(state / "backup")


def test_a_later_record_on_a_model_topic_is_refused(monkeypatch: pytest.MonkeyPatch, state: Path) -> None:
    """The last good model goes on serving, and the reason can be read."""
    record = json.loads((state / "topic.json").read_text())[0]
    headers = {name: value.encode() for name, value in record["headers"].items()}
    monkeypatch.setattr("ml_core.flow.topic.publication.FORMAT", 0)
    reader = topic.ModelReader()
    assert reader.read(base64.b64decode(record["value"]), headers) is None
    assert "expected format 0, found 2; bring this predictor up to date" in (reader.problem or "")


def restored(state: Path) -> Project:
    project = load_project(state / "project", environment={"MODELFLOW_HOME": str(state / "home")})
    restore(project, state / "backup", place_of(project))
    return project


def test_a_later_feature_store_is_refused(state: Path) -> None:
    """DuckDB says so itself; we say which file it is and where the facts are."""
    project = restored(state)
    file = store_of(project).directory / "store.duckdb"
    content = bytearray(file.read_bytes())
    assert content[8:12] == b"DUCK"
    content[12:20] = (9_999).to_bytes(8, "little")
    file.write_bytes(bytes(content))
    for question in (store_of(project).absorb, lambda: store_of(project).examples(0, 1)):
        with pytest.raises(DataError, match=r"store\.duckdb: expected a file that DuckDB .* reads.*use that release"):
            question()


def test_a_later_progress_is_refused(state: Path) -> None:
    project = restored(state)
    edited(store_of(project).directory / "progress.json", invented_later=1)
    with pytest.raises(DataError, match=r"progress\.json: expected a progress of .*invented_later.*use that release"):
        store_of(project).progress()
    store_of(project).absorb()
    assert store_of(project).progress().next_example == 400, "it is made anew from the store"


def test_a_later_name_of_a_segment_is_refused(state: Path) -> None:
    project = restored(state)
    segment = store_of(project).log.newest()[0].path
    segment.rename(segment.with_name("v2-" + segment.name))
    with pytest.raises(SegmentError, match=r"expected <first>-<next>-<through>\.parquet, found 'v2-"):
        store_of(project).absorb()


def test_a_segment_that_is_no_parquet_of_ours_is_refused(state: Path) -> None:
    project = restored(state)
    folder = store_of(project).log.newest()[0].path.parent
    later = folder / "00000000000000000400-00000000000000000401-20240504T000000000000Z.parquet"
    later.write_bytes(b"PAR9 of a later release")
    (folder.parent / ("arrived" if folder.name == "ordered" else "ordered") / later.name).write_bytes(b"PAR9")
    with pytest.raises(SegmentError, match="expected"):
        store_of(project).absorb()


@pytest.mark.parametrize(
    "change",
    [
        lambda database: database.execute("alter table modelflow_ledger rename column details to more_details"),
        lambda database: database.execute("alter table modelflow_ledger add column epoch integer not null default 0"),
    ],
    ids=["one is missing", "one that has to be filled in"],
)
def test_a_later_ledger_is_refused(state: Path, change: Callable[[sqlite3.Connection], Any]) -> None:
    """What is written down about who promoted what must not be written in half."""
    project = restored(state)
    with closing(sqlite3.connect(project.ledger_uri.removeprefix("sqlite:///"))) as database, database:
        change(database)
    with pytest.raises(RegistryError, match=r"expected the table modelflow_ledger .*use that release"):
        registry_of(project).ledger.newest("orders")

"""Packages: whole and unaltered, or refused by name."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ml_core.errors import PackageError
from ml_core.flow.package import MANIFEST, as_feed, file_digest, verify_package
from tests.flow.conftest import rows

MakePackage = Callable[..., Path]


def test_a_package_reproduces_its_golden_rows(make_package: MakePackage) -> None:
    directory = make_package()
    package = verify_package(directory, expect_digest=file_digest(directory / MANIFEST))
    feed = as_feed({name: rows()[name].to_pylist() for name in package.signature}, package.signature)
    golden = json.loads((directory / "golden.json").read_text())
    np.testing.assert_allclose(package.score(feed), golden["scores"], atol=1e-6)


def test_the_same_model_makes_the_same_bytes(make_package: MakePackage) -> None:
    """The digest in the registry means something only if nothing in a package depends on when it was made."""
    first, second = make_package("first"), make_package("second")
    assert file_digest(first / MANIFEST) == file_digest(second / MANIFEST)


def test_no_file_of_a_package_is_pickle(make_package: MakePackage) -> None:
    for path in make_package().rglob("*"):
        assert path.is_dir() or (path.suffix != ".pkl" and not path.read_bytes().startswith(b"\x80"))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_flipped_byte_anywhere_is_loaded(make_package: MakePackage, tmp_path: Path, data: st.DataObject) -> None:
    """Any byte of any file: the registry's digest covers the manifest, and the manifest everything else."""
    original = tmp_path / "original"
    if not original.exists():
        shutil.copytree(make_package(), original)
    digest = file_digest(original / MANIFEST)
    directory = tmp_path / "flipped"
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(original, directory)
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    file = data.draw(st.sampled_from(files))
    content = bytearray(file.read_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= data.draw(st.integers(1, 255))
    file.write_bytes(content)
    with pytest.raises(PackageError, match=file.name):
        verify_package(directory, expect_digest=digest)


@pytest.mark.parametrize(
    "name", ["model.onnx", "golden.json", "signature.json", "MLmodel", "state/state.npz", MANIFEST]
)
def test_a_missing_or_cut_file_is_named(make_package: MakePackage, name: str) -> None:
    directory = make_package()
    file = directory / name
    content = file.read_bytes()
    digest = file_digest(directory / MANIFEST)
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(PackageError, match=file.name):
        verify_package(directory, expect_digest=digest)
    file.unlink()
    with pytest.raises(PackageError, match=file.name):
        verify_package(directory, expect_digest=digest)


def test_two_swapped_files_are_refused(make_package: MakePackage) -> None:
    directory = make_package()
    one, other = directory / "signature.json", directory / "golden.json"
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)
    with pytest.raises(PackageError, match=r"golden\.json|signature\.json"):
        verify_package(directory)


def test_an_extra_file_a_link_and_a_way_out_are_refused(make_package: MakePackage, tmp_path: Path) -> None:
    extra = make_package("extra")
    (extra / "more.py").write_text("print()", encoding="utf-8")
    with pytest.raises(PackageError, match="not in the manifest"):
        verify_package(extra)
    linked = make_package("linked")
    (linked / "model.onnx").rename(tmp_path / "elsewhere.onnx")
    (linked / "model.onnx").symlink_to(tmp_path / "elsewhere.onnx")
    with pytest.raises(PackageError, match="link"):
        verify_package(linked)
    escaping = make_package("escaping")
    manifest = json.loads((escaping / MANIFEST).read_text())
    manifest["files"]["../outside"] = {"sha256": "0" * 64, "size": 1}
    (escaping / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(PackageError, match="leads out"):
        verify_package(escaping)


def test_another_scorer_than_the_fixed_one_is_refused_even_under_a_matching_manifest(make_package: MakePackage) -> None:
    """Whoever can write the registry could sign any manifest; the one Python file is pinned by us."""
    directory = make_package()
    scorer = directory / "code/modelflow_pyfunc.py"
    scorer.write_text(scorer.read_text() + "\n", encoding="utf-8")
    manifest = json.loads((directory / MANIFEST).read_text())
    manifest["files"]["code/modelflow_pyfunc.py"] = {"sha256": file_digest(scorer), "size": scorer.stat().st_size}
    (directory / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(PackageError, match="the one fixed scorer"):
        verify_package(directory)


def test_a_graph_that_answers_otherwise_than_its_trainer_is_refused(make_package: MakePackage) -> None:
    """A graph swapped together with its digest still fails its golden rows."""
    directory, other = make_package(), make_package("other", passes=3)
    shutil.copy(other / "model.onnx", directory / "model.onnx")
    manifest = json.loads((directory / MANIFEST).read_text())
    manifest["files"]["model.onnx"] = json.loads((other / MANIFEST).read_text())["files"]["model.onnx"]
    (directory / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(PackageError, match="golden scores within"):
        verify_package(directory)

"""The package of a version: graph, trainer state and golden rows under a manifest of sha256 digests.

A package is a folder. Nothing in it is executed by Model Flow's own predictors, and none of it is pickle:

manifest.json        sha256 and size of every other file; its own digest stands in the registry
model.onnx           the pipeline model as one graph: a named 1-D input per raw column, output `score`
signature.json       the raw columns, in order, each `string` or `float`
golden.json          rows with the scores the trainer gave them
state/               what training resumes from; predictors do not read it
MLmodel, code/, ...  what a plain MLflow client needs

`verify_package` proves a package before it may be served. This module imports neither MLflow nor anything a trainer
needs.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pyarrow as pa
from numpy.typing import NDArray

from ml_core.errors import PackageError

MANIFEST = "manifest.json"
GRAPH = "model.onnx"
SIGNATURE = "signature.json"
GOLDEN = "golden.json"
STATE = "state"
PYFUNC = "code/modelflow_pyfunc.py"
FORMAT = 1
# what a predictor reads beside the manifest; the rest is the trainers', and plain MLflow clients'
PREDICTS = (GRAPH, SIGNATURE, GOLDEN)

# How far a predictor's score may lie from the trainer's: the graph answers in float32.
TOLERANCE = 1e-6
_REQUIREMENTS = ("mlflow>=3,<4", "numpy>=1.26", "onnxruntime>=1.20", "pandas>=2")


@dataclass(frozen=True, slots=True)
class Package:
    """A verified package, ready to score.

    Attributes
    ----------
    signature : mapping of str to str
        The raw columns in order, each ``string`` or ``float``.
    session : onnxruntime.InferenceSession
        The loaded graph.
    """

    directory: Path
    signature: Mapping[str, str]
    session: onnxruntime.InferenceSession

    def score(self, feed: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Return the graph's score of each row, for one 1-D array per column.

        Shape (n_rows,), or (n_rows, n_classes) where there are more classes than two.
        """
        scores: NDArray[np.float32] = self.session.run(None, feed)[0]
        return scores


def write_package(
    directory: Path,
    *,
    graph: bytes,
    state: Path,
    signature: Mapping[str, str],
    golden: pa.Table,
    golden_scores: NDArray[np.float64],
    feature_fingerprint: str,
) -> str:
    """Write a package into a new folder and return the digest of its manifest.

    Parameters
    ----------
    graph : bytes
        The serialised ONNX graph.
    state : Path
        A folder whose files are the trainer's state; they are copied.
    signature : mapping of str to str
    golden : pyarrow.Table
        Rows of the signature's columns, odd ones among them.
    golden_scores : ndarray of float64, shape (n_golden,) or (n_golden, n_classes)
        The trainer's own scores of those rows.
    feature_fingerprint : str
    """
    directory.mkdir(parents=True)
    (directory / GRAPH).write_bytes(graph)
    shutil.copytree(state, directory / STATE)
    _write_json(directory / SIGNATURE, dict(signature))
    rows = {name: _json_column(golden.column(name), kind) for name, kind in signature.items()}
    _write_json(directory / GOLDEN, {"rows": rows, "scores": golden_scores.tolist()})
    (directory / PYFUNC).parent.mkdir()
    shutil.copyfile(Path(__file__).with_name("pyfunc.py"), directory / PYFUNC)
    _write_mlflow_files(directory, signature, golden_scores.shape[1:])
    manifest = {
        "format": FORMAT,
        "feature_fingerprint": feature_fingerprint,
        "files": {name: _described(directory / name) for name in _files(directory)},
    }
    _write_json(directory / MANIFEST, manifest)
    return file_digest(directory / MANIFEST)


def verify_package(directory: Path, *, expect_digest: str | None = None, whole: bool = True) -> Package:
    """Prove a package whole, unaltered and able to reproduce its golden rows, and load its graph.

    Parameters
    ----------
    expect_digest : str, optional
        The digest of the manifest, as the registry recorded it.
    whole : bool
        Whether every file of the manifest has to be there. Followers fetch only those that predict (`PREDICTS`); what
        else lies there has to be the manifest's all the same.

    Raises
    ------
    PackageError
        Names the file, what was expected and what was found.
    """
    manifest = read_manifest(directory, expect_digest=expect_digest)
    check_files(directory, manifest, whole=whole)
    pinned = file_digest(Path(__file__).with_name("pyfunc.py"))
    if manifest["files"].get(PYFUNC, {}).get("sha256") != pinned:
        raise PackageError(f"{directory / PYFUNC}: expected the one fixed scorer ({pinned[:12]}), found another file")
    signature = _read_json(directory / SIGNATURE)
    package = Package(directory, signature, _load_graph(directory / GRAPH))
    inputs = {node.name: node.type for node in package.session.get_inputs()}
    expected = {name: f"tensor({kind})" for name, kind in signature.items()}
    if inputs != expected:
        raise PackageError(f"{directory / GRAPH}: expected the inputs of the signature, {expected}, found {inputs}")
    _prove_golden(package)
    return package


def read_manifest(directory: Path, *, expect_digest: str | None = None) -> dict[str, Any]:
    """Return the manifest; raise PackageError when it is not the one the registry recorded."""
    path = directory / MANIFEST
    if not path.is_file():
        raise PackageError(f"{path}: expected a manifest, found none; the package is not whole")
    if expect_digest is not None and file_digest(path) != expect_digest:
        raise PackageError(
            f"{path}: expected sha256 {expect_digest}, found {file_digest(path)}; the manifest was altered"
        )
    manifest = _read_json(path)
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise PackageError(f"{path}: expected a manifest, found something else; publish the version again")
    if (found := manifest.get("format")) != FORMAT:
        raise PackageError(
            f"{path}: expected package format {FORMAT}, found {found!r}; bring this installation up to the release that"
            " published the version, or publish the version again with this one"
        )
    for name in manifest["files"]:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise PackageError(f"{path}: {name!r} leads out of the package")
    return manifest


def check_files(directory: Path, manifest: Mapping[str, Any], *, whole: bool = True) -> None:
    """Hold every file against the manifest; raise PackageError for one that is missing, extra or altered."""
    found, expected = set(_files(directory)) - {MANIFEST}, set(manifest["files"])
    for name in sorted((expected if whole else set(PREDICTS)) - found):
        raise PackageError(f"{directory / name}: expected by the manifest, found missing")
    for name in sorted(found - expected):
        raise PackageError(f"{directory / name}: not in the manifest; a package holds nothing else")
    for name, described in ((name, manifest["files"][name]) for name in sorted(found)):
        if _described(directory / name) != described:
            raise PackageError(f"{directory / name}: expected {described}, found {_described(directory / name)}")


def as_feed(columns: Mapping[str, list[Any]], signature: Mapping[str, str]) -> dict[str, NDArray[Any]]:
    """Turn JSON-like columns into the graph's inputs: a null is "" in a string column, NaN in a number column."""
    feed: dict[str, NDArray[Any]] = {}
    for name, kind in signature.items():
        values = columns[name]
        if kind == "string":
            feed[name] = np.array(["" if value is None else value for value in values], object)
        else:
            feed[name] = np.array([np.nan if value is None else value for value in values], np.float32)
    return feed


def golden_rows(package: Package) -> dict[str, NDArray[Any]]:
    """Return the golden rows as the graph takes them."""
    return as_feed(_read_json(package.directory / GOLDEN)["rows"], package.signature)


def distance(found: NDArray[Any], expected: NDArray[np.float64]) -> float:
    """Return how far scores lie apart at most: absolute up to 1, as every probability is, relative above."""
    return float((np.abs(found - expected) / np.maximum(1.0, np.abs(expected))).max(initial=0.0))


def _prove_golden(package: Package) -> None:
    path = package.directory / GOLDEN
    golden = _read_json(path)
    expected = np.array(golden["scores"], np.float64)
    try:
        found = package.score(as_feed(golden["rows"], package.signature)).astype(np.float64)
    except Exception as error:  # onnxruntime's errors have no base of their own
        raise PackageError(f"{path}: the graph failed on the golden rows: {error}") from error
    if found.shape != expected.shape or not np.isfinite(found).all():
        raise PackageError(f"{path}: expected {expected.size} finite scores, found {found}")
    worst = distance(found, expected)
    if worst > TOLERANCE:
        raise PackageError(f"{path}: expected the golden scores within {TOLERANCE}, found one {worst:.3g} away")


def _load_graph(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4  # a graph that cannot be loaded is reported by us, once
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises a dozen unrelated classes here
        raise PackageError(f"{path}: expected a graph this onnxruntime can load, found: {error}") from error


def _write_mlflow_files(directory: Path, signature: Mapping[str, str], width: tuple[int, ...]) -> None:
    """Describe the package as an MLflow model; the same bytes for the same signature."""
    types = {"string": "string", "float": "double"}
    inputs = [{"name": name, "type": types[kind], "required": True} for name, kind in signature.items()]
    outputs = [{"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, *width]}}]
    described = {
        "flavors": {
            "python_function": {
                "loader_module": Path(PYFUNC).stem,
                "code": str(Path(PYFUNC).parent),
                "data": GRAPH,
                "env": {"virtualenv": "python_env.yaml"},
                "python_version": "3.11.0",
            }
        },
        "mlflow_version": "3.17.2",
        "signature": {"inputs": json.dumps(inputs), "outputs": json.dumps(outputs), "params": None},
    }
    # JSON is YAML, and its bytes depend on nothing but its content
    _write_json(directory / "MLmodel", described)
    _write_json(
        directory / "python_env.yaml",
        {"python": "3.11", "build_dependencies": [], "dependencies": ["-r requirements.txt"]},
    )
    (directory / "requirements.txt").write_text("\n".join(_REQUIREMENTS) + "\n", encoding="utf-8")


def _json_column(column: pa.ChunkedArray, kind: str) -> list[Any]:
    if kind == "string":
        return list(column.to_pylist())
    return [None if value is None or np.isnan(value) else value for value in column.cast(pa.float32()).to_pylist()]


def _files(directory: Path) -> list[str]:
    """Return the names of all files below `directory`, sorted; raise PackageError for anything but a file."""
    names = []
    for path in sorted(directory.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise PackageError(f"{path}: expected a plain file, found a link or a device")
        if path.is_file():
            names.append(path.relative_to(directory).as_posix())
    return names


def _described(path: Path) -> dict[str, Any]:
    return {"sha256": file_digest(path), "size": path.stat().st_size}


def file_digest(path: Path) -> str:
    """Return the sha256 of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1, sort_keys=path.name != SIGNATURE) + "\n", encoding="utf-8")


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PackageError(f"{path}: expected JSON, found {error}") from error

"""`make bench-defaults`: why the learners' defaults are what they are, on real data sets from installed packages.

Every candidate goes over the rows once, in their order, and is charged the loss of each row before it learns it. What a
candidate lost is told as regret: how much more than the best of all candidates on that data set, in per cent. A default
has to do well everywhere rather than best anywhere, so candidates are ranked by their worst regret.
"""

import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray
from river import datasets as streams
from sklearn import datasets as tables

from benchmarks.flights import SCHEMA, wide_flights
from ml_core.pipeline import PipelineModel
from ml_core.pipeline.sidebyside import SideBySide
from ml_core.project import PipelineSettings
from ml_core.training.tasks import row_loss, task_of

_ALPHAS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
_PENALTIES = (0.0, 0.1, 1.0)
_BATCH_ROWS = 8_192
_FLIGHTS = 100_000
_OUT = Path("var/bench/defaults.json")

Set = tuple[pa.Table, NDArray[np.float64], int]


def sets() -> Iterator[tuple[str, Set]]:
    """Yield data sets by name: columns, labels, and how many classes there are (0 for numbers)."""
    flights = wide_flights(_FLIGHTS)
    yield "flights (100,000, of 11 string columns)", (flights.select(list(SCHEMA)), _numbers(flights.column("late")), 2)
    for name, stream, classes in (
        ("phishing", streams.Phishing(), 2),
        ("bananas", streams.Bananas(), 2),
        ("image segments", streams.ImageSegments(), 7),
        ("chick weights", streams.ChickWeights(), 0),
        ("approval", streams.TrumpApproval(), 0),
    ):
        rows, labels = zip(*stream, strict=True)
        known = sorted(set(labels), key=str)
        coded = [known.index(label) for label in labels] if classes else labels
        yield f"{name} ({len(labels):,})", (_shown(rows), _scaled(coded, classes), classes)
    for name, load, classes in (
        ("breast cancer", tables.load_breast_cancer, 2),
        ("digits", tables.load_digits, 10),
        ("diabetes", tables.load_diabetes, 0),
    ):
        values, labels = load(return_X_y=True)
        order = np.random.default_rng(0).permutation(labels.size)  # some are sorted by their label
        columns = {f"c{place}": values[order, place].astype(np.float32) for place in range(values.shape[1])}
        yield f"{name} ({labels.size:,})", (pa.table(columns), _scaled(labels[order], classes), classes)


def _shown(rows: tuple[Mapping[str, Any], ...]) -> pa.Table:
    return pa.table({name: np.array([float(row[name]) for row in rows], np.float32) for name in rows[0]})


def _scaled(labels: ArrayLike, classes: int) -> NDArray[np.float64]:
    """Return classes as they are, and numbers with mean 0 and variance 1: rates are in units of the labels."""
    numbers = np.asarray(labels, np.float64)
    return numbers if classes else (numbers - numbers.mean()) / numbers.std()


def _numbers(column: pa.ChunkedArray) -> NDArray[np.float64]:
    return np.asarray(column.to_numpy(), np.float64)


def losses(data: Set, grid: list[dict[str, Any]]) -> NDArray[np.float64]:
    """Return the mean prequential loss of each candidate; infinite where it diverged."""
    rows, labels, classes = data
    strings = [field.name for field in rows.schema if pa.types.is_string(field.type)]
    numbers = [name for name in rows.column_names if name not in strings]
    stages: list[dict[str, Any]] = [{"stage": "standardise", "columns": numbers}]
    if strings:
        stages.append({"stage": "hash", "columns": strings, "bits": 18})
    schema = {name: "string" if name in strings else "float" for name in rows.column_names}
    estimator: dict[str, Any] = {"name": "FTRLClassifier" if classes else "FTRLRegressor"}
    if classes > 2:
        estimator["n_classes"] = classes
    models = SideBySide(
        [
            PipelineModel.build(PipelineSettings(stages=tuple(stages), estimator=estimator | each), schema)
            for each in grid
        ]
    )
    task, lost = task_of(classes), np.zeros(len(grid))
    batches = rows.append_column("label", pa.array(labels)).combine_chunks().to_batches(_BATCH_ROWS)
    for truth, said in models.learn(batches):
        for place, scores in enumerate(said):
            with np.errstate(over="ignore"):  # a rate that is too high diverges, and is charged for it
                errors = (scores - truth) ** 2 if task == "regression" else row_loss(task, truth, scores)
                lost[place] += errors.sum()
    return np.where(np.isfinite(lost), lost, np.inf) / labels.size


def main() -> None:
    """Print, per optimiser, every data set's regret for its best candidates, and write the figures."""
    found: dict[str, Any] = {}
    named = dict(sets())
    for optimizer in ("ftrl", "adagrad", "adam", "sgd"):
        penalties = _PENALTIES if optimizer == "ftrl" else (0.0,)
        grid = [{"optimizer": optimizer, "alpha": alpha, "l1": l1, "l2": l2}
                for alpha, l1, l2 in itertools.product(_ALPHAS, penalties, penalties)]  # fmt: skip
        for task, kept in (("classes", lambda classes: classes > 0), ("numbers", lambda classes: classes == 0)):
            lost = np.stack([losses(data, grid) for data in named.values() if kept(data[2])])
            regret = 100 * (lost / lost.min(axis=1, keepdims=True) - 1)
            order = np.argsort(regret.max(axis=0))
            names = [name for name, data in named.items() if kept(data[2])]
            print(f"\n{optimizer}, {task}: {', '.join(names)}")
            for place in order[:6]:
                told = "  ".join(f"{min(value, 9999):7.1f}%" for value in regret[:, place])
                print(f"  alpha {grid[place]['alpha']:<5} l1 {grid[place]['l1']:<4} l2 {grid[place]['l2']:<4}  {told}")
            found[f"{optimizer} {task}"] = {
                "sets": names,
                "candidates": grid,
                "losses": lost.tolist(),
            }
    _OUT.parent.mkdir(parents=True, exist_ok=True)
    _OUT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""A pipeline with parts of other libraries, tried on made-up rows before it is built: what cannot be served is refused.

Every part is fitted, written as a graph, and its graph held against it, on rows with nulls, empty, unseen and non-ASCII
strings and numbers far out; so a flow learns on the day it is written, and not after a night's training, which stage
is in the way. The same rehearsal is what the component catalogue reports.
"""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import pyarrow as pa
from numpy.typing import NDArray

from ml_core.errors import ExportError, ModelFlowError
from ml_core.pipeline.columns import read_columns
from ml_core.pipeline.graph import GraphWriter
from ml_core.pipeline.parts import assembled

if TYPE_CHECKING:
    from ml_core.pipeline.model import PipelineModel

_ROWS = 240
_TOLERANCE = 1e-6
_WORDS = np.array([None, "", "a", "b", "Zürich \u2708", "日本"], object)
_UNSEEN = np.array([None, "", "a", "\u2603 never seen", "A"], object)


def rehearse(model: "PipelineModel") -> None:
    """Fit a copy of an untrained model on made-up rows and hold each part's graph against it.

    Raises
    ------
    ExportError
        A part refused the rows, cannot be written, or its graph says something else; it is named.
    """
    labels = made_up_labels(model.n_classes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about made-up rows there is nothing to warn of
        copy = type(model)(model.settings, model.signature)
        with _in("the pipeline"):
            copy.fit(made_up_rows(model.signature), labels)
        for far in (0.0, 1e6):
            rows = made_up_rows(model.signature, far=far, unseen=True)
            for position, stage in enumerate(copy.stages):
                if stage in copy.foreign and stage.n_slots:
                    with _in(f"pipeline.stages[{position}] {stage.kind!r}"):
                        _hold(*_up_to(copy, position, rows))
            with _in(f"pipeline.estimator {copy.head.name!r}"):
                _hold(run_graph(copy.to_onnx(), rows, copy.signature), copy.predict(rows))


def made_up_rows(signature: Mapping[str, str], *, far: float = 0.0, unseen: bool = False) -> pa.Table:
    """Return rows of a signature: strings of few values, numbers above 0.

    Among the numbers are equal ones, missing ones, and some `far` out; of unseen rows some hardly above 0.
    """
    draw = np.random.default_rng(1 if unseen else 0)
    columns: dict[str, Any] = {}
    for name, kind in signature.items():
        if kind == "string":
            columns[name] = pa.array(draw.choice(_UNSEEN if unseen else _WORDS, _ROWS), pa.string())
            continue
        numbers = np.abs(draw.normal(0, 3, _ROWS)).astype(np.float32)
        equal = draw.random(_ROWS) < 0.3  # noqa: PLR2004 - a third
        numbers[equal] = np.ceil(numbers[equal])
        numbers[draw.random(_ROWS) < (0.1 if unseen else 0)] = 1e-40
        numbers[draw.random(_ROWS) < 0.1] = np.nan  # noqa: PLR2004 - a tenth is missing
        numbers[draw.random(_ROWS) < (0.1 if far else 0)] = far
        columns[name] = numbers
    return pa.table(columns)


def made_up_labels(n_classes: int) -> NDArray[np.float64]:
    """Return labels of every class, or numbers above 0."""
    draw = np.random.default_rng(2)
    if not n_classes:
        return np.abs(draw.normal(5, 2, _ROWS))
    return draw.permutation(np.arange(_ROWS) % n_classes).astype(np.float64)


def run_graph(graph: bytes, rows: pa.Table, signature: Mapping[str, str]) -> NDArray[np.float64]:
    """Score raw rows through a serialised graph: a missing string is "", a missing number NaN."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    feed = {}
    for name, kind in signature.items():
        values = rows.column(name).to_pylist()
        if kind == "string":
            feed[name] = np.array([value or "" for value in values], object)
        else:
            feed[name] = np.array([np.nan if value is None else value for value in values], np.float32)
    scores: NDArray[np.float64] = session.run(None, feed)[0].astype(np.float64)
    return scores


def _up_to(model: "PipelineModel", position: int, rows: pa.Table) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return what the stage at `position` makes of the rows: by its graph, and by itself."""
    graph, parts, columns = GraphWriter(model.signature), [], read_columns(rows, model.signature)
    for stage in model.stages[: position + 1]:
        parts = [(part, 0, stage.n_slots) for part in stage.write(graph)]
        block = stage.block(columns, rows.num_rows, learn=False)
    content = graph.finish(assembled(graph, parts), width=parts[0][2])
    return run_graph(content, rows, model.signature).reshape(block.shape), block.toarray()


def _hold(found: NDArray[np.float64], expected: NDArray[np.float64]) -> None:
    apart = np.abs(found - expected) / np.maximum(1.0, np.abs(expected))
    worst = float(np.where(np.isnan(found) & np.isnan(expected), 0.0, apart).max(initial=0.0))
    if not worst <= _TOLERANCE:
        raise ExportError(f"its graph and it lie {worst:.3g} apart on the same row, at most {_TOLERANCE} allowed")


@contextmanager
def _in(part: str) -> Iterator[None]:
    """Name the part that is in the way."""
    try:
        yield
    except ModelFlowError as error:
        text = str(error)
        raise ExportError(text if text.startswith("pipeline") else f"{part}: {text}") from error
    except Exception as error:  # libraries raise classes of their own
        message = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise ExportError(f"{part}: cannot be fitted, written and scored: {message}") from error

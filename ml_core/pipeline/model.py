"""The pipeline model: stages and a learner that are trained, saved, resumed and exported together.

Its invariant: whatever way rows are batched, learning them in the same order gives the same bits, and a model that
was saved and loaded continues as if it had never stopped. Prediction is pure.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

from ml_core.errors import InputError, ProjectError, StateError
from ml_core.learners.ftrl import FTRLClassifier, learn_rows, margins, weights_of
from ml_core.pipeline.export import GraphWriter
from ml_core.pipeline.hashing import hash_strings
from ml_core.pipeline.stages import Stage, build_stage
from ml_core.project import PipelineSettings, nearest

STATE_FORMAT = 1
_ARRAYS, _DESCRIPTION = "state.npz", "state.json"

Rows = pa.Table | pa.RecordBatch


class PipelineModel:
    """Feature transforms and an FTRL-proximal learner as one model of P(label = 1).

    Build one with `PipelineModel.build`, or `load` a saved one.

    Attributes
    ----------
    signature : mapping of str to str
        The raw columns in use, in the feature table's order, each ``string`` or ``float``.
    n_trained : int
        Rows learned since the model was new.
    """

    def __init__(self, stages: tuple[Stage, ...], learner: FTRLClassifier, signature: Mapping[str, str]) -> None:
        self.signature = dict(signature)
        self.n_trained = 0
        self._stages = stages
        self._learner = learner
        self._rates = (float(learner.alpha), float(learner.beta), float(learner.l1), float(learner.l2))
        self._offsets = np.cumsum([0, *(stage.width for stage in stages)])
        self._z, self._n = np.zeros(self._offsets[-1] + 1), np.zeros(self._offsets[-1] + 1)

    @classmethod
    def build(cls, settings: PipelineSettings, schema: Mapping[str, str]) -> Self:
        """Build an untrained model.

        Parameters
        ----------
        settings : PipelineSettings
            The flow's `pipeline` table.
        schema : mapping of str to str
            The feature table's columns, each ``string`` or ``float``.

        Raises
        ------
        ProjectError
            A stage, a key, a column or the estimator does not exist; the nearest valid name is given.
        """
        stages = tuple(build_stage(spec, schema) for spec in settings.stages)
        used = {name for stage in stages for name in stage.inputs}
        signature = {name: kind for name, kind in schema.items() if name in used}
        return cls(stages, _build_learner(settings.estimator), signature)

    def learn(self, rows: Rows, labels: ArrayLike) -> NDArray[np.float64]:
        """Score each row, then learn it, in order.

        Parameters
        ----------
        rows : pyarrow.Table or RecordBatch, n_rows rows
            Holds at least the columns of `signature`.
        labels : array-like, shape (n_rows,)
            0 or 1.

        Returns
        -------
        ndarray of float64, shape (n_rows,)
            P(label = 1) of each row as the model saw it before it learned that row.

        Raises
        ------
        InputError
            A column is missing or of the wrong type, a number is infinite, or a label is not 0 or 1. The model is
            unchanged.
        """
        targets = np.asarray(labels, np.float64)
        wrong = np.flatnonzero((targets != 0.0) & (targets != 1.0))
        if targets.shape != (rows.num_rows,) or wrong.size:
            found = f"row {wrong[0]} holds {targets[wrong[0]]}" if wrong.size else f"shape {targets.shape}"
            raise InputError(f"expected {rows.num_rows} labels of 0 or 1, found: {found}")
        columns = self._columns(rows)
        scores = np.empty(rows.num_rows)
        if rows.num_rows:
            indptr, slots, values = self._entries(columns, learn=True)
            learn_rows(indptr, slots, values, targets, np.ones_like(targets), self._z, self._n, self._rates, scores)
            self.n_trained += rows.num_rows
        return scores

    def predict_proba(self, rows: Rows) -> NDArray[np.float64]:
        """Return P(label = 1) of each row, shape (n_rows,); raise InputError as `learn` does."""
        columns = self._columns(rows)
        if not rows.num_rows:
            return np.empty(0)
        return np.asarray(expit(margins(*self._entries(columns, learn=False), self._weights())))

    def to_onnx(self) -> bytes:
        """Return the model as a serialised ONNX graph; the same state gives the same bytes."""
        graph = GraphWriter(self.signature)
        weights = self._weights()
        parts = [
            stage.write(graph, weights[start:stop])
            for stage, start, stop in zip(self._stages, self._offsets, self._offsets[1:], strict=False)
        ]
        return graph.finish([*parts, graph.constant(weights[-1:])])

    def save(self, directory: Path) -> None:
        """Write the whole trainer state into `directory`: arrays as npz, everything else as JSON; no pickle."""
        arrays = self._arrays()
        np.savez_compressed(directory / _ARRAYS, **arrays)  # type: ignore[arg-type]  # NumPy types savez's options first
        description = self._description() | {"digest": _digest(arrays)}
        (directory / _DESCRIPTION).write_text(
            json.dumps(description, indent=2, sort_keys=True) + "\n", encoding="utf-8"
        )

    @classmethod
    def load(cls, directory: Path, settings: PipelineSettings) -> Self:
        """Read what `save` wrote.

        Raises
        ------
        StateError
            The state is damaged, of another format, or belongs to other stages or hyper-parameters than `settings`:
            continuing it would be a silent drift.
        """
        try:
            description = json.loads((directory / _DESCRIPTION).read_text(encoding="utf-8"))
            with np.load(directory / _ARRAYS, allow_pickle=False) as saved:
                arrays = {name: saved[name] for name in saved.files}
        except (OSError, ValueError) as error:
            raise StateError(f"{directory}: expected a saved trainer state, found {error}") from error
        if description.get("format") != STATE_FORMAT:
            raise StateError(f"{directory}: expected state format {STATE_FORMAT}, found {description.get('format')!r}")
        if _digest(arrays) != description.get("digest"):
            raise StateError(
                f"{directory}: the arrays do not match the digest saved with them; fetch the version again"
            )
        model = cls.build(settings, description["signature"])
        expected = model._description()["pipeline"]  # noqa: SLF001 - its own class
        if description["pipeline"] != expected:
            raise StateError(
                f"{directory}: saved under {description['pipeline']}, but the flow now says {expected};"
                " run a full training to change the pipeline"
            )
        model._restore(arrays, description["n_trained"])  # noqa: SLF001 - its own class
        return model

    def state_digest(self) -> str:
        """Return a sha256 over the whole state: equal exactly when two models are the same, bit for bit."""
        described = json.dumps(self._description(), sort_keys=True)
        return hashlib.sha256((described + _digest(self._arrays())).encode()).hexdigest()

    def _weights(self) -> NDArray[np.float64]:
        return weights_of(self._z, self._n, self._rates)

    def _columns(self, rows: Rows) -> dict[str, NDArray[Any]]:
        """Read the raw columns: strings as hashes, numbers as float64 by way of float32."""
        columns: dict[str, NDArray[Any]] = {}
        for name, kind in self.signature.items():
            if name not in rows.schema.names:
                raise InputError(f"expected a column {name!r} ({kind}), found none: {nearest(name, rows.schema.names)}")
            column = rows.column(name)
            array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
            if kind == "string":
                if not (pa.types.is_string(array.type) or pa.types.is_large_string(array.type)):
                    raise InputError(f"expected strings in column {name!r}, found {array.type}")
                columns[name] = hash_strings(array)
            else:
                if not (pa.types.is_floating(array.type) or pa.types.is_integer(array.type)):
                    raise InputError(f"expected numbers in column {name!r}, found {array.type}")
                numbers = array.cast(pa.float32(), safe=False).to_numpy(zero_copy_only=False)
                if np.isinf(numbers).any():
                    raise InputError(f"column {name!r}: row {np.flatnonzero(np.isinf(numbers))[0]} is infinite")
                columns[name] = numbers.astype(np.float64)
        return columns

    def _entries(
        self, columns: Mapping[str, NDArray[Any]], *, learn: bool
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        """Return the rows as CSR arrays; the last entry of each row is the intercept."""
        made = [stage.transform(columns, learn=learn) for stage in self._stages]
        rows = made[0][0].shape[0]
        slots = [part + offset for (part, _), offset in zip(made, self._offsets, strict=False)]
        slots.append(np.full((rows, 1), self._offsets[-1]))
        values = [part for _, part in made] + [np.ones((rows, 1))]
        joined = np.concatenate(slots, axis=1)
        indptr = np.arange(0, joined.size + 1, joined.shape[1])
        return indptr, joined.ravel(), np.concatenate(values, axis=1).ravel()

    def _arrays(self) -> dict[str, NDArray[Any]]:
        """Return the state's arrays; only coordinates that were ever touched are kept."""
        touched = np.flatnonzero(self._n)
        arrays = {"slots": touched, "z": self._z[touched], "n": self._n[touched]}
        for position, stage in enumerate(self._stages):
            arrays |= {f"stage{position}_{name}": values for name, values in stage.state().items()}
        return arrays

    def _restore(self, arrays: Mapping[str, NDArray[Any]], n_trained: int) -> None:
        self.n_trained = n_trained
        self._z[arrays["slots"]] = arrays["z"]
        self._n[arrays["slots"]] = arrays["n"]
        for position, stage in enumerate(self._stages):
            prefix = f"stage{position}_"
            stage.restore({name.removeprefix(prefix): arrays[name] for name in arrays if name.startswith(prefix)})

    def _description(self) -> dict[str, Any]:
        stages = [{"stage": stage.kind} | _plain(stage) for stage in self._stages]
        return {
            "format": STATE_FORMAT,
            "signature": self.signature,
            "n_trained": self.n_trained,
            "pipeline": {"stages": stages, "estimator": {"name": "FTRLClassifier"} | self._learner.get_params()},
        }


def _build_learner(spec: Mapping[str, Any]) -> FTRLClassifier:
    settings = dict(spec)
    name = settings.pop("name", None)
    if name != FTRLClassifier.__name__:
        raise ProjectError(
            f"pipeline.estimator: no estimator {name!r}: {nearest(str(name), [FTRLClassifier.__name__])}"
        )
    valid = FTRLClassifier().get_params()
    for key in settings:
        if key not in valid:
            raise ProjectError(f"pipeline.estimator: {name} has no parameter {key!r}: {nearest(key, valid)}")
    return FTRLClassifier(**settings)


def _plain(stage: Stage) -> dict[str, Any]:
    """Return a stage's configuration as JSON would give it back."""
    configuration = {name: getattr(stage, name) for name in stage.__dataclass_fields__}  # type: ignore[attr-defined]
    plain: dict[str, Any] = json.loads(json.dumps(configuration))
    return plain


def _digest(arrays: Mapping[str, NDArray[Any]]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()

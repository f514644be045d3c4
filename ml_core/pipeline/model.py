"""The pipeline model: stages and an estimator that are trained, saved, resumed and exported together.

Its invariant: whatever way rows are batched, learning them in the same order gives the same bits, and a model that
was saved and loaded continues as if it had never stopped. Prediction is pure. A refused batch changes nothing.
Parts of other libraries keep less of it, each as far as its library goes, and `way` says how far that is.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ml_core.errors import InputError, ProjectError, StateError
from ml_core.learners.linear import Csr
from ml_core.pipeline.ahead import Ahead, Laid, read_ahead
from ml_core.pipeline.columns import Columns, Rows, Words, read_columns, read_targets
from ml_core.pipeline.entries import Layout, as_csr, side_by_side
from ml_core.pipeline.estimator import build_head
from ml_core.pipeline.graph import GraphWriter
from ml_core.pipeline.rehearsal import rehearse
from ml_core.pipeline.stages import Foreign, build_stage
from ml_core.pipeline.state import Arrays, digest_of, read_state, write_state
from ml_core.project import PipelineSettings


class PipelineModel:
    """Feature transforms and an estimator as one model.

    Build one with `PipelineModel.build`, or `load` a saved one.

    Attributes
    ----------
    settings : PipelineSettings
        The stages and the estimator it was built from.
    signature : mapping of str to str
        The raw columns in use, in the feature table's order, each ``string`` or ``float``.
    n_trained : int
        Rows learned since the model was new.
    stages : tuple of Stage
    foreign : list of Foreign
        Those among them that are another library's.
    head : Head
        The estimator.
    """

    def __init__(self, settings: PipelineSettings, schema: Mapping[str, str]) -> None:
        self.stages = tuple(build_stage(spec, schema) for spec in settings.stages)
        self.head = build_head(settings.estimator)
        used = {name for stage in self.stages for name in stage.inputs}
        self.settings = settings
        self.signature = {name: kind for name, kind in schema.items() if name in used}
        self.n_trained = 0
        self.foreign = [stage for stage in self.stages if isinstance(stage, Foreign)]
        for stage in self.stages:
            stage.keeps_missing = self.head.takes_missing
        if not any(stage.n_entries for stage in self.stages) and all(part.into != "row" for part in self.foreign):
            raise ProjectError("pipeline.stages: none of them makes an entry of the row; add standardise or hash")
        self._lay_out()

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
        ExportError
            A stage or the estimator cannot be fitted or written as a graph that scores as it does; it is named.
        """
        model = cls(settings, schema)
        if model.foreign or model.head.fits:
            rehearse(model)
        return model

    @property
    def slot_bounds(self) -> list[int]:
        """Where the slots of each stage begin, and where those of the last one end."""
        return self._layout.slot_bounds

    @property
    def n_classes(self) -> int:
        """How many classes it tells apart; 0 where it predicts a number."""
        return self.head.n_classes

    @property
    def fits(self) -> bool:
        """Whether `fit` has to come before the first `learn` or `predict`."""
        return bool(self.foreign) or self.head.fits

    @property
    def way(self) -> Literal["online", "continued", "refit"]:
        """How it learns from new rows alone.

        ``online`` row by row and exactly; ``continued`` as far as a library does, a batch at a time; ``refit`` not at
        all: its successor is fitted anew, and its own state is only its graph.
        """
        if self.hindrance is not None:
            return "refit"
        return "online" if self.head.exact and all(stage.exact for stage in self.stages) else "continued"

    @property
    def by_row(self) -> bool:
        """Whether the estimator scores each row of a batch, then learns it, rather than the batch as a whole."""
        return self.head.exact

    @property
    def hindrance(self) -> str | None:
        """What cannot learn from new rows alone, and why; None where everything can."""
        for position, stage in enumerate(self.stages):
            if stage.hindrance is not None:
                return f"pipeline.stages[{position}] {stage.kind!r} cannot learn from new rows alone: {stage.hindrance}"
        if self.head.hindrance is not None:
            return f"pipeline.estimator {self.head.name!r} cannot learn from new rows alone: {self.head.hindrance}"
        return None

    def counts(self) -> dict[str, int]:
        """Return what the stages counted of the rows learned, such as ``onehot_turned_away``."""
        total: dict[str, int] = {}
        for stage in self.stages:
            for name, count in stage.counts().items():
                total[f"{stage.kind}_{name}"] = total.get(f"{stage.kind}_{name}", 0) + count
        return total

    def fit(self, rows: Rows, labels: ArrayLike) -> Self:
        """Forget everything, then learn the rows as one batch.

        Stages are fitted on all rows, each on what those before it make of them, then the estimator. An online learner
        that starts from nothing learns them row by row behind the fitted parts, as `learn` does.

        Parameters
        ----------
        rows, labels
            As for `learn`; all in memory at once.

        Raises
        ------
        InputError
            As for `learn`, or a library refused the rows. The model is unchanged.
        """
        fresh = type(self)(self.settings, self.signature)
        fresh._fit(*fresh._read(rows, labels))  # noqa: SLF001 - another of itself
        self.__dict__ = fresh.__dict__
        return self

    def learn(self, rows: Rows, labels: ArrayLike) -> NDArray[np.float64]:
        """Score each row, then learn it, in order.

        Parameters
        ----------
        rows : pyarrow.Table or RecordBatch, n_rows rows
            Holds at least the columns of `signature`; no rows at all is fine and changes nothing.
        labels : array-like, shape (n_rows,)
            0 or 1; with more classes 0 .. n_classes - 1; for a regressor finite numbers.

        Returns
        -------
        ndarray of float64, shape (n_rows,), with more classes (n_rows, n_classes)
            The score of each row as the model gave it before it learned that row: what `predict` would have said.

        Raises
        ------
        InputError
            A column is missing or of the wrong type, a number is infinite, or a label is not one. The model is
            unchanged.
        """
        return self._learn(*self._read(rows, labels))

    def learn_batches(
        self, batches: Iterable[Rows], label: str = "label"
    ) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
        """Learn a stream of batches, reading, checking and laying out the next one while this one is learned.

        The same bits as `learn` batch by batch; memory for two batches. A refused batch raises InputError when its
        turn comes, with every batch before it learned. Between two batches the model may be asked and saved, but not
        taught.

        Parameters
        ----------
        batches : iterable of pyarrow.Table or RecordBatch
            Consumed from one other thread.
        label : str
            The column that holds the labels.

        Yields
        ------
        labels, scores : ndarray of float64
            Of each batch, in order.
        """
        with closing(read_ahead(self._laid(batches, label))) as coming:
            for columns, targets, laid in coming:
                scores = self._learn(columns, targets, laid)
                if laid:
                    laid.learned()
                reached = self.n_trained
                yield targets, scores
                if self.n_trained != reached:
                    raise RuntimeError("expected nobody else to teach the model before its stream of batches ends")

    def transform(self, rows: Rows, labels: ArrayLike) -> tuple[Csr, NDArray[np.float64]]:
        """Let the stages learn rows and return what they make of them, with the labels; the estimator learns nothing.

        Raises
        ------
        InputError
            As `learn` does.
        """
        columns, targets = self._read(rows, labels)
        return self._entries(columns, targets.size, learn=True), targets

    def predict(self, rows: Rows) -> NDArray[np.float64]:
        """Return the score of each row, shaped as `learn` does; raise InputError as it does."""
        return self.head.score(self._entries(read_columns(rows, self.signature), rows.num_rows, learn=False))

    def predict_proba(self, rows: Rows) -> NDArray[np.float64]:
        """Return P(label = 1) of each row, shape (n_rows,); with more classes all of them, (n_rows, n_classes)."""
        if not self.head.n_classes:
            raise InputError(f"{self.head.name} predicts a number, not a probability: use predict")
        return self.predict(rows)

    def to_onnx(self) -> bytes:
        """Return the model as a serialised ONNX graph; the same state gives the same bytes."""
        graph = GraphWriter(self.signature)
        parts = [
            (part, start, stop)
            for stage, start, stop in zip(self.stages, self.slot_bounds, self.slot_bounds[1:], strict=False)
            for part in stage.write(graph)
        ]
        return self.head.write(graph, parts)

    def save(self, directory: Path) -> None:
        """Write the whole trainer state into `directory`: ``state.npz`` and ``state.json``."""
        write_state(directory, self._description(), self._arrays())

    @classmethod
    def load(cls, directory: Path, settings: PipelineSettings | None = None) -> Self:
        """Read what `save` wrote.

        Raises
        ------
        StateError
            The state is damaged, of another format, or belongs to other stages, hyper-parameters or releases of their
            libraries than `settings` gives now: continuing it would be a silent drift. Or it keeps only its graph.
        """
        description, arrays = read_state(directory)
        try:
            saved = PipelineSettings.model_validate(description["settings"])
            model = cls(saved if settings is None else settings, description["signature"])
            expected = model._description()
            # as text, since the order of keys lays out the slots
            if json.dumps(description["pipeline"]) != json.dumps(expected["pipeline"]):
                raise StateError(
                    f"{directory}: saved under {description['pipeline']}, but the flow now says"
                    f" {expected['pipeline']}; run a full training to change the pipeline"
                )
            if not model._kept:
                raise StateError(f"{directory}: the version keeps only its graph; {model.hindrance}")
            model._restore(arrays, int(description["n_trained"]))
        except (KeyError, TypeError, ValueError, IndexError, ProjectError) as error:
            raise StateError(f"{directory}: the state does not fit the pipeline: {error}; train in full") from error
        return model

    def state_digest(self) -> str:
        """Return a sha256 over the whole state: equal exactly when two models are the same, bit for bit."""
        return digest_of(self._description(), self._arrays())

    def _read(
        self, rows: Rows, labels: ArrayLike, known: dict[str, Words] | None = None
    ) -> tuple[Columns, NDArray[np.float64]]:
        """Check a batch and read its columns; changes nothing, so it may run ahead of learning."""
        targets = read_targets(labels, rows.num_rows, self.head.n_classes)
        return read_columns(rows, self.signature, known), targets

    def _laid(self, batches: Iterable[Rows], label: str) -> Iterator[tuple[Columns, NDArray[np.float64], Laid | None]]:
        """Yield batches as they are read, checked and laid out; the model's state is left alone."""
        ahead = None if self.foreign else Ahead(self._layout, self.stages)
        known: dict[str, Words] = {}
        for batch in batches:
            if label not in batch.schema.names:
                raise InputError(f"expected a column {label!r} of labels, found {', '.join(batch.schema.names)}")
            columns, targets = self._read(batch, batch.column(label).to_numpy(zero_copy_only=False), known)
            yield columns, targets, ahead.laid(columns, targets.size) if ahead else None

    def _learn(self, columns: Columns, targets: NDArray[np.float64], laid: Laid | None = None) -> NDArray[np.float64]:
        # only squared errors can diverge, and only libraries refuse, after the stages have taken the batch in
        safe = self.head.n_classes and self.head.exact and not self.foreign
        before = [] if safe else [stage.state() for stage in self.stages]
        try:
            scores = self.head.learn(self._entries(columns, targets.size, learn=True, laid=laid), targets)
        except InputError:
            for stage, state in zip(self.stages, before, strict=True):
                stage.restore(state)
            raise
        for position, reached in (laid.states if laid else {}).items():
            self.stages[position].restore(reached)
        self.n_trained += targets.size
        return scores

    def _entries(self, columns: Columns, rows: int, *, learn: bool, laid: Laid | None = None) -> Csr:
        """Return the rows as CSR arrays; the state adds the intercept."""
        if self.foreign:
            return side_by_side([stage.block(columns, rows, learn=learn) for stage in self.stages])
        entries, done = (laid.entries, laid.states) if laid else (self._layout.blank(rows), {})
        rest = {position: stage for position, stage in enumerate(self.stages) if position not in done}
        self._layout.fill(entries, columns, rest, learn=learn)
        return as_csr(entries)

    def _fit(self, columns: Columns, targets: NDArray[np.float64]) -> None:
        """Fit a new model on the rows as a whole."""
        given, new = dict(columns), [stage.state() for stage in self.stages]
        blocks = []
        for stage in self.stages:
            if isinstance(stage, Foreign):
                blocks.append(stage.fit(columns, targets))
                continue
            stage.block(dict(columns), targets.size, learn=True)
            blocks.append(stage.block(columns, targets.size, learn=False))
        self._lay_out()
        if self.head.fits:
            self.head.fit(side_by_side(blocks), targets)
            self.n_trained = targets.size
            return
        for stage, state in zip(self.stages, new, strict=True):
            if not isinstance(stage, Foreign):
                stage.restore(state)
        settled = [stage.policy for stage in self.foreign]
        for stage in self.foreign:
            stage.policy = "frozen"  # they know these rows already
        self._learn(given, targets)
        for stage, policy in zip(self.foreign, settled, strict=True):
            stage.policy = policy

    def _lay_out(self) -> None:
        """Give each stage its range of slots, and the head an empty state of that width."""
        self._layout = Layout(self.stages)
        self.head.start(self.slot_bounds[-1])

    @property
    def _kept(self) -> bool:
        return self.head.kept and all(stage.kept for stage in self.foreign)

    def _arrays(self) -> Arrays:
        if not self._kept:
            return {"graph_sha256": np.frombuffer(hashlib.sha256(self.to_onnx()).digest(), np.uint8)}
        arrays = {f"learner_{name}": values for name, values in self.head.arrays().items()}
        for position, stage in enumerate(self.stages):
            arrays |= {f"stage{position}_{name}": values for name, values in stage.state().items()}
        return arrays

    def _restore(self, arrays: Arrays, n_trained: int) -> None:
        for position, stage in enumerate(self.stages):
            stage.restore(_under(f"stage{position}_", arrays))
        if self.foreign:
            self._lay_out()
        self.head.restore(_under("learner_", arrays))
        self.n_trained = n_trained

    def _description(self) -> dict[str, Any]:
        """Return everything about the model but its arrays, as JSON would give it back."""
        stages = [{"stage": stage.kind} | stage.settings for stage in self.stages]
        description = {
            "settings": self.settings.model_dump(mode="json"),
            "signature": self.signature,
            "n_trained": self.n_trained,
            "pipeline": {"stages": stages, "estimator": self.head.settings()},
        }
        plain: dict[str, Any] = json.loads(json.dumps(description))
        return plain


def _under(prefix: str, arrays: Arrays) -> Arrays:
    return {name.removeprefix(prefix): values for name, values in arrays.items() if name.startswith(prefix)}

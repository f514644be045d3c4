"""Several estimators behind the same stages: every batch is read and transformed once, and each of them learns it."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from ml_core.errors import InputError, ProjectError
from ml_core.learners.linear import Csr
from ml_core.pipeline.columns import Rows
from ml_core.pipeline.heads import Head
from ml_core.pipeline.model import PipelineModel


class SideBySide:
    """Untrained pipeline models with equal stages, learned together.

    Each ends with the state it would have alone, bit for bit: stages learn no labels, and estimators only read what the
    stages made.

    Parameters
    ----------
    models : sequence of PipelineModel
        They share the stages of the first one from here on.

    Attributes
    ----------
    models : sequence of PipelineModel
    failures : list of str
        Per model, why it stopped learning, such as squared errors that diverged; empty while it has not.

    Raises
    ------
    ProjectError
        The stages differ, or a model does not learn row by row from nothing.
    """

    def __init__(self, models: Sequence[PipelineModel]) -> None:
        lead = models[0]
        for model in models:
            if model.fits or not model.by_row:
                name = model.head.name
                raise ProjectError(f"only what learns row by row can learn side by side; {name} or a stage does not")
            if model.settings.stages != lead.settings.stages or model.signature != lead.signature:
                raise ProjectError("expected models with the same stages and columns to learn side by side")
            model.stages = lead.stages
        self.models = models
        self.failures = [""] * len(models)

    def learn(
        self, batches: Iterable[Rows], label: str = "label"
    ) -> Iterator[tuple[NDArray[np.float64], list[NDArray[np.float64]]]]:
        """Score, then learn, batch after batch.

        Parameters
        ----------
        batches : iterable of pyarrow.Table or RecordBatch
        label : str
            The column that holds the labels.

        Yields
        ------
        labels : ndarray of float64, shape (n_rows,)
        scores : list of ndarray of float64
            Per model, as `PipelineModel.learn` returns them; NaN from where it failed.

        Raises
        ------
        InputError
            As `PipelineModel.learn` does, for what is wrong with the rows themselves.
        """
        with ThreadPoolExecutor() as threads:
            for batch in batches:
                entries, targets = self.models[0].transform(batch, batch.column(label))
                said = [threads.submit(self._learn, place, entries, targets) for place in range(len(self.models))]
                yield targets, [each.result() for each in said]

    def _learn(self, place: int, entries: Csr, targets: NDArray[np.float64]) -> NDArray[np.float64]:
        model = self.models[place]
        if not self.failures[place]:
            try:
                scores = model.head.learn(entries, targets)
            except InputError as error:
                self.failures[place] = str(error)
            else:
                model.n_trained += targets.size
                return scores
        return _nothing(model.head, targets.size)


def _nothing(head: Head, rows: int) -> NDArray[np.float64]:
    return np.full((rows, head.n_classes) if head.n_classes > 2 else rows, np.nan)  # noqa: PLR2004 - two share one score

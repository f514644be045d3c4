"""Test-then-train over rows whose labels come late: each is scored by what was known when it was asked about.

The order of an examples table is that of the labels, so learning it row by row answers each row as if every earlier
label had been there when it was asked about. Here a row is scored by a model that has learned exactly the labels known
by then, or by the last time the served model was brought up to date (Grzenda, Gomes and Bifet 2020; the sync interval
of Liu et al. 2022, arXiv 2209.07663).
"""

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from ml_core.pipeline import PipelineModel

NEVER = float("inf")


def prequential(
    model: PipelineModel,
    rows: pa.Table,
    labels: ArrayLike,
    *,
    asked: ArrayLike | None = None,
    delay: ArrayLike = 0,
    every: float = 0,
) -> NDArray[np.float64]:
    """Score every row when it is asked about; learn its label when it is known.

    Rows are learned in the order their labels come, ties in the order of the rows. A label that comes at the very
    instant of a request is not known yet.

    Parameters
    ----------
    model : PipelineModel
        It learns row by row, and has learned all rows whose labels are known before the last request.
    rows : pyarrow.Table, n_rows
    labels : array-like of float, shape (n_rows,)
    asked : array-like of number, shape (n_rows,)
        When each row is asked about, in any unit; by default its position.
    delay : number or array-like, shape (n_rows,)
        How long after that its label is known, in the same unit; `NEVER` for a label that does not come.
    every : float
        Labels reach the model only at multiples of this; 0 at once, `NEVER` not at all.

    Returns
    -------
    ndarray of float64, shape (n_rows,), or (n_rows, n_classes) for more than two classes

    Raises
    ------
    InputError
        As `PipelineModel.learn` does.
    """
    when = np.arange(rows.num_rows, dtype=np.float64) if asked is None else np.asarray(asked, np.float64)
    known = when + np.asarray(delay, np.float64)
    if every == NEVER:
        known = np.full(when.size, NEVER)
    elif every:
        known = np.ceil(known / every) * every
    targets = np.asarray(labels, np.float64)
    to_learn, to_ask = np.argsort(known, kind="stable"), np.argsort(when, kind="stable")
    learned_by = np.searchsorted(known[to_learn], when[to_ask], side="left")
    starts = np.flatnonzero(np.diff(learned_by, prepend=-1))
    lessons, questions = (rows.take(order).combine_chunks() for order in (to_learn, to_ask))
    truths = targets[to_learn]
    scores = np.empty((when.size, model.n_classes) if model.n_classes > 2 else when.size)  # noqa: PLR2004 - two share one
    learned = 0
    for start, end, stop in zip(starts, [*starts[1:], when.size], learned_by[starts], strict=True):
        if stop > learned:
            model.learn(lessons.slice(learned, stop - learned), truths[learned:stop])
            learned = stop
        scores[to_ask[start:end]] = model.predict(questions.slice(start, end - start))
    return scores

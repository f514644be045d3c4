"""How much a model's answers depend on each of its raw columns.

A column's values are dealt out anew among the rows, and the answers compared with those before (permutation: Breiman
2001, Machine Learning 45; Fisher, Rudin and Dominici 2019, JMLR 20). It says what the model uses, not what causes
anything; of two columns that say the same, both may look small.
"""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from ml_core.pipeline import PipelineModel

ROWS = 256


def influence(model: PipelineModel, examples: pa.Table, *, seed: int = 0) -> Mapping[str, float]:
    """Return the mean distance of a row's scores with each column dealt out anew, the largest first.

    Parameters
    ----------
    model : PipelineModel
        Trained.
    examples : pyarrow.Table, n_rows rows
        Of the model's raw columns and perhaps others; the newest 256 are used.

    Notes
    -----
    In probability, or in units of the label; of several classes, the one that moved furthest. All columns are scored
    in one call of ``n_rows * (n_columns + 1)`` rows.
    """
    columns = list(model.signature)
    rows = examples.slice(max(0, examples.num_rows - ROWS)).select(columns)
    random, own = np.random.default_rng(seed), np.arange(rows.num_rows)
    dealt = {
        name: np.concatenate([random.permutation(own) if name == other else own for other in ["", *columns]])
        for name in columns
    }
    stacked = pa.table({name: rows.column(name).take(pa.array(dealt[name])) for name in columns})
    scores = model.predict(stacked).reshape(len(columns) + 1, rows.num_rows, -1)
    moved = np.abs(scores[1:] - scores[0]).max(axis=2).mean(axis=1)
    named = dict(zip(columns, moved.tolist(), strict=True))
    return dict(sorted(named.items(), key=lambda item: -item[1]))

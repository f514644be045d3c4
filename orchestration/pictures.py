"""Small plots for the Dagster UI, as markdown with the image inside."""

import base64
import io

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ml_core.training import ScoredSlice

_BINS = 10


def calibration_plot(scored: ScoredSlice) -> str:
    """Return a reliability diagram of a scored slice: observed over mean score in ten bins of equal count.

    Of more classes than two, each class of each row counts as a question of its own.
    """
    scores, labels = scored.scores.ravel(), scored.labels
    if scored.scores.ndim > 1:
        labels = (labels[:, None] == np.arange(scored.scores.shape[1])).ravel().astype(np.float64)
    order = np.argsort(scores, kind="stable")
    bins = [part for part in np.array_split(order, _BINS) if part.size]
    predicted = [scores[part].mean() for part in bins]
    observed = [labels[part].mean() for part in bins]
    ends = [min(predicted + observed), max(predicted + observed)] if scored.task == "regression" else [0, 1]
    figure = Figure(figsize=(3.6, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.plot(ends, ends, color="#bbbbbb", linewidth=1)
    axes.plot(predicted, observed, marker="o", markersize=4, color="#1d6fb8")
    axes.set_xlabel("mean score")
    axes.set_ylabel("observed")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=80)
    return f"![calibration](data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()})"

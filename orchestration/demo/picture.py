"""The demo's picture: log loss by week, of what was served and of the first version had it stayed frozen."""

from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

_LIVE, _FROZEN, _GRID = "#1d6fb8", "#9a9a9a", "#e6e6e6"


def draw(weeks: list[dict[str, Any]], file: Path) -> None:
    """Draw the weeks of a report into a PNG."""
    figure = Figure(figsize=(9, 6), layout="constrained")
    FigureCanvasAgg(figure)
    loss, auc = figure.subplots(2, 1, sharex=True)
    starts = [week["week_starts"][5:] for week in weeks]
    for axes, name, title in ((loss, "log_loss", "log loss (lower is better)"), (auc, "auc", "AUC (higher is better)")):
        frozen = [week["frozen"][name] for week in weeks]
        live = [week["live"][name] for week in weeks]
        axes.plot(starts, frozen, color=_FROZEN, marker="o", markersize=3, label="first version, frozen")
        axes.plot(starts, live, color=_LIVE, marker="o", markersize=3, linewidth=2, label="live flow, as served")
        axes.set_title(title, loc="left", fontsize=10)
        axes.grid(axis="y", color=_GRID)
        axes.spines[["top", "right"]].set_visible(False)
    loss.legend(frameon=False, fontsize=9)
    auc.set_xlabel("week starting (2013)")
    auc.tick_params(axis="x", rotation=45)
    figure.suptitle("Flights out of New York: the model that follows its data and the one that does not", fontsize=11)
    figure.savefig(file, dpi=110, metadata={"Software": None})

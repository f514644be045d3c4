"""The demo's report: figures over what was served, and the same for the first version had it stayed frozen.

It computes from the answers the sidecar gave, the labels that arrived, and the scores of a predictor pinned to
the first version on the same rows; nothing is scored for the report alone but that frozen line. Everything in it
is reproducible except the sections `timing` and `ids`.
"""

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table

from ml_core.flow.fates import fates
from ml_core.flow.ledger import Entry
from ml_core.flow.version import ModelVersion
from ml_core.training.evaluation import Evaluation

_WEEK = np.timedelta64(7, "D")
_AT_ONCE = {"0 hours": "at once"}


@dataclass(frozen=True, slots=True)
class Served:
    """Every request of the replay whose outcome became known.

    Attributes
    ----------
    keys : list of str, of length n_rows
    asked : ndarray of datetime64[us], shape (n_rows,)
        Request time, in UTC.
    labels, live, frozen : ndarray of float64, shape (n_rows,)
        The outcome, the score that was served, and the first version's score of the same row.
    """

    keys: list[str]
    asked: NDArray[np.datetime64]
    labels: NDArray[np.float64]
    live: NDArray[np.float64]
    frozen: NDArray[np.float64]

    @classmethod
    def join(cls, rows: pa.Table, live: Sequence[float], frozen: NDArray[np.float64], examples: pa.Table) -> "Served":
        """Join the rows that were sent with the labels that arrived, by key."""
        outcome = dict(zip(examples.column("key").to_pylist(), examples.column("label").to_pylist(), strict=True))
        labels = np.array([outcome.get(key, np.nan) for key in rows.column("key").to_pylist()], np.float64)
        scores = np.asarray(live, np.float64)
        known = ~np.isnan(labels) & ~np.isnan(scores)
        asked = rows.column("request_time").cast(pa.timestamp("us")).to_numpy()
        keys = [key for key, there in zip(rows.column("key").to_pylist(), known, strict=True) if there]
        return cls(keys, asked[known], labels[known], scores[known], frozen[known])

    def weeks(self, end: datetime) -> list[dict[str, Any]]:
        """Compare live and frozen in weeks that are counted back from `end`, oldest first."""
        stop = np.datetime64(end.replace(tzinfo=None), "us")
        back = (stop - np.timedelta64(1, "us") - self.asked) // _WEEK
        return [
            {"week_starts": str((stop - (week + 1) * _WEEK).astype("datetime64[D]"))} | self._compare(back == week)
            for week in sorted(set(back.tolist()), reverse=True)
        ]

    def over(self, end: datetime, weeks: int) -> dict[str, Any]:
        """Compare live and frozen over the last `weeks` weeks before `end`."""
        return self._compare(self.asked >= np.datetime64((end - timedelta(weeks=weeks)).replace(tzinfo=None), "us"))

    def beside(self, streamed: pa.Table) -> list[dict[str, Any]]:
        """Compare what the stream's followers would have answered, by sync interval, and what was served.

        Parameters
        ----------
        streamed : pyarrow.Table
            `key`, `request_time`, and a column of scores per interval; a row for each request.
        """
        place = {key: number for number, key in enumerate(streamed.column("key").to_pylist())}
        chosen = np.array([place[key] for key in self.keys], np.int64)
        intervals = streamed.column_names[2:]
        scores = {f"stream, {_AT_ONCE.get(name, name)}": streamed.column(name).to_numpy()[chosen] for name in intervals}
        return [
            {"model": name, "rows": self.labels.size} | _figures(self.labels, answered)
            for name, answered in {**scores, "increments, as served": self.live}.items()
        ]

    def _compare(self, chosen: NDArray[np.bool_]) -> dict[str, Any]:
        labels = self.labels[chosen]
        return {
            "rows": labels.size,
            "late_share": round(float(labels.mean()), 6),
            "live": _figures(labels, self.live[chosen]),
            "frozen": _figures(labels, self.frozen[chosen]),
        }


def _figures(labels: NDArray[np.float64], scores: NDArray[np.float64]) -> dict[str, float]:
    evaluation = Evaluation.of(labels, scores)
    return {"auc": round(evaluation.auc, 6), "log_loss": round(evaluation.log_loss, 6)}


def version_rows(versions: Sequence[ModelVersion], entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Describe each version, and by the ledger's entries what became of it, by what is the same in every run."""
    fate = fates(versions, entries)
    return [
        {
            "version": version.version,
            "kind": version.kind,
            "stage": version.stage,
            "parent": version.parent,
            "watermark": version.watermark,
            "trained_through": version.trained_through.isoformat(),
            "verdict": None if version.verdict is None else ("accepted" if version.verdict.accepted else "refused"),
            "log_loss": round(version.metrics["log_loss"], 6),
            "auc": round(version.metrics["auc"], 6),
            "fate": fate[version.version],
        }
        for version in versions
    ]


def request_counts(versions: Sequence[int], failures: Sequence[str]) -> dict[str, Any]:
    """Count the requests, the failed ones, and the changes of the version that answered."""
    answered = [version for version in versions if version]
    return {
        "sent": len(versions),
        "answered": len(answered),
        "failed": len(failures),
        "reloads": sum(before != after for before, after in itertools.pairwise(answered)),
        "by_version": {str(version): count for version, count in sorted(Counter(answered).items())},
    }


def write(report: dict[str, Any], file: Path) -> None:
    """Write the report as indented JSON, whole or not at all."""
    part = file.with_suffix(".part")
    part.write_bytes(orjson.dumps(report, option=orjson.OPT_INDENT_2) + b"\n")
    part.replace(file)


def show(report: dict[str, Any], console: Console) -> None:
    """Print the report as tables."""
    table = _table("Versions of the flow")
    for column in ("version", "kind", "parent", "watermark", "trained\nthrough", "log\nloss", "AUC", "fate"):
        table.add_column(column, justify="left" if column in {"kind", "fate"} else "right")
    for row in report["versions"]:
        table.add_row(
            str(row["version"]),
            row["kind"],
            "" if row["parent"] is None else str(row["parent"]),
            str(row["watermark"]),
            row["trained_through"][:10],
            f"{row['log_loss']:.4f}",
            f"{row['auc']:.4f}",
            row["fate"],
        )
    console.print(table)

    table = _table("What was served, week by week, beside the first version had it stayed frozen")
    for column in ("week starts", "rows", "late", "log loss live", "frozen", "AUC live", "frozen"):
        table.add_column(column, justify="right")
    spans = [(week["week_starts"], week) for week in report["weeks"]]
    for name, span in [*spans, ("last 8 weeks", report["last_8_weeks"]), ("all", report["all"])]:
        live, frozen = span["live"], span["frozen"]
        table.add_row(
            name,
            str(span["rows"]),
            f"{span['late_share']:.1%}",
            *(f"{figures['log_loss']:.4f}" for figures in (live, frozen)),
            *(f"{figures['auc']:.4f}" for figures in (live, frozen)),
        )
    console.print(table)
    table = _table("By how often the served model takes up what was learned, all requests")
    for column in ("model", "rows", "log loss", "AUC"):
        table.add_column(column, justify="left" if column == "model" else "right")
    for row in report["sync_intervals"]:
        table.add_row(row["model"], str(row["rows"]), f"{row['log_loss']:.4f}", f"{row['auc']:.4f}")
    console.print(table)
    requests = report["requests"]
    console.print(
        f"{requests['answered']} of {requests['sent']} requests answered by the sidecar, {requests['failed']} failed,"
        f" {requests['reloads']} reloads."
    )


def _table(title: str) -> Table:
    """Return a table that leaves room for its columns in a terminal of 80."""
    return Table(title=title, box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)

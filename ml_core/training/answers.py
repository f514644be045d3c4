"""What predictors answered, joined with the labels that came later: how each version really did.

Predictors log what they answer (`serving.log`), each row with the key of its entity. Its label is the one that the
feature store's own label join gave that key, whenever it arrived; there is no second rule for labels. Versions that
scored the same requests, one served and one in its shadow, are compared row by row, and the gate hears of it.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
from numpy.typing import NDArray

from ml_core.data.store import FeatureStore
from ml_core.errors import DataError
from ml_core.flow.logged import LIVE, SUFFIX
from ml_core.flow.parity import Parity, replay
from ml_core.flow.read import open_registry
from ml_core.flow.registry import Registry
from ml_core.flow.verdict import Verdict, signed
from ml_core.project import Flow, GateSettings
from ml_core.training.evaluation import evidence_of
from ml_core.training.intervals import paired_interval
from ml_core.training.tasks import Task, figures, row_loss

Compared = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]
"""Labels, and what a challenger and a champion said of the same rows."""

_ATTEMPTS = 5
_TIMEOUT_S = 30.0
_PARITY_FILES = 20
_MOST_ROWS = 100_000
_LOG = """
    with log as (select * from read_parquet($files, union_by_name = true)),
    labels as (select key::varchar as key, label::double as label, "offset" from examples)
"""
_EACH = """
    , joined as (
        select version, coalesce(role, 'served') as role, score, label,
               row_number() over (partition by version, role order by labels."offset" desc nulls last) as place
        from log left join labels on log.key = labels.key
    )
    select version, role, count(*), count(label),
           list(score order by place) filter (label is not null and place <= $most),
           list(label order by place) filter (label is not null and place <= $most)
    from joined group by version, role order by version, role
"""
_BOTH = """
    select label, shadow.score, served.score
    from log as shadow
    join log as served on shadow.request_id = served.request_id and shadow.row = served.row and shadow.at = served.at
    join labels on shadow.key = labels.key
    where shadow.role = 'shadow' and served.role = 'served' and shadow.version = $challenger
      and served.version = $champion
    order by labels."offset" desc
    limit $most
"""


@dataclass(frozen=True, slots=True)
class Answered:
    """How one version did in one role.

    Attributes
    ----------
    version : int
    role : {"served", "canary", "shadow", "streamed"}
    rows, labelled : int
        Rows it scored, and those of them whose label is known by now.
    figures : mapping of str to float
        As `ml_core.training.tasks.figures` names them, over the newest 100,000 labelled rows; empty without any.
    """

    version: int
    role: str
    rows: int
    labelled: int
    figures: Mapping[str, float]


class Answers:
    """The prediction log of a flow beside its labels.

    Parameters
    ----------
    flow : Flow
    store : FeatureStore

    Attributes
    ----------
    folder : Path or None
        Where the flow's sidecars log; None where the flow says nothing of it.
    """

    def __init__(self, flow: Flow, store: FeatureStore) -> None:
        told = flow.serving.prediction_log
        self.folder = None if told is None else store.home / told
        self._flow = flow
        self._store = store

    def files(self) -> list[Path]:
        """Return the files of the log, the oldest first."""
        return [] if self.folder is None else sorted(self.folder.glob(f"*{SUFFIX}"))

    def look(self, registry: Registry) -> tuple[list[Answered], Parity]:
        """Return how each version did, and whether the newest answers are those of the registry's packages.

        What was found of the versions is written beside the log, too, where the sidecar's page shows it.

        Raises
        ------
        DataError
            The log cannot be read.
        """
        head = registry.head(self._flow.name)
        found = self.live(None if head is None else evidence_of(registry, head).task)
        self._tell(found)
        reader = open_registry(registry.tracking_uri, timeout_s=_TIMEOUT_S)
        try:
            return found, replay(self.files()[-_PARITY_FILES:], reader, self._flow.name)
        finally:
            reader.close()

    def live(self, task: Task | None = None) -> list[Answered]:
        """Return how each version did, by version and role.

        Parameters
        ----------
        task : {"binary", "multiclass", "regression"}, optional
            By default ``binary``, or ``multiclass`` where a score is a list.
        """
        return [_answered(row, task) for row in self._asked(_EACH, {"most": _MOST_ROWS})]

    def compared(self, challenger: int, champion: int, most: int) -> Compared:
        """Return labels and both versions' scores of requests that the champion answered, shadowed by the challenger.

        The newest labels, at most `most`, in their order.
        """
        rows = self._asked(_BOTH, {"challenger": challenger, "champion": champion, "most": most})[::-1]
        labels, ours, theirs = (np.array([row[place] for row in rows], np.float64) for place in range(3))
        return labels, ours, theirs

    def _tell(self, found: list[Answered]) -> None:
        if self.folder is not None and self.folder.exists():
            part = self.folder / f".{LIVE}.part"
            part.write_text(json.dumps(list(table(found))), encoding="utf-8")
            part.replace(self.folder / LIVE)

    def _asked(self, query: str, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """Ask the log and the labels; files that predictors remove meanwhile are passed over."""
        for attempt in range(_ATTEMPTS):
            files = [str(file) for file in self.files()]
            if not files:
                return []
            try:
                with self._store.reading() as connection:
                    return connection.execute(_LOG + query, {"files": files, **values}).fetchall()
            except duckdb.IOException as error:
                if attempt == _ATTEMPTS - 1:
                    raise DataError(
                        f"{self.folder}: expected whole Parquet files of predictions, found: {error}"
                    ) from error
            except duckdb.Error as error:
                raise DataError(f"{self.folder}: expected files of a prediction log, found: {error}") from error
        raise AssertionError("the last attempt returns or raises")


def heard(settings: GateSettings, verdict: Verdict, live: Compared, task: Task) -> Verdict:
    """Return a verdict with what live requests said of the two versions.

    A challenger that shadowed at least ``gate.min_rows`` labelled answers of the champion is refused where its loss on
    them is worse: where the lower end of the interval of the difference lies above ``gate.max_live_regression``.
    """
    labels, ours, theirs = live
    shown = dict(verdict.figures) | {"live_rows": float(labels.size)}
    against = []
    if labels.size >= settings.min_rows:
        differences = row_loss(task, labels, ours) - row_loss(task, labels, theirs)
        lower, upper = paired_interval(differences, confidence=settings.confidence)
        shown |= {"live_difference_lower": lower, "live_difference_upper": upper}
        if not lower <= settings.max_live_regression:
            against.append(
                f"on {labels.size} live requests it answered in the shadow, its loss exceeds the champion's by at least"
                f" {signed(lower)}, at most {signed(settings.max_live_regression)} allowed"
            )
    accepted = verdict.accepted and not against  # it can only be refused by what was heard
    return replace(verdict, accepted=accepted, reasons=(*verdict.reasons, *against), figures=shown)


def _answered(row: tuple[Any, ...], task: Task | None) -> Answered:
    version, role, rows, labelled, scores, labels = row
    if not labelled:
        return Answered(version, role, rows, 0, {})
    said, known = np.array(scores, np.float64), np.array(labels, np.float64)
    task = task or ("multiclass" if said.ndim > 1 else "binary")
    return Answered(version, role, rows, labelled, figures(task, known, said))


def table(found: list[Answered]) -> Iterator[dict[str, Any]]:
    """Yield a row of a table for each version and role."""
    for each in found:
        yield {"version": each.version, "role": each.role, "rows": each.rows, "labelled": each.labelled} | {
            name: each.figures[name] for name in ("loss", "auc", "calibration_error") if name in each.figures
        }

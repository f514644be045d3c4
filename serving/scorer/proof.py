"""A row scorer is used only after it has said what the graph says, on the golden rows and on odd mixtures of them.

A graph without one is an ordinary thing. A scorer that disagrees is a mistake of ours: it is told in the log and not
used, and the version is served by its graph, which is proved on its own.
"""

import logging
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from serving.rows import Feed, RowReader
from serving.scorer.expression import NotCoveredError
from serving.scorer.row import RowScorer
from serving.scorer.yielding import let_others_run

_LOG = logging.getLogger("modelflow.serving")
_TOLERANCE: Final = 1e-6
_MIXTURES: Final = 64
_ODD: Final[Mapping[str, Sequence[Any]]] = {
    "string": (None, "", "x", "four", "\u2603", "a\0b", "longer than four", "\U0001f6eb and more of it"),
    "float": (None, 0, -1.0, 1e-30, 0.1, 1e6, -1e9, 3e38),
}


def prove_scorer(
    packed: bytes, rows: RowReader, score: Callable[[Feed], NDArray[np.float32]], golden: Mapping[str, Sequence[Any]]
) -> RowScorer | None:
    """Return the row scorer of a packed graph, proved; None where there is none.

    Parameters
    ----------
    packed : bytes
    rows : RowReader
    score : callable
        The graph's own scores.
    golden : mapping of column to values
    """
    try:
        scorer = RowScorer.of(packed, rows.signature, refuse_extra=rows.refuse_extra)
        probes = [*_golden(golden), *_mixtures(rows.signature, golden)]
        worst = 0.0
        for probe, expected in zip(probes, score(rows.records(probes)), strict=True):
            let_others_run()
            found = scorer.score(probe)
            worst = max(worst, np.inf if found is None else abs(found - expected))
    except NotCoveredError as reason:
        _LOG.info("rows are scored by the graph; no faster way covers %s", reason)
        return None
    except Exception:  # no shortcut may keep a version that is sound from being served  # noqa: BLE001
        _LOG.exception("rows are scored by the graph; reading a faster way off it failed")
        return None
    if not worst <= _TOLERANCE:
        _LOG.error("rows are scored by the graph; the faster way lies %s from it", worst)
        return None
    return scorer


def _golden(golden: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(golden, values, strict=True)) for values in zip(*golden.values(), strict=True)]


def _mixtures(signature: Mapping[str, str], golden: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Return rows that take each column's value from any golden row, or an odd one; the same ones every time."""
    draw = random.Random(0)  # noqa: S311 - the same mixtures every time are what is wanted
    pools = {name: (*golden[name], *_ODD[kind]) for name, kind in signature.items()}
    return [{name: draw.choice(pool) for name, pool in pools.items()} for _ in range(_MIXTURES)]

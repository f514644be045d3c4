"""A faster scorer is used only after it has said what the graph says, on the golden rows and on odd mixtures of them.

A graph without one is an ordinary thing. A scorer that disagrees is a mistake of ours: it is told in the log and not
used, and the version is served by its graph, which is proved on its own.
"""

import logging
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ml_core.flow.package import TOLERANCE, distance
from serving.rows import Feed, RowReader
from serving.scorer.columns import ColumnScorer
from serving.scorer.expression import NotCoveredError
from serving.scorer.reading import read_expression
from serving.scorer.row import RowScorer
from serving.scorer.terms import take_apart
from serving.scorer.yielding import let_others_run

_LOG = logging.getLogger("modelflow.serving")
_MIXTURES: Final = 64
_ODD: Final[Mapping[str, Sequence[Any]]] = {
    "string": (None, "", "x", "four", "\u2603", "a\0b", "longer than four", "\U0001f6eb and more of it"),
    "float": (None, 0, -1.0, 1e-30, 0.1, 1e6, -1e9, 3e38),
}


@dataclass(frozen=True, slots=True)
class Scorers:
    """What is read off one graph, for a row and for many."""

    row: RowScorer
    columns: ColumnScorer


def read_scorers(packed: bytes, rows: RowReader) -> Scorers:
    """Derive the scorers of a packed graph; raise NotCoveredError where there are none."""
    total = take_apart(read_expression(packed, rows.signature), rows.signature)
    row = RowScorer(total, rows.signature, refuse_extra=rows.refuse_extra)
    return Scorers(row, ColumnScorer(total, rows.signature, row.words))


def prove_scorers(
    packed: bytes, rows: RowReader, score: Callable[[Feed], NDArray[np.float32]], golden: Mapping[str, Sequence[Any]]
) -> Scorers | None:
    """Return the scorers of a packed graph, proved; None where there are none.

    Parameters
    ----------
    packed : bytes
    rows : RowReader
    score : callable
        The graph's own scores.
    golden : mapping of column to values
    """
    try:
        scorers = read_scorers(packed, rows)
        probes = [*_golden(golden), *_mixtures(rows.signature, golden)]
        worst = _apart(scorers, probes, score(rows.records(probes)))
    except NotCoveredError as reason:
        _LOG.info("rows are scored by the graph; no faster way covers %s", reason)
        return None
    except Exception:  # no shortcut may keep a version that is sound from being served  # noqa: BLE001
        _LOG.exception("rows are scored by the graph; reading a faster way off it failed")
        return None
    if not worst <= TOLERANCE:
        _LOG.error("rows are scored by the graph; the faster way lies %s from it", worst)
        return None
    return scorers


def _apart(scorers: Scorers, probes: Sequence[Mapping[str, Any]], expected: NDArray[np.float32]) -> float:
    """Return how far the scorers' answers lie from the graph's, infinitely where there is none."""
    single = []
    for probe in probes:
        let_others_run()
        single.append(scorers.row.score(probe))
    columns = {name: [probe[name] for probe in probes] for name in probes[0]}
    strings = {name: pa.array(columns[name], pa.string()) for name in scorers.row.words}
    together, by_bytes = scorers.columns.score(columns), scorers.columns.score({**columns, **strings})
    if None in single or together is None or by_bytes is None:
        return math.inf
    return max(distance(np.array(found), expected.astype(np.float64)) for found in (single, together, by_bytes))


def _golden(golden: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(golden, values, strict=True)) for values in zip(*golden.values(), strict=True)]


def _mixtures(signature: Mapping[str, str], golden: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Return rows that take each column's value from any golden row, or an odd one; the same ones every time."""
    draw = random.Random(0)  # noqa: S311 - the same mixtures every time are what is wanted
    pools = {name: (*golden[name], *_ODD[kind]) for name, kind in signature.items()}
    return [{name: draw.choice(pool) for name, pool in pools.items()} for _ in range(_MIXTURES)]

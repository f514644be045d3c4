"""Drift: whether requests, scores or losses are still those that the flow's last full training learned from.

The reference is the time up to where the lineage's full training ended; the newest days are held against it. PSI, the
population stability index (Siddiqi 2006, Credit Risk Scorecards), is the sum over bins of (p - q) ln(p / q); KS is the
largest distance between two distribution functions. The loss is that of the lineage's own rows, each scored before it
was learned; ADWIN says where its mean changed. Nothing here acts: what is found is a value.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.stats import ks_2samp

from ml_core.data.store import FeatureStore
from ml_core.errors import VersionNotFoundError
from ml_core.flow.package import Package, as_feed
from ml_core.flow.registry import Registry
from ml_core.flow.version import ModelVersion
from ml_core.project import Flow
from ml_core.training.adwin import Adwin
from ml_core.training.charts import Line, chart
from ml_core.training.evaluation import ScoredSlice, evidence_of
from ml_core.training.tasks import row_loss

CHECKS = ("drift_features", "drift_scores", "drift_loss")

_ROWS, _FEWEST_ROWS = 5_000, 200
_BINS, _CATEGORIES, _FLOOR = 10, 20, 1e-4
_BLOCK, _LONGEST, _GENERATIONS = 32, 100_000, 1_000
_PRIMED = 5_000
_CAP = 2.0  # a row's loss is cut off here: ADWIN takes values of a bounded range


@dataclass(frozen=True, slots=True)
class Drift:
    """What one of `CHECKS` found.

    Attributes
    ----------
    name : str
    passed : bool
    said : str
    figures : mapping of str to float
    table : sequence of (column, PSI, KS)
        The columns, those that drifted most first; KS is NaN for texts.
    charts : mapping of str to str
        SVG by name.
    """

    name: str
    passed: bool
    said: str
    figures: Mapping[str, float] = field(default_factory=dict)
    table: Sequence[tuple[str, float, float]] = ()
    charts: Mapping[str, str] = field(default_factory=dict)


def psi(reference: pa.ChunkedArray, recent: pa.ChunkedArray) -> float:
    """Return the population stability index of two columns of texts or numbers; a missing value is a bin of its own.

    Numbers fall into ten bins of equal count in the reference; of texts, the twenty most frequent count each, the
    others as one. A share below 1e-4 counts as 1e-4.
    """
    if pa.types.is_string(reference.type):
        names, shares = np.unique(_texts(reference), return_counts=True)
        kept = names[np.argsort(-shares, kind="stable")[:_CATEGORIES]]
        before, now = (_counts_of(_texts(each), kept) for each in (reference, recent))
    else:
        before, now = _binned(_numbers(reference), _numbers(recent))
    p, q = (np.maximum(counts / counts.sum(), _FLOOR) for counts in (before, now))
    return float(((q - p) * np.log(q / p)).sum())


def ks(reference: NDArray[np.float64], recent: NDArray[np.float64]) -> float:
    """Return the Kolmogorov-Smirnov distance of two samples, in [0, 1]; NaN where one holds no number."""
    ours, theirs = reference[np.isfinite(reference)], recent[np.isfinite(recent)]
    return float(ks_2samp(ours, theirs, method="asymp").statistic) if ours.size and theirs.size else float("nan")


def find_drift(flow: Flow, store: FeatureStore, registry: Registry) -> list[Drift]:
    """Return what each of `CHECKS` finds for the flow's head; before there is one, or enough rows, nothing is wrong."""
    head, clock = registry.head(flow.name), store.progress().clock
    if head is None or clock is None:
        return [Drift(name, passed=True, said=f"{flow.name} has no version yet") for name in CHECKS]
    lineage = _lineage(registry, head)
    if head.feature_fingerprint != store.built_by():
        said = f"the features changed since version {head.version} was trained; its full training is due"
        found = [Drift(name, passed=True, said=said) for name in CHECKS[:2]]
        return [*found, loss_drift(flow, _evidence(registry, lineage), since=lineage[-1].watermark)]
    learned = lineage[-1].trained_through
    before = store.feature_rows(learned - flow.drift.reference, learned)
    recent = store.feature_rows(max(learned, clock - flow.drift.recent), clock)
    if min(before.num_rows, recent.num_rows) < _FEWEST_ROWS:
        said = (
            f"{before.num_rows} rows before and {recent.num_rows} since the last full training, {_FEWEST_ROWS} wanted"
        )
        found = [Drift(name, passed=True, said=said) for name in CHECKS[:2]]
    else:
        before, recent = _thinned(before), _thinned(recent)
        with registry.proved(head) as package:
            scores = [_scores(package, rows) for rows in (before, recent)]
        found = [features_drift(flow, before, recent), scores_drift(flow, *scores)]
    return [*found, loss_drift(flow, _evidence(registry, lineage), since=lineage[-1].watermark)]


def features_drift(flow: Flow, before: pa.Table, recent: pa.Table) -> Drift:
    """Return whether too many features drifted between two tables of feature rows."""
    names = [name for name in before.column_names if name not in {"key", "request_time"}]
    found = {name: psi(before.column(name), recent.column(name)) for name in names}
    numbers = {name for name in names if not pa.types.is_string(before.schema.field(name).type)}
    apart = {
        name: ks(_numbers(before.column(name)), _numbers(recent.column(name))) if name in numbers else float("nan")
        for name in names
    }
    ordered = sorted(names, key=lambda name: -found[name])
    drifted = [name for name in ordered if found[name] > flow.drift.max_psi]
    share = len(drifted) / len(names)
    said = (
        f"{len(drifted)} of {len(names)} features have a PSI above {flow.drift.max_psi:g}, at most"
        f" {flow.drift.max_drifted_share:.0%} of them may; furthest: {ordered[0]} with {found[ordered[0]]:.3f}"
    )
    drawn = {
        name: _shapes(name, _numbers(before.column(name)), _numbers(recent.column(name)))
        for name in [name for name in ordered if name in numbers][:3]
    }
    figures = {"drifted_share": share, "largest_psi": found[ordered[0]]}
    table = [(name, found[name], apart[name]) for name in ordered]
    return Drift("drift_features", share <= flow.drift.max_drifted_share, said, figures, table, drawn)


def scores_drift(flow: Flow, before: NDArray[np.float32], recent: NDArray[np.float32]) -> Drift:
    """Return whether a version scores the newest rows unlike those before; of several classes, the worst counts."""
    pairs = [
        (a.astype(np.float64), b.astype(np.float64))
        for a, b in zip(_by_class(before), _by_class(recent), strict=True)
    ]  # fmt: skip
    found = [psi(pa.chunked_array([a]), pa.chunked_array([b])) for a, b in pairs]
    worst = int(np.argmax(found))
    figures = {"psi": found[worst], "ks": ks(*pairs[worst])}
    said = f"the PSI of the scores is {found[worst]:.3f}, at most {flow.drift.max_score_psi:g} allowed"
    drawn = {"scores": _shapes("score", *pairs[worst])}
    return Drift("drift_scores", found[worst] <= flow.drift.max_score_psi, said, figures, charts=drawn)


def loss_drift(flow: Flow, evidence: Sequence[ScoredSlice], *, since: int) -> Drift:
    """Return whether the loss of a lineage rose since the example `since`, by ADWIN over means of 32 rows.

    ADWIN starts with the newest 5,000 rows before `since`, as that training scored them. What it keeps in the end is
    the newest stretch of one mean, which is held against everything it dropped.

    Parameters
    ----------
    evidence : sequence of ScoredSlice
        The lineage's own rows, the oldest slice first.

    Notes
    -----
    Neighbouring rows share their hour and their weather; means of blocks keep that from looking like change.
    """
    start, stop = max(evidence[0].first, since - _PRIMED), evidence[-1].next
    cuts = [each.between(start, stop) for each in evidence if each.next > start]
    losses = np.concatenate([np.minimum(row_loss(each.task, each.labels, each.scores), _CAP) for each in cuts])
    first = stop - losses.size
    blocks = [float(part.mean()) for part in np.array_split(losses, max(1, losses.size // _BLOCK))]
    adwin = Adwin(flow.drift.loss_delta, every=1)
    for loss in blocks:
        adwin.update(loss / _CAP)
    cut, now = len(blocks) - adwin.width, adwin.mean * _CAP
    at, before = first + cut * losses.size // len(blocks), float(np.mean(blocks[:cut])) if cut else now
    rose = cut > 0 and now > before * (1 + flow.drift.min_loss_rise)
    drawn = [Line("loss before learning", np.linspace(first, stop, len(blocks)).tolist(), blocks)]
    if rose:
        said = f"the loss rose from {before:.4f} to {now:.4f} about example {at:,}, after the last full training"
        drawn.append(Line(f"rise at {at:,}", [at, at], [min(blocks), max(blocks)]))
    else:
        said = f"the loss did not rise by more than {flow.drift.min_loss_rise:.0%} since the last full training"
    figures = {"loss": now, "loss_before": before}
    return Drift(
        "drift_loss", not rose, said, figures, charts={"loss": chart("Loss", drawn, x="example", y="mean loss")}
    )


def _scores(package: Package, rows: pa.Table) -> NDArray[np.float32]:
    columns = {name: rows.column(name).to_pylist() for name in package.signature}
    return package.score(as_feed(columns, package.signature))


def _lineage(registry: Registry, head: ModelVersion) -> list[ModelVersion]:
    """Return the head and its ancestors, the last full training at the end, as far as they are kept."""
    found = [head]
    while found[-1].parent is not None and len(found) < _GENERATIONS:
        try:
            found.append(registry.version(head.flow, found[-1].parent))
        except VersionNotFoundError:
            break  # retention has deleted it
    return found


def _evidence(registry: Registry, lineage: Sequence[ModelVersion]) -> list[ScoredSlice]:
    """Return what the newest versions of a lineage said of their rows, the oldest first, 100,000 rows at most."""
    kept: list[ScoredSlice] = []
    room = _LONGEST
    for version in lineage:
        if room <= 0:
            break
        kept.append(evidence_of(registry, version).last(room))
        room -= kept[-1].labels.size
    return kept[::-1]


def _thinned(rows: pa.Table) -> pa.Table:
    every = max(1, rows.num_rows // _ROWS)
    return rows.take(pa.array(np.arange(0, rows.num_rows, every)))


def _by_class(scores: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    return [scores] if scores.ndim == 1 else list(scores.T)


def _texts(column: pa.ChunkedArray) -> NDArray[np.str_]:
    return np.array(["" if value is None else value for value in column.to_pylist()], np.str_)


def _numbers(column: pa.ChunkedArray) -> NDArray[np.float64]:
    return np.asarray(column.to_numpy(), np.float64)


def _counts_of(values: NDArray[np.str_], kept: NDArray[np.str_]) -> NDArray[np.float64]:
    counts = [float((values == name).sum()) for name in kept]
    return np.array([*counts, values.size - sum(counts)])


def _binned(before: NDArray[np.float64], now: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    known = before[np.isfinite(before)]
    edges = np.unique(np.quantile(known, np.linspace(0, 1, _BINS + 1)[1:-1])) if known.size else np.empty(0)
    counted = []
    for values in (before, now):
        found = values[np.isfinite(values)]
        counts = np.bincount(np.searchsorted(edges, found, side="left"), minlength=edges.size + 1)
        counted.append(np.append(counts, values.size - found.size).astype(np.float64))
    return counted[0], counted[1]


def _shapes(name: str, before: NDArray[np.float64], recent: NDArray[np.float64]) -> str:
    """Draw two samples as shares of rows in bins of equal width, between their 1st and 99th percentiles."""
    both = [values[np.isfinite(values)] for values in (before, recent)]
    everything = np.concatenate(both)
    low, high = np.quantile(everything, [0.01, 0.99]) if everything.size else (0.0, 1.0)
    edges = np.linspace(low, high if high > low else low + 1, 2 * _BINS + 1)
    lines = []
    for label, values in zip(("reference", "newest"), both, strict=True):
        shares = np.histogram(values.clip(edges[0], edges[-1]), edges)[0] / max(values.size, 1)
        lines.append(Line(label, ((edges[1:] + edges[:-1]) / 2).tolist(), shares.tolist()))
    return chart(name, lines, x=name, y="share of rows")

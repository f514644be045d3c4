"""The live loss of a version that was promoted lately, and the way back when it breaks its limit.

The gate judges on rows from before a promotion; the proof comes with the labels after it. The champion and the version
it replaced are compared on the same rows, those labelled since, which neither of them has learned. What a person
promoted, in MLflow or by force, is never rolled back by this: they are obeyed.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml_core.data.progress import Progress
from ml_core.data.store import FeatureStore
from ml_core.errors import HeadMovedError
from ml_core.flow.ledger import Entry
from ml_core.flow.package import Package, as_feed
from ml_core.flow.registry import Registry
from ml_core.flow.verdict import signed
from ml_core.flow.version import ModelVersion
from ml_core.project import Flow
from ml_core.training.intervals import paired_interval
from ml_core.training.tasks import Task, row_loss

WHO = "live loss check"


def roll_back_if_worse(flow: Flow, store: FeatureStore, registry: Registry) -> Entry | None:
    """Roll the flow back when its champion has proved worse than the version before it; return the entry, or None.

    Judged are the examples labelled since the champion's watermark, at least ``gate.min_rows`` and at most
    ``gate.max_rows``. It is rolled back when a score is not finite, or when the lower end of the interval of its loss
    less its predecessor's lies above ``gate.max_live_regression``.
    """
    pair = _promoted_lately(registry, flow.name, features=store.fingerprint())
    if pair is None:
        return None
    champion, before = pair
    first = champion.next_example
    stop = min(store.progress().next_example, first + flow.gate.max_rows)
    if stop - first < flow.gate.min_rows:
        return None
    with registry.proved(champion) as ours, registry.proved(before) as theirs:
        labels, said = _scores(store, (ours, theirs), first, stop)
    why = broken(flow, champion, before, labels, said)
    if why is None:
        return None
    try:
        return registry.rollback(
            flow.name,
            why=why,
            to=before.version,
            resume_at=before.resume_at,  # what a person left out stays so
            expected_champion=champion.version,
            who=WHO,
        )
    except HeadMovedError:
        return None  # somebody moved the flow meanwhile; what serves now is not what was measured


def check_due(flow: Flow, progress: Progress, registry: Registry) -> tuple[str | None, str]:
    """Return what the next check of the champion's live loss would be for, None for nothing, and why.

    It is due whenever another ``gate.min_rows`` examples were labelled past the watermark of a champion that the gate
    promoted, up to ``gate.max_rows``. Nothing is read but the progress and the registry.
    """
    pair = _promoted_lately(registry, flow.name, features=None)
    if pair is None:
        return None, f"{flow.name}: no champion that the gate promoted in place of another"
    champion, every = pair[0], flow.gate.min_rows
    rows = min(progress.next_example - champion.next_example, flow.gate.max_rows)
    if rows < every:
        return None, f"{flow.name}: {max(rows, 0)} rows labelled past version {champion.version}, {every} wanted"
    entry = registry.ledger.became(flow.name, champion.version).number
    return f"{champion.version}:{entry}:{rows // every}", f"{rows} rows were labelled past version {champion.version}"


def broken(
    flow: Flow,
    champion: ModelVersion,
    before: ModelVersion,
    labels: NDArray[np.float64],
    said: tuple[NDArray[np.float64], NDArray[np.float64]],
) -> str | None:
    """Return why the champion must go, by what it and its predecessor said of the same rows; None when it may stay."""
    ours, theirs = said
    bad = int((~np.isfinite(ours)).sum())
    if bad:
        return f"{bad} live scores of version {champion.version} are not finite"
    task: Task = "multiclass" if ours.ndim > 1 else "regression" if "mse" in champion.metrics else "binary"
    differences = row_loss(task, labels, ours) - row_loss(task, labels, theirs)
    lower, _ = paired_interval(differences, confidence=flow.gate.confidence)
    limit = flow.gate.max_live_regression
    if not lower > limit:
        return None
    return (
        f"on {labels.size} rows labelled since, the loss of version {champion.version} exceeds that of version"
        f" {before.version} by {signed(differences.mean())} (at least {signed(lower)} with {flow.gate.confidence:.0%}"
        f" confidence), at most {signed(limit)} allowed"
    )


def _promoted_lately(
    registry: Registry, flow: str, *, features: str | None
) -> tuple[ModelVersion, ModelVersion] | None:
    """Return the champion and the version it replaced, where the gate promoted it; both read `features`, if given."""
    last = registry.ledger.last(flow)
    if last.champion is None:
        return None
    made = registry.ledger.became(flow, last.champion)
    if made.kind != "promote" or made.verdict is None or made.before is None or made.before != last.previous:
        return None
    champion, before = (registry.version(flow, number) for number in (last.champion, made.before))
    readable = features is None or {champion.feature_fingerprint, before.feature_fingerprint} == {features}
    return (champion, before) if readable else None


def _scores(
    store: FeatureStore, packages: tuple[Package, Package], first: int, stop: int
) -> tuple[NDArray[np.float64], tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Return the labels of [first, stop) and what both graphs, as they are served, say of those rows."""
    labels: list[NDArray[np.float64]] = []
    said: tuple[list[NDArray[np.float64]], list[NDArray[np.float64]]] = ([], [])
    for batch in store.example_batches(first, stop):
        labels.append(batch.column("label").to_numpy(zero_copy_only=False).astype(np.float64))
        for package, scores in zip(packages, said, strict=True):
            columns: dict[str, list[Any]] = {name: batch.column(name).to_pylist() for name in package.signature}
            scores.append(package.score(as_feed(columns, package.signature)).astype(np.float64))
    return np.concatenate(labels), (np.concatenate(said[0]), np.concatenate(said[1]))

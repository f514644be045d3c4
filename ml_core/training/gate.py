"""The gate: whether a challenger has shown enough to be served.

Its invariant: two models are only ever compared on the same rows, and each row was scored by each of them before
that model learned it. Three policies share that rule:

* ``first``: no champion yet. Absolute floors on the newest rows of the training pass.
* ``non-inferiority``: an increment. Its prequential scores against those of the unchanged parent.
* ``superiority``: a full retrain. Its prequential scores against those its champion's lineage recorded.

The interval on the difference in loss is a paired bootstrap over blocks of consecutive rows, because
neighbouring rows share their hour and their weather (moving blocks: Künsch 1989, The Annals of Statistics 17(3)).
Beside the loss there are limits on calibration, on the shift of the scores against the champion's, and on the time a
row takes. The gate decides; the registry carries the decision out.
"""

import time
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ml_core.errors import PackageError, VersionNotFoundError
from ml_core.flow.package import Package, golden_rows
from ml_core.flow.registry import Registry
from ml_core.flow.verdict import Verdict, signed
from ml_core.flow.version import ModelVersion
from ml_core.project import Flow, GateSettings
from ml_core.training.answers import Answers, heard
from ml_core.training.card import tell
from ml_core.training.evaluation import KeepsEvidence, ScoredSlice, evidence_of
from ml_core.training.intervals import paired_interval
from ml_core.training.tasks import LOSSES, figures, loss_name, row_loss

_TIMED = 101


class _Versions(KeepsEvidence, Protocol):
    """The part of the registry that evidence is collected through."""

    def version(self, flow: str, number: int) -> ModelVersion: ...


def judge_and_promote(flow: Flow, registry: Registry, version: ModelVersion, answers: Answers | None = None) -> Verdict:
    """Judge `version` against the champion of its flow and carry the verdict out.

    An accepted version enters Production; a refused one is archived with its reasons, and its examples will be
    learned again by the next child of the head.

    Parameters
    ----------
    answers : Answers, optional
        What both versions said of live requests, where the challenger was in the champion's shadow.

    Raises
    ------
    HeadMovedError
        Another version became champion since; judge again.
    """
    champion = registry.head(flow.name)
    try:
        with registry.proved(version) as package:
            latency_ms = row_latency_ms(package)
            verdict = _verdict(flow.gate, registry, version, champion, latency_ms=latency_ms)
        if answers is not None and answers.folder is not None and champion is not None:
            live = answers.compared(version.version, champion.version, flow.gate.max_rows)
            verdict = heard(flow.gate, verdict, live, evidence_of(registry, version).task)
    except PackageError as error:
        verdict = Verdict(accepted=False, policy="verification", rows=0, reasons=(str(error),), figures={})
    if verdict.accepted:
        expected = None if champion is None else champion.version
        registry.promote(flow.name, version.version, verdict=verdict, expected_champion=expected)
    else:
        registry.refuse(flow.name, version.version, verdict=verdict)
    tell(registry, version, verdict)
    return verdict


def judge(
    settings: GateSettings,
    policy: str,
    challenger: ScoredSlice,
    champion: NDArray[np.float64] | None,
    *,
    latency_ms: float = 0.0,
) -> Verdict:
    """Return the verdict on one challenger's scored rows.

    Parameters
    ----------
    settings : GateSettings
    policy : {"first", "non-inferiority", "superiority"}
    challenger : ScoredSlice
        The rows judged on, newest last.
    champion : ndarray of float64, shaped as the challenger's scores, or None
        The champion's scores of the same rows; None for the policy ``first``.
    latency_ms : float
        What one row takes in the challenger's graph.
    """
    rows = challenger.labels.size
    if not rows or not np.isfinite(challenger.scores).all():
        found = f"{int((~np.isfinite(challenger.scores)).sum())} of {rows} scores are not finite" if rows else "no rows"
        return Verdict(accepted=False, policy=policy, rows=rows, reasons=(f"nothing to judge: {found}",), figures={})
    task, numbers = challenger.task, challenger.task == "regression"
    shown = figures(task, challenger.labels, challenger.scores)
    shown["latency_ms"] = latency_ms
    reasons = []
    if latency_ms > settings.max_latency_ms:
        reasons.append(f"a row takes {latency_ms:.3g} ms, at most {settings.max_latency_ms:g} ms allowed")
    if rows < settings.min_rows:
        reasons.append(f"judged on {rows} rows, at least {settings.min_rows} wanted")
    gap = shown["calibration_error"]
    if gap > settings.max_calibration_error:
        mean, unit = ("mean label", " standard deviations of the labels") if numbers else ("label rate", "")
        reasons.append(
            f"mean score and {mean} differ by {gap:.4f}{unit}, at most {settings.max_calibration_error} allowed"
        )
    if champion is None:
        ratio = shown.get("skill_ratio", float("inf"))
        if ratio > settings.first_max_normalised_entropy:
            name = LOSSES[task] if numbers else "normalised entropy"
            reasons.append(f"{name} {ratio:.4f}, at most {settings.first_max_normalised_entropy} allowed")
    else:
        losses, theirs = (row_loss(task, challenger.labels, said) for said in (challenger.scores, champion))
        lower, upper = paired_interval(losses - theirs, confidence=settings.confidence)
        shift = score_shift(challenger, champion)
        margin = settings.non_inferiority_margin if policy == "non-inferiority" else -settings.superiority_margin
        shown |= {
            f"champion_{loss_name(task)}": float(theirs.mean()),
            f"{loss_name(task)}_difference_lower": lower,
            f"{loss_name(task)}_difference_upper": upper,
            "score_shift": shift,
        }
        if shift > settings.max_score_shift:
            reasons.append(
                f"scores are spread {shift:.4f} apart from the champion's, at most {settings.max_score_shift:g} allowed"
            )
        if not upper < margin:
            reasons.append(
                f"{LOSSES[task]} may exceed the champion's by {signed(upper)} (upper end of the"
                f" {settings.confidence:.0%} interval), less than {signed(margin)} wanted for {policy}"
            )
    return Verdict(accepted=not reasons, policy=policy, rows=rows, reasons=tuple(reasons), figures=shown)


def score_shift(challenger: ScoredSlice, champion: NDArray[np.float64]) -> float:
    """Return how far two models' scores of the same rows are spread apart: the mean distance of equal quantiles.

    The Wasserstein distance of order 1: in probability, the worst class's, or in standard deviations of the labels.
    """
    scale = float(challenger.labels.std()) or 1.0
    apart = np.abs(np.sort(challenger.scores, axis=0) - np.sort(champion, axis=0)).mean(axis=0)
    return float(np.max(apart)) / (scale if challenger.task == "regression" else 1.0)


def row_latency_ms(package: Package) -> float:
    """Return the median time of one row through a package's graph, in milliseconds; the first call is not counted."""
    row = {name: column[:1] for name, column in golden_rows(package).items()}
    package.score(row)
    instants = [time.perf_counter()]
    for _ in range(_TIMED):
        package.score(row)
        instants.append(time.perf_counter())
    return float(np.median(np.diff(instants))) * 1_000


def _verdict(
    settings: GateSettings,
    registry: _Versions,
    version: ModelVersion,
    champion: ModelVersion | None,
    *,
    latency_ms: float,
) -> Verdict:
    evidence = evidence_of(registry, version)
    if champion is None:
        return judge(settings, "first", evidence.last(settings.max_rows), None, latency_ms=latency_ms)
    if version.parent == champion.version:
        recent = evidence.last(settings.max_rows)
        return judge(settings, "non-inferiority", recent, recent.parent_scores, latency_ms=latency_ms)
    if version.kind != "full":
        reason = (
            f"it continues version {version.parent}, but the champion is {champion.version} by now, whose next"
            " increment learns its examples again"
        )
        return Verdict(accepted=False, policy="non-inferiority", rows=0, reasons=(reason,), figures={})
    # The rows both have scored before learning them; the challenger caught up to the champion's watermark.
    stop = min(evidence.next, champion.watermark)
    first = max(evidence.first, stop - settings.max_rows)
    recorded = _lineage_scores(registry, champion, first, stop)
    recent = evidence.between(stop - recorded.size, stop)
    return judge(settings, "superiority", recent, recorded, latency_ms=latency_ms)


def _lineage_scores(registry: _Versions, champion: ModelVersion, first: int, stop: int) -> NDArray[np.float64]:
    """Return what the champion and its ancestors said of offsets [x, stop), with x as near to `first` as recorded."""
    parts: list[NDArray[np.float64]] = []
    version = champion
    while True:
        scored = evidence_of(registry, version).between(first, stop)
        if parts and scored.next < stop:
            return np.concatenate(parts[::-1])  # a rollback skipped examples here
        parts.append(scored.scores)
        stop = min(stop, scored.first)
        if stop <= first or version.parent is None:
            return np.concatenate(parts[::-1])
        try:
            version = registry.version(version.flow, version.parent)
        except VersionNotFoundError:
            return np.concatenate(parts[::-1])  # retention has deleted it

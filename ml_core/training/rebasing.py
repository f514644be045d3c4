"""A version that the head of its flow has left behind: brought up to the new head, then judged.

Of two producers one wins the head. What the other trained is not promoted as it is, for that would lose what the winner
learned; nor are its examples lost. An increment is archived and trained again from the new head. A full retrain learns
the examples it has not seen, from its own state, and the version that results is judged in its place.
"""

from collections.abc import Mapping

from ml_core.data.store import FeatureStore
from ml_core.errors import HeadMovedError
from ml_core.flow.package import STATE
from ml_core.flow.registry import Registry
from ml_core.flow.verdict import Verdict
from ml_core.flow.version import ModelVersion
from ml_core.pipeline import PipelineModel
from ml_core.project import Flow
from ml_core.training import passes
from ml_core.training.answers import Answers
from ml_core.training.card import tell
from ml_core.training.evaluation import evidence_of
from ml_core.training.full import train_full
from ml_core.training.gate import judge_and_promote
from ml_core.training.incremental import train_increment
from ml_core.training.publishing import Trained, publish

_ATTEMPTS = 10


def settle(
    flow: Flow,
    store: FeatureStore,
    registry: Registry,
    version: ModelVersion,
    *,
    tags: Mapping[str, str] | None = None,
) -> tuple[ModelVersion, Verdict]:
    """Judge `version`, after bringing it up to the head where that has moved on, and carry the verdict out.

    Returns the version that was judged in the end and its verdict. An increment whose examples the new head has learned
    already is archived; its verdict says so.

    Raises
    ------
    HeadMovedError
        Others were faster ten times in a row.
    DataError
        The store does not hold the examples that a full retrain has to catch up with.
    StateError
        The features changed since a full retrain that has to catch up was trained.
    """
    for _ in range(_ATTEMPTS):
        head = registry.head(flow.name)
        if head is not None and head.version == version.version:  # somebody else judged it meanwhile
            return version, head.verdict or _serves(head)
        if head is None or not left_behind(version, head):
            try:
                return version, judge_and_promote(flow, registry, version, Answers(flow, store))
            except HeadMovedError:
                continue  # look again: it may be behind now
        rebased = _rebase(flow, store, registry, version, head=head, tags=tags or {})
        if rebased is None:
            verdict = registry.version(flow.name, version.version).verdict
            return version, verdict or _superseded(version, head, "the champion")
        version = rebased
    raise HeadMovedError(f"{flow.name}: version {version.version} was overtaken {_ATTEMPTS} times; judge it again")


def left_behind(version: ModelVersion, head: ModelVersion) -> bool:
    """Say whether promoting `version` in place of `head` would lose examples that were learned."""
    return version.watermark < head.watermark if version.kind == "full" else version.parent != head.version


def catch_up(
    flow: Flow,
    store: FeatureStore,
    registry: Registry,
    version: ModelVersion,
    *,
    stop: int,
    tags: Mapping[str, str] | None = None,
) -> ModelVersion:
    """Continue a full retrain from its exact state over the examples before `stop`; publish the result, unjudged.

    The weights are those of a retrain that had ended at `stop` in the first place, and so is the evidence; a
    retrain that was averaged is continued in order. What is fitted in batch is fitted anew.
    """
    passes.check_features(flow, store, version)
    if flow.incremental_training.policy == "refit":
        return train_full(flow, store, registry, tags=tags)
    with registry.proved(version) as package:
        model = PipelineModel.load(package.directory / STATE, flow.pipeline)
    before = evidence_of(registry, version)
    if not model.by_row:
        return train_full(flow, store, registry, tags=tags)
    evidence = passes.joined([before, passes.learn(model, store, version.watermark, stop)])
    way = version.way if model.way == "online" else model.way  # one that was averaged stays so
    mode = {"spark_training": "average"} if way != model.way else {}
    trained = Trained("full", way, None, stop, model, evidence, version.feature_fingerprint)
    return publish(flow, store, registry, trained, tags=mode | dict(tags or {}))


def _rebase(
    flow: Flow,
    store: FeatureStore,
    registry: Registry,
    version: ModelVersion,
    *,
    head: ModelVersion,
    tags: Mapping[str, str],
) -> ModelVersion | None:
    """Return the version that takes the place of one that was left behind, which is archived; None for none."""
    if version.kind == "full":
        passes.check_reach(flow, store, head)
        caught_up = catch_up(flow, store, registry, version, stop=head.watermark, tags=tags)
        _supersede(registry, version, head, f"version {caught_up.version}")
        return caught_up
    _supersede(registry, version, head, "its next child")
    return train_increment(flow, store, registry, tags=tags) if version.kind == "incremental" else None


def _supersede(registry: Registry, version: ModelVersion, head: ModelVersion, by: str) -> None:
    verdict = _superseded(version, head, by)
    registry.refuse(version.flow, version.version, verdict=verdict)
    tell(registry, version, verdict)


def _serves(head: ModelVersion) -> Verdict:
    reason = f"version {head.version} is in Production already"
    return Verdict(accepted=True, policy="in production", rows=0, reasons=(reason,), figures={})


def _superseded(version: ModelVersion, head: ModelVersion, by: str) -> Verdict:
    start = "started from nothing" if version.parent is None else f"continues version {version.parent}"
    reason = (
        f"it {start}, but the champion is {head.version} by now: the head moved on before it was judged; {by} learns"
        " its examples"
    )
    return Verdict(accepted=False, policy="superseded", rows=0, reasons=(reason,), figures={})

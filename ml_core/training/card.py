"""The model card of a version: where it comes from, how good it is, what it looks at, what was decided.

One markdown text (Mitchell et al. 2019, Model Cards for Model Reporting), made from what the registry keeps with the
version, so that it can be made again at any time: `card_of`. Charts are SVG: inside the text where they are shown
(Dagster), and files beside it where they are not (MLflow).
"""

import json
import logging
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Self

import numpy as np
from sklearn.metrics import roc_curve

from ml_core.errors import PackageError, RegistryError
from ml_core.flow.registry import Registry
from ml_core.flow.verdict import Verdict, readable, signed
from ml_core.flow.version import ModelVersion
from ml_core.training.charts import Line, bar, chart, shown, sparkline
from ml_core.training.evaluation import SLICE_FILE, ScoredSlice
from ml_core.training.tasks import row_loss

CARD_FILE = "model_card.md"
FACTS_FILE = "facts.json"

_LOG = logging.getLogger("modelflow.training")
_JUDGED, _BINS, _BLOCKS, _SHOWN, _POINTS = 20_000, 10, 40, 15, 100
_LONGEST_REASON, _LONGEST = 600, 5_000  # MLflow keeps so many characters of a description


@dataclass(frozen=True, slots=True)
class Facts:
    """What a card says of a training that its evidence does not hold; kept beside it.

    Attributes
    ----------
    learned_from : datetime or None
        When the first example this training learned became known; None where a library fitted in batch.
    influence : mapping of str to float
        `ml_core.training.influence`, the largest first.
    """

    learned_from: datetime | None
    influence: Mapping[str, float]

    def save(self, directory: Path) -> None:
        """Write the facts into `directory`."""
        (directory / FACTS_FILE).write_text(json.dumps(asdict(self), default=datetime.isoformat), encoding="utf-8")

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Read what `save` wrote; a version from before there were any has none."""
        file = directory / FACTS_FILE
        if not file.exists():
            return cls(None, {})
        read = json.loads(file.read_text(encoding="utf-8"))
        since = read["learned_from"]
        return cls(None if since is None else datetime.fromisoformat(since), read["influence"])


def card_of(registry: Registry, version: ModelVersion) -> str:
    """Return the card of a version as the registry has it now, its charts inside."""
    evidence, facts = _kept(registry, version)
    return card(version, evidence, facts, charts=charts(evidence))


def tell(registry: Registry, version: ModelVersion, verdict: Verdict) -> None:
    """Show the card of a version that was judged; see `show`."""
    try:
        show(registry, replace(version, verdict=verdict), *_kept(registry, version))
    except (RegistryError, PackageError) as error:
        _LOG.warning("%s version %s: its card was not written: %s", version.flow, version.version, error)


def files_of(registry: Registry, version: ModelVersion) -> dict[str, str]:
    """Return the card of a version as it stands beside its package in MLflow: the text, and its charts, by file."""
    return _files(version, *_kept(registry, version))


def show(registry: Registry, version: ModelVersion, evidence: ScoredSlice, facts: Facts) -> None:
    """Show a version's card in MLflow: as its description, and beside its package with the charts as files.

    A card is no reason to fail what it tells of: where the registry does not take it, that is logged.
    """
    files = _files(version, evidence, facts)
    try:
        registry.describe(version, files[CARD_FILE], files)
    except (RegistryError, PackageError) as error:
        _LOG.warning("%s version %s: its card was not written: %s", version.flow, version.version, error)


def card(version: ModelVersion, evidence: ScoredSlice, facts: Facts, *, charts: Mapping[str, str] | None = None) -> str:
    """Return a card as markdown, of at most 5,000 characters besides `charts`, SVG by name, which come first."""
    answered = _answered(evidence)
    recent = answered.last(_JUDGED)
    parts = [
        f"## {version.flow}, version {version.version}",
        _decided(version.verdict),
        shown(charts or {}),
        "### Lineage and data\n\n" + _table({"": ""} | _origin(version, evidence, facts)),
        f"### Figures on the newest {recent.labels.size:,} rows it scored before it learned them\n\n"
        + _table({"figure": "value"} | {name: readable(value, 5) for name, value in sorted(version.metrics.items())}),
        f"Mean loss over time: `{sparkline(_in_blocks(_losses(answered)))}`" if answered.labels.size else "",
        f"{evidence.labels.size - answered.labels.size:,} of its rows were not answered with a number."
        if answered.labels.size < evidence.labels.size
        else "",
        "### Calibration\n\n"
        + _table({"mean score": "observed"} | {f"{said:.4f}": f"{seen:.4f}" for said, seen in _calibration(recent)}),
        "### Influence of the columns\n\nHow far a score moves, in the mean, when the column's values are dealt out"
        " anew among the newest rows.\n\n" + _influences(facts.influence)
        if facts.influence
        else "",
    ]
    kept, length = [], 0
    for number, part in enumerate(part for part in parts if part):
        length += 0 if part.startswith("![") else len(part) + 2
        if number and length > _LONGEST:
            break
        kept.append(part)
    return "\n\n".join(kept) + "\n"


def charts(evidence: ScoredSlice) -> dict[str, str]:
    """Return the curves of a training as SVG by name: loss over time, calibration, and of two classes the ROC."""
    start, stop, evidence = evidence.first, evidence.next, _answered(evidence)
    if not evidence.labels.size:
        return {}
    recent, drawn = evidence.last(_JUDGED), {}
    losses = {"this version": _losses(evidence)}
    if evidence.parent_scores.size:
        losses["its parent"] = row_loss(evidence.task, evidence.labels, evidence.parent_scores)
    lines = []
    for name, each in losses.items():
        blocks = _in_blocks(each)
        lines.append(Line(name, np.linspace(start, stop, len(blocks)).tolist(), blocks))
    drawn["loss"] = chart("Loss before a row was learned", lines, x="example", y="mean loss")
    said, seen = (list(side) for side in zip(*_calibration(recent), strict=True))
    ends = [min(said + seen), max(said + seen)]
    drawn["calibration"] = chart(
        "Calibration", [Line("observed", said, seen), Line("ideal", ends, ends)], x="mean score", y="observed"
    )
    if recent.task == "binary" and np.unique(recent.labels).size > 1:
        false, true, _ = roc_curve(recent.labels, recent.scores)
        some = np.unique(np.linspace(0, false.size - 1, _POINTS).astype(int))
        drawn["roc"] = chart(
            "ROC",
            [Line("this version", false[some].tolist(), true[some].tolist()), Line("chance", [0, 1], [0, 1])],
            x="false positive rate",
            y="true positive rate",
        )
    return drawn


def _files(version: ModelVersion, evidence: ScoredSlice, facts: Facts) -> dict[str, str]:
    drawn = {f"{name}.svg": svg for name, svg in charts(evidence).items()}
    return {CARD_FILE: card(version, evidence, facts)} | drawn


def _kept(registry: Registry, version: ModelVersion) -> tuple[ScoredSlice, Facts]:
    with tempfile.TemporaryDirectory(prefix="modelflow-evidence-") as scratch:
        directory = registry.download_evaluation(version, Path(scratch))
        return ScoredSlice.load(directory / SLICE_FILE), Facts.load(directory)


def _answered(evidence: ScoredSlice) -> ScoredSlice:
    """Return the rows whose scores are numbers: of a broken version there are others, and a card tells of it too."""
    scores = [side for side in (evidence.scores, evidence.parent_scores) if len(side)]
    kept = np.all([np.isfinite(side).reshape(len(side), -1).all(axis=1) for side in scores], axis=0)
    if not scores or kept.all():
        return evidence
    parent = evidence.parent_scores[kept] if len(evidence.parent_scores) else evidence.parent_scores
    return replace(evidence, labels=evidence.labels[kept], scores=evidence.scores[kept], parent_scores=parent)


def _decided(verdict: Verdict | None) -> str:
    if verdict is None:
        return "**Not judged by the gate yet.**"
    if verdict.accepted:
        upper = [value for name, value in verdict.figures.items() if name.endswith("loss_difference_upper")]
        beside = f"; its loss exceeds the champion's by less than {signed(upper[0])}" if upper else ""
        return f"**The gate accepted it**: {verdict.policy} on {verdict.rows:,} rows{beside}."
    return f"**The gate refused it** ({verdict.policy}): {'; '.join(verdict.reasons)[:_LONGEST_REASON]}."


def _origin(version: ModelVersion, evidence: ScoredSlice, facts: Facts) -> dict[str, str]:
    since = "" if facts.learned_from is None else f"{facts.learned_from:%Y-%m-%d %H:%M} to "
    rows = {
        "kind": f"{version.kind}, {version.way}",
        "parent": "none, learned from nothing" if version.parent is None else f"version {version.parent}",
        "labels known": f"{since}{version.trained_through:%Y-%m-%d %H:%M} UTC",
        "examples judged by": f"{evidence.first:,} to {evidence.next:,}, before each was learned",
        "watermark": f"{version.watermark:,}",
        "features.sql": f"`{version.feature_fingerprint[:12]}`",
        "pipeline": f"`{version.pipeline_fingerprint[:12]}`",
        "package": f"sha256 `{version.manifest_sha256[:12]}`",
        "Dagster run": f"`{version.dagster_run_id}`" if version.dagster_run_id else "none",
        "MLflow run": f"`{version.mlflow_run_id}`",
    }
    return rows if version.created_at is None else rows | {"created": f"{version.created_at:%Y-%m-%d %H:%M} UTC"}


def _table(rows: Mapping[str, str]) -> str:
    (head, *body) = rows.items()
    return "\n".join([f"| {head[0]} | {head[1]} |", "|---|---|", *(f"| {name} | {value} |" for name, value in body)])


def _influences(found: Mapping[str, float]) -> str:
    largest = max(found.values())
    rows = {f"`{name}`": f"{value:.4g} {bar(value, largest)}" for name, value in list(found.items())[:_SHOWN]}
    rest = len(found) - len(rows)
    return _table({"column": "influence"} | rows) + (f"\n\n{rest} more move it less." if rest else "")


def _losses(evidence: ScoredSlice) -> np.ndarray:
    return row_loss(evidence.task, evidence.labels, evidence.scores)


def _in_blocks(losses: np.ndarray) -> list[float]:
    return [float(block.mean()) for block in np.array_split(losses, _BLOCKS) if block.size]


def _calibration(scored: ScoredSlice) -> list[tuple[float, float]]:
    """Return mean score and mean label in ten bins of equal count, by ascending score.

    Of more classes than two, each class of each row counts as a question of its own.
    """
    scores, labels = scored.scores.ravel(), scored.labels
    if scored.scores.ndim > 1:
        labels = (labels[:, None] == np.arange(scored.scores.shape[1])).ravel().astype(np.float64)
    order = np.argsort(scores, kind="stable")
    bins = [part for part in np.array_split(order, _BINS) if part.size]
    return [(float(scores[part].mean()), float(labels[part].mean())) for part in bins]

"""A version of a flow, as the registry describes it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from ml_core.flow.verdict import Verdict

STAGES = ("None", "Staging", "Production", "Archived")


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One version of a model flow.

    Attributes
    ----------
    version : int
        Its number in the registry.
    stage : str
        None, Staging, Production or Archived, as MLflow spells them.
    kind : str
        ``full``, ``incremental`` or ``stream``.
    parent : int or None
        The version whose state it continued.
    watermark : int
        The offset of the next example its lineage has to learn.
    trained_through : datetime
        When the newest example it learned became known.
    feature_fingerprint : str
        The feature definition it was trained under.
    manifest_sha256 : str
        The digest of its package's manifest.
    metrics : mapping of str to float
        What was logged with it.
    verdict : Verdict or None
        What the gate said; None before it was judged.
    """

    flow: str
    version: int
    stage: str
    kind: str
    parent: int | None
    watermark: int
    trained_through: datetime
    feature_fingerprint: str
    manifest_sha256: str
    dagster_run_id: str
    mlflow_run_id: str
    source: str
    metrics: Mapping[str, float]
    verdict: Verdict | None

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
    resume_at : int or None
        Where its next child starts to learn, set by a rollback that skips examples; None for the watermark.
    pinned : str
        Why retention must keep it; empty when it need not.
    signature : str
        The HMAC of its manifest's digest; empty when it was published unsigned.
    created_at : datetime or None
        When it was registered, by the registry's clock.
    pipeline_fingerprint : str
        The pipeline it was trained as; empty where that was not recorded.
    way : str
        How it follows its parent, and is followed: ``online``, row by row and exactly; ``continued``, as far as a
        library, or averaging on Spark, goes; ``refit``, fitted anew on a window of its own.
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
    resume_at: int | None = None
    pinned: str = ""
    signature: str = ""
    created_at: datetime | None = None
    pipeline_fingerprint: str = ""
    way: str = "online"

    @property
    def next_example(self) -> int:
        """The offset of the first example its next child learns."""
        return self.watermark if self.resume_at is None else self.resume_at

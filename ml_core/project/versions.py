"""What becomes of a version once it is trained: judged by the gate, followed by predictors, kept for a while."""

from datetime import timedelta
from pathlib import Path

from pydantic import Field

from ml_core.project.table import Duration, Table


class GateSettings(Table):
    """What a challenger has to show before it is served."""

    min_rows: int = Field(default=1_000, gt=0, description="fewer judged rows than this and the verdict is 'refused'")
    max_rows: int = Field(default=20_000, gt=0, description="judge on at most this many of the most recent rows")
    confidence: float = Field(default=0.95, gt=0.5, lt=1, description="of the paired bootstrap interval")
    non_inferiority_margin: float = Field(
        default=0.005, ge=0, description="log loss by which an increment may, at worst, trail the champion"
    )
    superiority_margin: float = Field(
        default=0.0, ge=0, description="log loss by which a full retrain must beat the champion"
    )
    first_max_normalised_entropy: float = Field(
        default=0.98,
        gt=0,
        description="a first version's loss over that of always predicting the base rate, for numbers the mean",
    )
    max_calibration_error: float = Field(
        default=0.10,
        gt=0,
        description="largest gap between mean score and label rate of the judged rows, for numbers in deviations",
    )
    max_score_shift: float = Field(
        default=0.2, gt=0, description="largest mean distance between equal quantiles of its and the champion's scores"
    )
    max_latency_ms: float = Field(default=50.0, gt=0, description="median time its graph may take for one row")
    max_live_regression: float = Field(
        default=0.02,
        ge=0,
        description="log loss by which a promoted version may, at least, trail the one before on the labels that"
        " follow; past it the flow is rolled back",
    )


class ServingSettings(Table):
    """How followers keep up with the flow."""

    poll_interval_s: float = Field(default=1.0, gt=0, description="seconds between two looks at the registry")
    max_staleness: Duration | None = Field(default=None, description="past it the sidecar reports itself not ready")
    prediction_log: Path | None = Field(
        default=None,
        description="the folder sidecars log predictions into, relative to the folder of the platform's state; with it,"
        " answers are joined with the labels that come later, and scored again",
    )


class RetentionSettings(Table):
    """Which old versions are kept besides those still needed."""

    keep_last: int = Field(default=50, gt=0, description="the newest versions always stay")
    keep_for: Duration = Field(default=timedelta(days=30), description="and everything younger than this")
    cron: str = Field(default="15 5 * * *", description="when the rest is deleted, in the full training's time zone")

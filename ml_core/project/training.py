"""What a flow trains, and what starts it: the pipeline, the full retrain, the increments, and drift.

Stages and estimators are tables whose keys belong to the `ml_core.pipeline` room; here they stay mappings, and the
pipeline checks them in the same way when it is built.
"""

import hashlib
import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Literal

from pydantic import Field

from ml_core.project.table import Duration, Table, TimeZone


class PipelineSettings(Table):
    """Feature transforms and estimator, which together are the pipeline model."""

    stages: tuple[Mapping[str, Any], ...] = Field(
        min_length=1, description="transforms in order, each with its columns"
    )
    estimator: Mapping[str, Any] = Field(description="the learner's name and its hyper-parameters")

    @property
    def fingerprint(self) -> str:
        """A sha256 over the pipeline: a version trained under another is to be trained anew."""
        written = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(written.encode()).hexdigest()


class FullTrainingSettings(Table):
    """The nightly retrain from scratch."""

    cron: str = Field(default="30 3 * * *", description="when it runs")
    time_zone: TimeZone = Field(default="UTC", description="the zone the cron expression is read in")
    window: Duration | None = Field(default=None, description="how much history it learns; leave out for all of it")


class IncrementalTrainingSettings(Table):
    """When enough has been labelled to teach the head of the flow something new."""

    min_rows: int = Field(default=10_000, gt=0, description="this many new labelled rows start a run")
    max_age: Duration | None = Field(default=None, description="or any new rows at all once the head is this old")
    policy: Literal["continue", "refit"] = Field(
        default="continue",
        description="continue the head's exact state, or fit every version anew on a window, for what cannot continue",
    )
    window: Duration | None = Field(
        default=None, description="how much history a refit learns; leave out for that of full_training"
    )


class SparkTrainingSettings(Table):
    """Full and incremental training on Spark, at the address and with the settings of the flow's data."""

    mode: Literal["sequential", "average"] = Field(
        description="`sequential`: one learner after another, the bits of a training without Spark; `average`: several"
        " side by side, whose states are merged; see docs/spark.md"
    )
    shards: int = Field(default=4, gt=1, description="under `average`, how many learn side by side between two merges")
    shard_rows: int = Field(default=65_536, gt=0, description="how many examples a shard holds, consecutive ones")


class DriftSettings(Table):
    """When requests, scores or losses have moved so far from the last full training that another is started."""

    retrain: bool = Field(default=True, description="whether drift starts a full training; the gate judges it as ever")
    recent: Duration = Field(default=timedelta(days=7), description="the newest days that are looked at")
    reference: Duration = Field(
        default=timedelta(days=28),
        description="the days before the last full training ended that they are held against",
    )
    max_psi: float = Field(default=0.25, gt=0, description="population stability index above which a feature drifted")
    max_drifted_share: float = Field(default=0.3, ge=0, le=1, description="share of the features that may have drifted")
    max_score_psi: float = Field(default=0.25, gt=0, description="the same for the scores of the served version")
    loss_delta: float = Field(
        default=0.002, gt=0, lt=1, description="how likely ADWIN may be wrong when it says that the loss changed"
    )
    min_loss_rise: float = Field(default=0.1, ge=0, description="share by which the loss has to have risen")
    cool_down: Duration = Field(
        default=timedelta(days=7), description="after drift has started a training, it starts none for so long"
    )

"""A flow on Kafka: its topics of facts, and the resident learner."""

from collections.abc import Mapping
from datetime import timedelta

from pydantic import Field

from ml_core.project.table import ColumnKind, Duration, Table


class LearnSettings(Table):
    """The resident learner: how often what it has learned is told, and when it is held back."""

    publish_every: Duration = Field(
        default=timedelta(seconds=1), description="how often the model topic gets what was learned"
    )
    publish_rows: int | None = Field(
        default=None, gt=0, description="or as soon as so many examples were learned; leave out for time alone"
    )
    snapshot_every: int = Field(
        default=120, gt=0, description="every so many publications are whole, and those between hold what changed"
    )
    checkpoint_every: Duration = Field(
        default=timedelta(minutes=1), description="how often the state is kept, so that a restart has less to repeat"
    )
    register_every: Duration = Field(
        default=timedelta(minutes=10), description="how often a version goes to the registry, and before the gate"
    )
    breaker_rows: int = Field(default=1_000, gt=0, description="the loss is watched over so many examples at a time")
    breaker_ratio: float = Field(
        default=2.0, gt=1, description="nothing is published while their loss is so many times the usual one"
    )


class StreamSettings(Table):
    """The flow on Kafka: facts and labels in, examples to the resident learner, models and scores out."""

    bootstrap_servers: str = Field(
        default="127.0.0.1:9092", description="where the broker is, unless KAFKA_BOOTSTRAP_SERVERS says"
    )
    facts: Mapping[str, Mapping[str, ColumnKind]] = Field(
        default={},
        description="per kind of fact its columns, each string, float, integer, boolean or instant; `event_time` and"
        " `known_at` are always there. Its topic is `<flow>.<kind>`",
    )
    allowed_lateness: Duration = Field(
        default=timedelta(0), description="how far out of order the facts of one Kafka partition may be known"
    )
    max_ahead: Duration = Field(
        default=timedelta(hours=1),
        description="a fact, or a tick, so much later than its record was made is a dead letter",
    )
    max_record_bytes: int = Field(default=1_048_576, gt=0, description="a larger record is a dead letter")
    learn: LearnSettings = Field(default=LearnSettings(), description="the resident learner's own table")

"""What a flow learns from: where its facts come from, what a row is, and when a day of them is called unusual."""

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from ml_core.project.table import Duration, Table, TimeZone

_RELATIONS = {
    *("requests", "built", "labelled", "fresh", "features", "examples", "words", "progress"),
    *("found_words", "wanted_codes", "encoded"),
}


class SourceSettings(Table):
    """A flat table that exists already, one row per request with its label; it is read without a loader."""

    path: Path = Field(
        description="a CSV file (.csv, .tsv, .txt, also .gz), a Parquet file, or a DuckDB file, relative to the"
        " project file; a CSV or Parquet path may hold wildcards"
    )
    table: str | None = Field(default=None, description="the table or view of a DuckDB file")
    event_time: str = Field(description="the column that says when the row's prediction is asked for")
    time_format: str | None = Field(
        default=None,
        description="how texts in `event_time` are written, in strptime's letters, or `epoch_s` or `epoch_ms`; leave"
        " out for a column of a time type and for ISO 8601",
    )
    time_zone: TimeZone = Field(default="UTC", description="the zone of times that carry none")
    key: str | None = Field(
        default=None,
        description="the column that names a row; leave out to number the rows, for a source that only grows at its"
        " end",
    )
    label: str = Field(description="the column that holds the label; a missing one is not known yet")
    classes: tuple[str, ...] = Field(
        default=(),
        description="the texts of the label in the order of their numbers 0, 1, ...; of two, the second is the one"
        " whose probability is predicted. Leave out for a label of numbers or booleans",
    )
    label_delay: Duration = Field(
        default=timedelta(hours=1), description="how long after `event_time` a row's label is known"
    )
    delimiter: str | None = Field(default=None, description="between the columns of a CSV file; leave out to find it")
    decimal: Literal[".", ","] = Field(default=".", description="the sign between whole and broken part of a number")
    missing: tuple[str, ...] = Field(default=("",), description="the texts that stand for a missing value")
    columns: Mapping[str, Literal["text", "number", "time"]] = Field(
        default={}, description="the columns that features.sql may use, and what each holds; others are not read"
    )


class DataSettings(Table):
    """Where facts come from and what a row of the feature table is."""

    loader: str | None = Field(
        default=None,
        description="dotted path of the function that yields a file source's facts, in known_at order; leave out where"
        " `source` says all there is to say, or where a producer of your own writes the event log",
    )
    source: SourceSettings | None = Field(default=None, description="a flat table that is read without a loader")
    features: Path = Field(description="the SQL file that defines the features, relative to the project file")
    engine: Literal["duckdb", "spark"] = Field(
        default="duckdb", description="what runs `features`; both give the same rows, see docs/spark.md"
    )
    spark_master: str = Field(
        default="local[*]", description="Spark's address: `spark://host:port`, or threads of this process"
    )
    spark_settings: Mapping[str, str] = Field(
        default={}, description="Spark's own settings, such as `spark.executor.memory`"
    )
    spark_folder: Path | None = Field(
        default=None,
        description="where Spark and the store hand each other Parquet files, relative to the folder of the platform's"
        " state; on a cluster a folder that every worker has under this path. Leave out for one beside the flow's data",
    )
    entity: str = Field(description="the kind of fact that asks for a feature row")
    key: str = Field(description="the column that names an entity, in every kind of fact that concerns it")
    request_time: str = Field(description="the entity fact's column that holds the instant its features are asked for")
    label_fact: str = Field(description="the kind of fact that carries the label")
    label: str = Field(
        description="the label column of that fact: boolean, 0 and 1, the index of a class, or a number; null: no label"
    )
    lookback: Duration = Field(description="how far before its request time a feature may look")
    label_window: Duration = Field(description="how long after its request time a label is still joined")
    starts: date = Field(description="the first day of the daily partitions")
    ends: date | None = Field(
        default=None, description="the day after the last partition; leave out for a living source"
    )

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if self.loader is not None and self.source is not None:
            raise ValueError("expected `loader` or a table `source`, found both; remove one of them")
        return self

    @model_validator(mode="after")
    def _names_apart(self) -> Self:
        for name in (self.entity, self.label_fact):
            if name.lower() in _RELATIONS:
                raise ValueError(f"expected another name for facts than {name!r}, which the feature store uses itself")
        return self


class QualitySettings(Table):
    """When the newest day of data is called unusual; see the checks of events and features in Dagster."""

    baseline: Duration = Field(default=timedelta(days=28), description="the days before the newest it is compared with")
    max_missing_rise: float = Field(
        default=0.3, ge=0, le=1, description="share of a feature that may be missing beyond that of the days before"
    )
    max_out_of_range: float = Field(
        default=0.05, ge=0, le=1, description="share of a number that may lie far outside its range of the days before"
    )
    max_repeated: float = Field(
        default=0.0, ge=0, le=1, description="share of facts that may repeat a key of their day"
    )
    max_out_of_order: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="share of labels that may be known before they happened, or before their row was asked for",
    )
    max_deviations: float = Field(
        default=6.0, gt=0, description="how unusual a day's volume, label delay and label rate may be"
    )
    max_silence: Duration = Field(default=timedelta(days=2), description="how long a kind of fact may stay away")


def day_start(day: date) -> datetime:
    """Return the first instant of a partition day, in UTC."""
    return datetime(day.year, day.month, day.day, tzinfo=UTC)

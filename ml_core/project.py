"""The one reader of `dagster_project.toml`: what flows exist, and what each is made of.

Everything is read once into frozen models. An unknown key is refused with the nearest valid one named, so a
misspelt setting can never be silently ignored. Stages and estimators are tables whose keys belong to the
`ml_core.pipeline` room; here they stay mappings, and the pipeline checks them in the same way when it is built.

This module reads the environment, and in the core only `ml_core.flow.credentials` does too: `MODELFLOW_HOME` moves the
state on disk, `MLFLOW_TRACKING_URI` points at another registry and `MODELFLOW_LEDGER_URI` at another ledger, what
begins with `KAFKA_` says how to reach the broker, and `MODELFLOW_SIGNING_KEY_FILE` or `MODELFLOW_SIGNING_KEY` is what
packages are signed with.
"""

import hashlib
import json
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as made
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from ml_core.clock import as_duration
from ml_core.errors import ProjectError, nearest
from ml_core.places import line_of

PROJECT_FILE = "dagster_project.toml"

_RELATIONS = {
    *("requests", "built", "labelled", "fresh", "features", "examples", "words", "progress"),
    *("found_words", "wanted_codes", "encoded"),
}
_SHORTEST_KEY_BYTES = 16


def _duration(text: object) -> object:
    """Read '7 days' or '90 minutes'; leave anything else to the model's own check."""
    return as_duration(text) if isinstance(text, str) else text


def _known_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError) as unknown:
        raise ValueError(f"expected a time zone such as 'Europe/Berlin', found {name!r}") from unknown
    return name


Duration = Annotated[timedelta, BeforeValidator(_duration)]
TimeZone = Annotated[str, AfterValidator(_known_zone)]
Port = Annotated[int, Field(ge=1, le=65535)]
ColumnKind = Literal["string", "float", "integer", "boolean", "instant"]


class _Table(BaseModel):
    """One table of the project file: frozen, and closed to unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SourceSettings(_Table):
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


class DataSettings(_Table):
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


class PipelineSettings(_Table):
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


class FullTrainingSettings(_Table):
    """The nightly retrain from scratch."""

    cron: str = Field(default="30 3 * * *", description="when it runs")
    time_zone: TimeZone = Field(default="UTC", description="the zone the cron expression is read in")
    window: Duration | None = Field(default=None, description="how much history it learns; leave out for all of it")


class IncrementalTrainingSettings(_Table):
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


class SparkTrainingSettings(_Table):
    """Full and incremental training on Spark, at the address and with the settings of the flow's data."""

    mode: Literal["sequential", "average"] = Field(
        description="`sequential`: one learner after another, the bits of a training without Spark; `average`: several"
        " side by side, whose states are merged; see docs/spark.md"
    )
    shards: int = Field(default=4, gt=1, description="under `average`, how many learn side by side between two merges")
    shard_rows: int = Field(default=65_536, gt=0, description="how many examples a shard holds, consecutive ones")


class GateSettings(_Table):
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
        default=0.98, gt=0, description="a first version's log loss over that of predicting the base rate"
    )
    max_calibration_error: float = Field(
        default=0.10, gt=0, description="largest gap between mean score and label rate over the judged rows"
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


class QualitySettings(_Table):
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


class DriftSettings(_Table):
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


class RetentionSettings(_Table):
    """Which old versions are kept besides those still needed."""

    keep_last: int = Field(default=50, gt=0, description="the newest versions always stay")
    keep_for: Duration = Field(default=timedelta(days=30), description="and everything younger than this")
    cron: str = Field(default="15 5 * * *", description="when the rest is deleted, in the full training's time zone")


class ServingSettings(_Table):
    """How followers keep up with the flow."""

    poll_interval_s: float = Field(default=1.0, gt=0, description="seconds between two looks at the registry")
    max_staleness: Duration | None = Field(default=None, description="past it the sidecar reports itself not ready")
    prediction_log: Path | None = Field(
        default=None,
        description="the folder sidecars log predictions into, relative to the folder of the platform's state; with it,"
        " answers are joined with the labels that come later, and scored again",
    )


class LearnSettings(_Table):
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


class StreamSettings(_Table):
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
        default=timedelta(hours=1), description="a fact known so much later than its record was made is a dead letter"
    )
    max_record_bytes: int = Field(default=1_048_576, gt=0, description="a larger record is a dead letter")
    learn: LearnSettings = Field(default=LearnSettings(), description="the resident learner's own table")


class Flow(_Table):
    """One model flow: a growing sequence of versions of one pipeline model."""

    name: str = Field(default="", exclude=True, description="the table's own name; not written inside it")
    description: str = Field(default="", description="one sentence for people; shown in Dagster")
    owners: tuple[str, ...] = Field(default=(), description="who answers for the flow: `team:name` or a mail address")
    data: DataSettings
    pipeline: PipelineSettings
    full_training: FullTrainingSettings = FullTrainingSettings()
    incremental_training: IncrementalTrainingSettings = IncrementalTrainingSettings()
    spark_training: SparkTrainingSettings | None = Field(
        default=None, description="where this table is written, training runs on Spark"
    )
    gate: GateSettings = GateSettings()
    quality: QualitySettings = QualitySettings()
    drift: DriftSettings = DriftSettings()
    retention: RetentionSettings = RetentionSettings()
    serving: ServingSettings = ServingSettings()
    stream: StreamSettings = StreamSettings()

    @property
    def address(self) -> str:
        """The model address followers use by default."""
        return f"models:/{self.name}/Production"


class PlatformSettings(_Table):
    """Where the long-running platform listens; loopback only."""

    dagster_port: Port = Field(default=3000, description="where Dagster's pages are")
    mlflow_port: Port = Field(default=5000, description="where the MLflow registry and its pages are")
    sidecar_port: Port = Field(default=8080, description="where the sidecar answers")
    replay_hours_per_second: float = Field(default=1.0, gt=0, description="how fast `make up` plays a finite source")


class _ProjectFile(_Table):
    tracking_uri: str | None = Field(
        default=None, description="the MLflow registry; leave out for sqlite under the home"
    )
    ledger_uri: str | None = Field(
        default=None,
        description="the database of the ledger; leave out for the registry's own, or, where that is a server, the"
        " sqlite file that a registry under the home would use",
    )
    platform: PlatformSettings = PlatformSettings()
    flows: Mapping[str, Flow] = Field(min_length=1)


@dataclass(frozen=True, slots=True)
class Project:
    """The project file as read, with every place resolved.

    Attributes
    ----------
    root : Path
        The folder that holds `dagster_project.toml`; relative paths in it start here.
    home : Path
        Where all state lives: `MODELFLOW_HOME`, or `var/` under the root.
    tracking_uri : str
        The MLflow registry.
    ledger_uri : str
        The database of its ledger.
    signing_key : bytes or None
        Signs published packages, and is required of those that are to serve.
    kafka : mapping of str to str
        The environment's variables that begin with ``KAFKA_``; see `ml_core.streaming.broker`.
    """

    root: Path
    home: Path
    tracking_uri: str
    ledger_uri: str
    signing_key: bytes | None = made(repr=False)
    platform: PlatformSettings
    flows: Mapping[str, Flow]
    kafka: Mapping[str, str] = made(default_factory=dict)

    def flow(self, name: str) -> Flow:
        """Return the flow called `name`; raise ProjectError naming the nearest one when there is none."""
        if name not in self.flows:
            raise ProjectError(f"no flow named {name!r} in {self.root / PROJECT_FILE}: {nearest(name, self.flows)}")
        return self.flows[name]


def load_project(
    path: Path | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    broken: dict[str, str] | None = None,
) -> Project:
    """Read the project file.

    Parameters
    ----------
    path : Path, optional
        The file, or the folder that holds it; by default it is looked for upwards from the working directory.
    environment : mapping, optional
        Stands in for the process environment.
    broken : dict, optional
        Takes the flows whose own tables cannot be used, with the reason, instead of an error: a platform of many flows
        goes on with the others.

    Raises
    ------
    ProjectError
        The file is missing, is not TOML, or has a key or value that does not belong there.
    """
    file = _find(path)
    env = os.environ if environment is None else environment
    text = file.read_text(encoding="utf-8")
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ProjectError(f"{file} is not valid TOML: {error}") from error
    try:
        read = _ProjectFile.model_validate(content)
    except ValidationError as error:
        reasons = _by_flow(error, text)
        sound = {name: table for name, table in content.get("flows", {}).items() if name not in reasons}
        if broken is None or "" in reasons or not sound:
            raise ProjectError(f"{file}: " + "; ".join(_explain(error.errors(), text))) from error
        broken |= {name: f"{file}: {reason}" for name, reason in reasons.items()}
        read = _ProjectFile.model_validate(content | {"flows": sound})
    home = Path(env.get("MODELFLOW_HOME") or file.parent / "var").resolve()
    local = f"sqlite:///{home}/mlflow/mlflow.db"
    tracking_uri = env.get("MLFLOW_TRACKING_URI") or read.tracking_uri or local
    return Project(
        root=file.parent,
        home=home,
        tracking_uri=tracking_uri,
        ledger_uri=env.get("MODELFLOW_LEDGER_URI")
        or read.ledger_uri
        or (local if tracking_uri.startswith("http") else tracking_uri),
        signing_key=_signing_key(env),
        platform=read.platform,
        flows={name: flow.model_copy(update={"name": name}) for name, flow in read.flows.items()},
        kafka={name: value for name, value in env.items() if name.startswith("KAFKA_")},
    )


def tables() -> dict[str, type[BaseModel]]:
    """Return every table the file may hold by its name, `<flow>` standing for a flow's own; "" is the top."""
    found: dict[str, type[BaseModel]] = {"": _ProjectFile, "platform": PlatformSettings, "flows.<flow>": Flow}
    inside: list[tuple[str, type[BaseModel]]] = [("flows.<flow>", Flow)]
    for where, table in inside:  # it grows as tables are found
        for key, field in table.model_fields.items():
            inner = _table_in(field.annotation)
            if inner is not None:
                found[f"{where}.{key}"] = inner
                inside.append((f"{where}.{key}", inner))
    return found


def _table_in(annotation: Any) -> type[BaseModel] | None:
    """Return the model of the table a key holds, where it holds one."""
    parts = [annotation, *get_args(annotation)]
    return next((part for part in parts if isinstance(part, type) and issubclass(part, BaseModel)), None)


def day_start(day: date) -> datetime:
    """Return the first instant of a partition day, in UTC."""
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def _signing_key(env: Mapping[str, str]) -> bytes | None:
    """Return the key that packages are signed with: that of a file, or the environment's own."""
    if file := env.get("MODELFLOW_SIGNING_KEY_FILE"):
        try:
            key = Path(file).read_bytes().strip()
        except OSError as error:
            raise ProjectError(
                f"MODELFLOW_SIGNING_KEY_FILE: expected a file that holds a key, found {error}"
            ) from error
    else:
        key = env.get("MODELFLOW_SIGNING_KEY", "").encode()
    if (file or key) and len(key) < _SHORTEST_KEY_BYTES:
        raise ProjectError(f"expected a signing key of at least {_SHORTEST_KEY_BYTES} bytes, found one of {len(key)}")
    return key or None


def _find(path: Path | None) -> Path:
    if path is not None:
        file = path / PROJECT_FILE if path.is_dir() else path
        if not file.is_file():
            raise ProjectError(f"expected a project file at {file}, found none; run `modelflow` inside a project")
        return file.resolve()
    for folder in (Path.cwd(), *Path.cwd().parents):
        if (folder / PROJECT_FILE).is_file():
            return folder / PROJECT_FILE
    raise ProjectError(f"found no {PROJECT_FILE} in {Path.cwd()} or above it; run `modelflow` inside a project")


def _by_flow(error: ValidationError, text: str) -> dict[str, str]:
    """Return what is wrong with each flow; "" stands for the rest of the file."""
    findings: dict[str, list[ErrorDetails]] = {}
    for finding in error.errors():
        location = finding["loc"]
        name = str(location[1]) if location[0] == "flows" and len(location) > 1 else ""
        findings.setdefault(name, []).append(finding)
    return {name: "; ".join(_explain(found, text)) for name, found in findings.items()}


def _explain(findings: Sequence[ErrorDetails], text: str) -> list[str]:
    """Turn pydantic's findings into sentences that name key and line and, for an unknown key, the nearest valid one."""
    sentences = []
    for finding in findings:
        where = ".".join(str(part) for part in finding["loc"])
        line = line_of(text, finding["loc"])
        at = f" (line {line})" if line else ""
        if finding["type"] == "extra_forbidden":
            table = _table_at(finding["loc"][:-1])
            hint = nearest(str(finding["loc"][-1]), [key for key in table.model_fields if key != "name"])
            sentences.append(f"unknown key {where}: {hint}{at}")
        elif finding["type"] == "missing":
            sentences.append(f"missing key {where}: {_describe(finding['loc'])}{at}")
        else:
            found = "" if isinstance(finding["input"], Mapping) else f" = {finding['input']!r}"
            sentences.append(f"{where}{found}: {finding['msg']}{at}")
    return sentences


def _describe(location: tuple[int | str, ...]) -> str:
    field = _table_at(location[:-1]).model_fields[str(location[-1])]
    return field.description or f"a table [{'.'.join(str(part) for part in location)}]"


def _table_at(location: tuple[int | str, ...]) -> type[BaseModel]:
    """Follow a location of the file down to the model of the table that stands there."""
    table: type[BaseModel] = _ProjectFile
    for part in location:
        if table is _ProjectFile and part == "flows":
            continue
        field = table.model_fields.get(str(part))
        table = (field and _table_in(field.annotation)) or Flow
    return table

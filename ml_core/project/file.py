"""The file as a whole: the platform's table, one for each flow, and every table that may stand in it by its name."""

from collections.abc import Mapping
from typing import Any, get_args

from pydantic import BaseModel, Field

from ml_core.project.data import DataSettings, QualitySettings
from ml_core.project.stream import StreamSettings
from ml_core.project.table import Port, Table
from ml_core.project.training import (
    DriftSettings,
    FullTrainingSettings,
    IncrementalTrainingSettings,
    PipelineSettings,
    SparkTrainingSettings,
)
from ml_core.project.versions import GateSettings, RetentionSettings, ServingSettings


class Flow(Table):
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


class PlatformSettings(Table):
    """Where the long-running platform listens; loopback only."""

    dagster_port: Port = Field(default=3000, description="where Dagster's pages are")
    mlflow_port: Port = Field(default=5000, description="where the MLflow registry and its pages are")
    sidecar_port: Port = Field(default=8080, description="where the sidecar answers")
    replay_hours_per_second: float = Field(default=1.0, gt=0, description="how fast `make up` plays a finite source")


class ProjectFile(Table):
    """`dagster_project.toml`."""

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


def tables() -> dict[str, type[BaseModel]]:
    """Return every table the file may hold by its name, `<flow>` standing for a flow's own; "" is the top."""
    found: dict[str, type[BaseModel]] = {"": ProjectFile, "platform": PlatformSettings, "flows.<flow>": Flow}
    inside: list[tuple[str, type[BaseModel]]] = [("flows.<flow>", Flow)]
    for where, table in inside:  # it grows as tables are found
        for key, field in table.model_fields.items():
            inner = _table_in(field.annotation)
            if inner is not None:
                found[f"{where}.{key}"] = inner
                inside.append((f"{where}.{key}", inner))
    return found


def table_at(location: tuple[int | str, ...]) -> type[BaseModel]:
    """Follow a location of the file down to the model of the table that stands there."""
    table: type[BaseModel] = ProjectFile
    for part in location:
        if table is ProjectFile and part == "flows":
            continue
        field = table.model_fields.get(str(part))
        table = (field and _table_in(field.annotation)) or Flow
    return table


def _table_in(annotation: Any) -> type[BaseModel] | None:
    """Return the model of the table a key holds, where it holds one."""
    parts = [annotation, *get_args(annotation)]
    return next((part for part in parts if isinstance(part, type) and issubclass(part, BaseModel)), None)

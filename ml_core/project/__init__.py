"""The one reader of `dagster_project.toml`: what flows exist, and what each is made of.

Everything is read once into frozen models. An unknown key is refused with the nearest valid one named, so a
misspelt setting can never be silently ignored.
"""

from ml_core.project.data import DataSettings, SourceSettings, day_start
from ml_core.project.file import Flow, tables
from ml_core.project.reading import PROJECT_FILE, Project, load_project
from ml_core.project.stream import LearnSettings
from ml_core.project.table import ColumnKind, Duration
from ml_core.project.training import DriftSettings, PipelineSettings, SparkTrainingSettings
from ml_core.project.versions import GateSettings

__all__ = [
    "PROJECT_FILE",
    "ColumnKind",
    "DataSettings",
    "DriftSettings",
    "Duration",
    "Flow",
    "GateSettings",
    "LearnSettings",
    "PipelineSettings",
    "Project",
    "SourceSettings",
    "SparkTrainingSettings",
    "day_start",
    "load_project",
    "tables",
]

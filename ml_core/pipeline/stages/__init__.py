"""The stages a pipeline is put together from, by the names `dagster_project.toml` uses for them."""

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from ml_core.errors import ProjectError, nearest
from ml_core.pipeline.stages.base import Stage
from ml_core.pipeline.stages.changed import Clip, Impute, Log1p
from ml_core.pipeline.stages.encoded import Bucketize, Passthrough, Standardise
from ml_core.pipeline.stages.foreign import Foreign
from ml_core.pipeline.stages.hashed import Cross, Hash
from ml_core.pipeline.stages.onehot import OneHot

STAGES: Mapping[str, type[Stage]] = {
    stage.kind: stage for stage in (Hash, OneHot, Cross, Standardise, Bucketize, Passthrough, Impute, Clip, Log1p)
}


def build_stage(spec: Mapping[str, Any], schema: Mapping[str, str]) -> Stage:
    """Build the stage a table of the project file describes.

    Raises
    ------
    ProjectError
        The stage, one of its keys, or one of its columns does not exist, has the wrong type or makes no sense; the
        nearest valid name is given.
    """
    settings = dict(spec)
    kind = settings.pop("stage", None)
    if isinstance(kind, str) and "." in kind:
        return _build_foreign(kind, settings, schema)
    if kind not in STAGES:
        raise ProjectError(
            f"pipeline stage {kind!r} does not exist: {nearest(str(kind), STAGES)} (a transformer of another library"
            " goes by its dotted path, such as sklearn.preprocessing.StandardScaler)"
        )
    if STAGES[kind].policies == ("frozen",) and settings.pop("policy", "frozen") != "frozen":
        raise ProjectError(f"pipeline stage {kind!r} learns nothing from rows: its one policy is 'frozen'")
    known = {field.name: field for field in fields(STAGES[kind]) if field.init}  # type: ignore[arg-type]  # all are dataclasses
    for key in settings:
        if key not in known:
            raise ProjectError(f"pipeline stage {kind!r} has no key {key!r}: {nearest(key, known)}")
    for name, field in known.items():
        if name not in settings and field.default is MISSING and field.default_factory is MISSING:
            raise ProjectError(f"pipeline stage {kind!r} needs the key {name!r}")
    try:
        stage = STAGES[kind](**{key: _frozen(value) for key, value in settings.items()})
        _check_columns(stage, schema)
        stage.check()
    except (TypeError, ValueError, AttributeError) as error:
        raise ProjectError(f"pipeline stage {kind!r}: {error}") from error
    return stage


def _build_foreign(kind: str, settings: dict[str, Any], schema: Mapping[str, str]) -> Foreign:
    """Build a transformer of another library; keys that are not the stage's own are the transformer's."""
    columns = _frozen(settings.pop("columns", ()))
    own = {key: settings.pop(key) for key in ("policy", "into") if key in settings}
    first = schema.get(columns[0], "float") if columns and not isinstance(columns, str) else "float"
    stage = Foreign(kind, columns, first, settings, **own)
    _check_columns(stage, schema)
    try:
        stage.check()
    except ValueError as error:
        raise ProjectError(f"pipeline stage {kind!r}: {error}") from error
    return stage


def _check_columns(stage: Stage, schema: Mapping[str, str]) -> None:
    if not stage.inputs or isinstance(stage.inputs, str):
        raise ProjectError(f"pipeline stage {stage.kind!r}: expected a list of columns, found {stage.inputs!r}")
    if len(set(stage.inputs)) < len(stage.inputs):
        raise ProjectError(f"pipeline stage {stage.kind!r} names a column twice: {list(stage.inputs)}")
    for column in stage.inputs:
        if column not in schema:
            raise ProjectError(f"pipeline stage {stage.kind!r}: no feature {column!r}: {nearest(str(column), schema)}")
        if schema[column] != stage.takes:
            raise ProjectError(
                f"pipeline stage {stage.kind!r} takes {stage.takes} columns; {column!r} is a {schema[column]}: cast it"
                " in features.sql or use another stage"
            )


def _frozen(value: Any) -> Any:
    """Turn the lists of a TOML value into tuples, all the way down."""
    if isinstance(value, list | tuple):
        return tuple(_frozen(item) for item in value)
    if isinstance(value, Mapping):
        return {key: _frozen(item) for key, item in value.items()}
    return value


__all__ = ["STAGES", "Foreign", "Stage", "build_stage"]

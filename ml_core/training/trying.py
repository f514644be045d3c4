"""`modelflow check`: a flow tried out end to end on a sample, in seconds and without a trace.

Every step is the code that the platform runs: the source's reader, the feature store, the training, the package and
its verification. Only the registry is one that keeps nothing.
"""

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa

from ml_core.clock import duration_text
from ml_core.data.store import FeatureStore
from ml_core.data.trial import require_translation, sample_facts, tried
from ml_core.errors import DataError, FeatureError, ProjectError
from ml_core.flow.package import verify_package
from ml_core.flow.registry import Registry
from ml_core.flow.version import ModelVersion
from ml_core.pipeline import PipelineModel
from ml_core.pipeline.stages import build_stage
from ml_core.places import line_of
from ml_core.project import PROJECT_FILE, Flow, Project
from ml_core.training import spark
from ml_core.training.full import train_full
from ml_core.training.tasks import listed

_SHARES = 10  # labels of more values are told as numbers
_ALL = (datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC))


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that was tried and holds.

    Attributes
    ----------
    name, found : str
    seconds : float
    warning : bool
        Whether it holds, but somebody should look.
    """

    name: str
    found: str
    seconds: float
    warning: bool = False


def try_flow(project: Project, flow: Flow, *, rows: int = 5_000) -> Iterator[Step]:
    """Yield what was tried, step by step.

    Parameters
    ----------
    rows : int
        How many requests the sample holds; the first ones of the source.

    Raises
    ------
    ModelFlowError
        The first step that does not hold; the message names flow, file, line and key as far as there are any.
    """
    watch = _Watch()
    facts = sample_facts(flow, root=project.root, home=project.home, rows=rows)
    counts = ", ".join(f"{table.num_rows} {kind}" for kind, table in facts.items())
    yield watch.step("source", f"facts of the sample: {counts}")
    if flow.data.engine == "spark":
        require_translation(flow, facts, root=project.root)
        yield watch.step("spark", f"{flow.data.features} is translated whole; DuckDB builds the sample")
    with tried(flow, facts, root=project.root) as store:
        built = store.feature_rows(*_ALL)
        yield watch.step("features", f"{built.num_rows} rows of {built.num_columns - 2} features")
        with tried(flow, facts, root=project.root, steps=4) as stepwise:
            _require_same(flow, built, stepwise.feature_rows(*_ALL))
        yield watch.step("point in time", "the rows are the same when facts come in step by step")
        yield watch.step(*_labels(flow, store))
        _require_stages(project, flow, store)
        nowhere = _Nowhere()
        spark.require_mergeable(flow, PipelineModel.build(flow.pipeline, store.schema()))
        train_full(flow.model_copy(update={"spark_training": None}), store, nowhere)
        yield watch.step(*_trained(flow, nowhere.metrics))
        yield watch.step("package", f"{nowhere.size_kb} kB; the exported graph gives the scores of the trained model")
        columns = [name for name in built.column_names if name not in {"key", "request_time"}]
    yield watch.step(*_sample_request(project, flow, columns))


class _Watch:
    def __init__(self) -> None:
        self._last = time.perf_counter()

    def step(self, name: str, found: str, warning: bool = False) -> Step:
        now = time.perf_counter()
        seconds, self._last = now - self._last, now
        return Step(name, found, seconds, warning)


class _Nowhere(Registry):
    """A registry that verifies what it is given, and keeps only the figures."""

    def __init__(self) -> None:
        self.metrics: Mapping[str, float] = {}
        self.size_kb = 0

    def head(self, flow: str) -> ModelVersion | None:
        """Return None: there is never a version."""
        del flow
        return None

    def publish(
        self, flow: str, package: Path, *, tags: Mapping[str, str], metrics: Mapping[str, float], evaluation: Path
    ) -> ModelVersion:
        """Verify the package as a predictor would."""
        del evaluation
        verify_package(package)
        self.metrics = metrics
        self.size_kb = sum(file.stat().st_size for file in package.rglob("*") if file.is_file()) // 1024
        return ModelVersion(
            flow=flow, version=0, stage="None", kind=tags["kind"], parent=None, watermark=0, trained_through=_ALL[0],
            feature_fingerprint=tags["feature_fingerprint"], manifest_sha256="", dagster_run_id="", mlflow_run_id="",
            source=str(package), metrics=metrics, verdict=None,
        )  # fmt: skip

    def describe(self, version: ModelVersion, text: str, files: Mapping[str, str]) -> None:
        """Show nothing: there is no version."""


def _require_stages(project: Project, flow: Flow, store: FeatureStore) -> None:
    """Raise ProjectError with the line of the first stage that cannot be built over the flow's features."""
    file = project.root / PROJECT_FILE
    for position, spec in enumerate(flow.pipeline.stages):
        try:
            build_stage(spec, store.schema())
        except ProjectError as error:
            line = line_of(file.read_text(encoding="utf-8"), ("flows", flow.name, "pipeline", "stages", position))
            raise ProjectError(f"flow {flow.name}: {file}, line {line}: {error}") from error


def _require_same(flow: Flow, at_once: pa.Table, stepwise: pa.Table) -> None:
    """Raise FeatureError where a row depends on when it was built: then it uses what was not known, or forgets."""
    if at_once.num_rows != stepwise.num_rows:
        raise FeatureError(
            f"flow {flow.name}: {flow.data.features}: expected as many rows step by step as at once,"
            f" found {stepwise.num_rows} and {at_once.num_rows}"
        )
    for name in at_once.column_names:
        ours, theirs = (_plain(table.column(name)) for table in (at_once, stepwise))
        differ = [row for row, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b]
        if differ:
            row = differ[0]
            raise FeatureError(
                f"flow {flow.name}: {flow.data.features}: feature {name!r} of key {at_once.column('key')[row]} is"
                f" {theirs[row]} when it is built as facts come in, and {ours[row]} when all facts are there already"
                f" ({len(differ)} rows differ). Join only facts with known_at <= request_time, and none older than the"
                f" lookback of {flow.data.lookback}"
            )


def _plain(column: pa.ChunkedArray) -> list[object]:
    if pa.types.is_floating(column.type):
        numbers = column.to_numpy()
        return [None if np.isnan(number) else float(number) for number in numbers]
    return list(column.to_pylist())


def _labels(flow: Flow, store: FeatureStore) -> tuple[str, str, bool]:
    progress, window = store.progress(), duration_text(flow.data.label_window)
    if not progress.next_example:
        raise DataError(
            f"flow {flow.name}: expected labelled rows in the sample, found none: no `{flow.data.label_fact}` fact has"
            f" a `{flow.data.label}` known within label_window = {window!r} of its request"
        )
    labels = store.examples(0, progress.next_example).column("label").to_numpy()
    values, counts = np.unique(labels, return_counts=True)
    if values.size < 2:  # noqa: PLR2004 - nothing to tell apart
        raise DataError(
            f"flow {flow.name}: expected labels of at least two values in the sample, found only {values[0]:g}; check"
            f" `{flow.data.label}` of `{flow.data.label_fact}`"
        )
    if values.size > _SHARES:
        told = f"min {values[0]:g}, median {np.median(labels):g}, max {values[-1]:g}, mean {labels.mean():.4g}"
    else:
        told = ", ".join(f"{value:g}: {count / labels.size:.1%}" for value, count in zip(values, counts, strict=True))
    found = f"{labels.size} examples; {told}"
    if progress.late_labels:
        found += f"; {progress.late_labels} labels came after label_window = {window!r} and are not used"
        if flow.data.source is not None:
            found += (
                f" (they are known label_delay = {duration_text(flow.data.source.label_delay)!r} after the request)"
            )
    elif labels.size < flow.gate.min_rows:
        found += f"; the gate wants {flow.gate.min_rows} rows (gate.min_rows), see that the whole source has them"
    return "labels", found, bool(progress.late_labels or labels.size < flow.gate.min_rows)


def _trained(flow: Flow, metrics: Mapping[str, float]) -> tuple[str, str, bool]:
    """Tell how the sample's model did; look at it where it did worse than one that had learned nothing but a mean."""
    found, worse = listed(metrics), metrics.get("skill_ratio", 0.0) > 1
    if worse:
        constant = "the mean of the labels" if "mse" in metrics else "the base rate of the labels"
        found += (
            f"; worse than always answering {constant} (skill_ratio above 1). The gate refuses a first version above"
            f" first_max_normalised_entropy = {flow.gate.first_max_normalised_entropy:g}: see whether more rows help"
            " (--rows), then change stages or estimator"
        )
    return "training", found, worse


def _sample_request(project: Project, flow: Flow, columns: list[str]) -> tuple[str, str, bool]:
    file = (project.root / flow.data.features).with_name("sample_request.json")
    if not file.exists():
        return "sample request", f"there is none at {file}", False
    try:
        (record,) = json.loads(file.read_text(encoding="utf-8"))["dataframe_records"]
    except (ValueError, KeyError) as error:
        raise ProjectError(f"flow {flow.name}: {file}: expected one of `dataframe_records`, found {error!r}") from error
    if set(record) != set(columns):
        missing, extra = sorted(set(columns) - set(record)), sorted(set(record) - set(columns))
        return "sample request", f"{file} lacks {missing} and has {extra} that features.sql does not make", True
    return "sample request", f"{file} holds the {len(columns)} features", False

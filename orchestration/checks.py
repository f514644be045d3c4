"""The checks of a flow's data: those that block stand between the feature table and training, the others warn."""

from collections.abc import Callable, Iterator, Sequence

import dagster as dg
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus

from ml_core.data.store import FeatureStore
from ml_core.project import Flow
from ml_core.training.quality import BLOCKING, FACT_CHECKS, FEATURE_CHECKS, Finding, check_facts, check_features
from orchestration.assets.names import duckdb_pool, key
from orchestration.resources import Platform

_RECENT_ROWS = 20_000
_HOUR_US = 3_600_000_000


def flow_checks(flow: Flow) -> list[dg.AssetChecksDefinition]:
    """Return one flow's checks."""

    @dg.asset_check(
        asset=key(flow, "features"),
        blocking=True,
        description="The newest examples stand in order, each key once, hold more than one label, and no feature is"
        " empty throughout or infinite.",
    )
    def examples_can_be_learned(platform: Platform) -> dg.AssetCheckResult:
        store = platform.store(flow)
        newest = store.progress().next_example
        examples = store.examples(max(newest - _RECENT_ROWS, 0), newest)
        labelled_at = examples.column("labelled_at").cast(pa.int64()).to_numpy().tolist()
        in_order = labelled_at == sorted(labelled_at)
        labels = examples.column("label").to_numpy()
        empty = [name for name in store.schema() if examples.column(name).null_count == examples.num_rows]
        infinite = [name for name, kind in store.schema().items() if kind == "float" and _infinite(examples[name])]
        repeated = examples.num_rows - pc.count_distinct(examples["key"]).as_py()
        waited = pc.subtract(examples["labelled_at"], examples["request_time"]).cast(pa.int64()).to_numpy() / _HOUR_US
        return dg.AssetCheckResult(
            passed=in_order and np.unique(labels).size > 1 and not empty and not infinite and not repeated,
            metadata={
                "rows": examples.num_rows,
                "in_order": in_order,
                "label_rate": float(labels.mean()) if labels.size else 0.0,
                "empty_features": str(empty),
                "infinite_features": str(infinite),
                "repeated_keys": repeated,
                "label_delay_hours_median": float(np.median(waited)) if waited.size else 0.0,
            },
        )

    return [examples_can_be_learned, *quality_checks(flow)]


def quality_checks(flow: Flow) -> list[dg.AssetChecksDefinition]:
    """Return the checks of the newest day of events and of features, of each asset one step."""
    return [
        _quality(flow, "events", FACT_CHECKS, check_facts),
        _quality(flow, "features", FEATURE_CHECKS, check_features),
    ]


def standing_in_the_way(flow: Flow, instance: dg.DagsterInstance) -> list[str]:
    """Return the blocking checks of a flow's features that failed when they were last evaluated."""
    names = ["examples_can_be_learned", *(name for name in FEATURE_CHECKS if name in BLOCKING)]
    keys = {name: dg.AssetCheckKey(key(flow, "features"), name) for name in names}
    found = ((name, instance.get_latest_asset_check_evaluation_record(each)) for name, each in keys.items())
    return [name for name, record in found if record and record.status is AssetCheckExecutionRecordStatus.FAILED]


def _quality(
    flow: Flow, asset: str, names: Sequence[str], check: Callable[[Flow, FeatureStore], list[Finding]]
) -> dg.AssetChecksDefinition:
    @dg.multi_asset_check(
        name=f"{flow.name}_{asset}_quality",
        specs=[dg.AssetCheckSpec(name, asset=key(flow, asset), blocking=name in BLOCKING) for name in names],
        pool=duckdb_pool(flow),
    )
    def quality(platform: Platform) -> Iterator[dg.AssetCheckResult]:
        for found in check(flow, platform.store(flow)):
            yield dg.AssetCheckResult(
                asset_key=key(flow, asset),
                check_name=found.name,
                passed=found.passed,
                severity=dg.AssetCheckSeverity.ERROR if found.name in BLOCKING else dg.AssetCheckSeverity.WARN,
                description=found.said,
                metadata=dict(found.figures),
            )

    return quality


def _infinite(column: pa.ChunkedArray) -> bool:
    return bool(pc.any(pc.is_inf(column)).as_py())

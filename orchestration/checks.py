"""Blocking checks that stand between the feature table and training."""

import dagster as dg
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ml_core.project import Flow
from orchestration.assets.names import key
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

    return [examples_can_be_learned]


def _infinite(column: pa.ChunkedArray) -> bool:
    return bool(pc.any(pc.is_inf(column)).as_py())

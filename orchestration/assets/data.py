"""Events and features, by day. A run takes in whatever waits, then reports on the days it was asked for.

Running a day again changes nothing: facts are absorbed once, whichever run or process does it.
"""

from collections.abc import Sequence
from datetime import date, timedelta
from typing import Any

import dagster as dg

from ml_core.data.store import FeatureStore
from ml_core.project import Flow
from orchestration.assets.names import DUCKDB_POOL, key, presented
from orchestration.partitions import daily
from orchestration.resources import Platform


def data_assets(flow: Flow) -> list[dg.AssetsDefinition]:
    """Return the assets `events` and `features` of a flow."""
    by_day: dict[str, Any] = {
        "partitions_def": daily(flow),
        "backfill_policy": dg.BackfillPolicy.single_run(),
        "pool": DUCKDB_POOL,
    }

    @dg.asset(
        **presented(
            flow,
            "events",
            kinds={"parquet", "duckdb"},
            description="Facts as they became known: absorbed from the segments producers dropped into the event log.",
        ),
        **by_day,
    )
    def events(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult[None]:
        store = platform.store(flow)
        absorbed = store.absorb()
        progress = store.progress()
        return dg.MaterializeResult(
            metadata={
                "dagster/partition_row_count": _total(store, _days(context), set(store.log.partitions())),
                "absorbed_facts": absorbed.facts,
                "late_facts": progress.late_facts,
                "clock": str(progress.clock),
                "waited_s": store.waited_s,
            }
        )

    @dg.asset(
        **presented(
            flow,
            "features",
            kinds={"duckdb", "sql"},
            description=f"One point-in-time row per `{flow.data.entity}` fact, as `{flow.data.features}` defines it,"
            " and the labelled examples in their one order.",
        ),
        deps=[key(flow, "events")],
        **by_day,
    )
    def features(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult[None]:
        store = platform.store(flow)
        progress = store.progress()
        return dg.MaterializeResult(
            metadata={
                "dagster/partition_row_count": _total(store, _days(context), {"feature_rows"}),
                "labelled_examples": _total(store, _days(context), {"examples"}),
                "examples_in_all": progress.next_example,
                "labelled_through": str(progress.labelled_through),
                "feature_columns": len(store.schema()),
                "fingerprint": store.fingerprint(),
            }
        )

    return [events, features]


def _days(context: dg.AssetExecutionContext) -> Sequence[date]:
    return [date.fromisoformat(name) for name in context.partition_keys]


def _total(store: FeatureStore, days: Sequence[date], names: set[str]) -> int:
    """Count over a run of days in one question."""
    counts = store.counts_between(days[0], days[-1] + timedelta(days=1))
    return sum(count for name, count in counts.items() if name in names)

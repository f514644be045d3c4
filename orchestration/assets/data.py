"""The source of a flow, and its events and features by day.

A run takes in whatever waits, then reports on the days it was asked for. Running a day again changes nothing: facts are
absorbed once, whichever run or process does it, and a day is only reported once it is complete, after which no fact can
be added to it: what comes late is stamped with the first instant after the flow's clock.
"""

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from typing import Any

import dagster as dg

from ml_core.data.ingest import take_in
from ml_core.data.store import FeatureStore
from ml_core.errors import DataError
from ml_core.project import Flow, day_start
from orchestration.assets.names import duckdb_pool, key, presented
from orchestration.outcomes import reported
from orchestration.partitions import daily
from orchestration.resources import Platform


def source_asset(flow: Flow) -> dg.AssetsDefinition:
    """Return the asset `source` of a flow that reads a flat table."""

    @dg.asset(
        **presented(
            flow,
            "source",
            kinds={"file"},
            description="The rows and labels of the flow's table, taken into the event log as facts, each once.",
        ),
        pool=duckdb_pool(flow),
    )
    def source(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult[None]:
        with reported(context, flow):
            store = platform.store(flow)
            taken = take_in(flow, store, root=platform.project().root, now=platform.now())
            absorbed = store.absorb()
        return dg.MaterializeResult(
            metadata={
                "new_rows": taken.rows,
                "new_labels": taken.labels,
                "left_out_rows": taken.left_out,
                "late_facts": absorbed.late_facts,
                "complete_through": taken.through.isoformat(),
            }
        )

    made: dg.AssetsDefinition = source
    return made


def data_assets(flow: Flow) -> list[dg.AssetsDefinition]:
    """Return the assets `events` and `features` of a flow, and `source` where it has one."""
    by_day: dict[str, Any] = {
        "partitions_def": daily(flow),
        "backfill_policy": dg.BackfillPolicy.single_run(),
        "pool": duckdb_pool(flow),
    }

    @dg.asset(
        **presented(
            flow,
            "events",
            kinds={"parquet", "duckdb"},
            description="Facts as they became known: absorbed from the segments producers dropped into the event log.",
        ),
        deps=[] if flow.data.source is None else [key(flow, "source")],
        **by_day,
    )
    def events(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult[None]:
        with reported(context, flow):
            store = platform.store(flow)
            absorbed = store.absorb()
            progress = store.progress()
            _require_complete(flow, _days(context), progress.clock)
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
        with reported(context, flow):
            store = platform.store(flow)
            progress = store.progress()
            _require_complete(flow, _days(context), progress.clock)
            return dg.MaterializeResult(
                metadata={
                    "dagster/partition_row_count": _total(store, _days(context), {"feature_rows"}),
                    "labelled_examples": _total(store, _days(context), {"examples"}),
                    "examples_in_all": progress.next_example,
                    "labelled_through": str(progress.labelled_through),
                    "feature_columns": len(store.schema()),
                    "fingerprint": store.fingerprint(),
                    "waited_s": store.waited_s,
                }
            )

    return [events, features] if flow.data.source is None else [source_asset(flow), events, features]


def _days(context: dg.AssetExecutionContext) -> Sequence[date]:
    return [date.fromisoformat(name) for name in context.partition_keys]


def _require_complete(flow: Flow, days: Sequence[date], clock: datetime | None) -> None:
    """Raise DataError for a day that more facts may still belong to: its rows would change under its readers."""
    early = [day for day in days if clock is None or clock < day_start(day + timedelta(days=1))]
    if early:
        raise DataError(
            f"flow {flow.name}: expected days that are complete, but facts are complete only through {clock}, and"
            f" {len(early)} of {len(days)} days end later, from {early[0]} on. Run them when their facts are there; the"
            f" sensor {flow.name}_new_days does so by itself"
        )


def _total(store: FeatureStore, days: Sequence[date], names: set[str]) -> int:
    """Count over a run of days in one question."""
    counts = store.counts_between(days[0], days[-1] + timedelta(days=1))
    return sum(count for name, count in counts.items() if name in names)

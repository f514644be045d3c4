"""Days: the partitions of a flow's events and features. They begin and, where the data is finite, end with it."""

import dagster as dg

from ml_core.project import Flow


def daily(flow: Flow) -> dg.DailyPartitionsDefinition:
    """Return the UTC days of a flow."""
    return dg.DailyPartitionsDefinition(start_date=flow.data.starts.isoformat(), end_date=_iso(flow), timezone="UTC")


def _iso(flow: Flow) -> str | None:
    return None if flow.data.ends is None else flow.data.ends.isoformat()

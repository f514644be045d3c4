"""A flow small enough to reason about by hand: orders that are shipped, and arrive late or not."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ml_core.data import FeatureStore
from ml_core.project import Flow

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)

FEATURES = """
select o.order_id as key, o.request_time, o.shop,
       (select avg(days::integer) from arrived a
        where a.shop = o.shop and a.known_at <= o.request_time
          and a.known_at > o.request_time - interval 1 day)::float as recent_days
from requests o
"""

INSTANT = pa.timestamp("us", tz="UTC")


def at(minutes: float) -> datetime:
    """Return an instant so many minutes after noon."""
    return NOON + timedelta(minutes=minutes)


def ordered(*rows: tuple[str, str, float, float]) -> pa.Table:
    """Make `ordered` facts of (order_id, shop, asked, known), the last two in minutes after noon."""
    ids, shops, asked, known = zip(*rows, strict=True) if rows else ((), (), (), ())
    return pa.table(
        {
            "event_time": pa.array([at(m) for m in known], INSTANT),
            "known_at": pa.array([at(m) for m in known], INSTANT),
            "order_id": pa.array(ids, pa.string()),
            "shop": pa.array(shops, pa.string()),
            "asked_at": pa.array([at(m) for m in asked], INSTANT),
        }
    )


def arrived(*rows: tuple[str, str, int | None, float]) -> pa.Table:
    """Make `arrived` facts of (order_id, shop, days, known); late when it took more than three days."""
    ids, shops, days, known = zip(*rows, strict=True) if rows else ((), (), (), ())
    return pa.table(
        {
            "event_time": pa.array([at(m) for m in known], INSTANT),
            "known_at": pa.array([at(m) for m in known], INSTANT),
            "order_id": pa.array(ids, pa.string()),
            "shop": pa.array(shops, pa.string()),
            "days": pa.array(days, pa.int32()),
            "late": pa.array([None if d is None else d > 3 for d in days], pa.bool_()),
        }
    )


def orders_flow() -> Flow:
    """Return the flow of orders."""
    data: dict[str, Any] = {
        "loader": "nowhere:facts",
        "features": "features.sql",
        "entity": "ordered",
        "key": "order_id",
        "request_time": "asked_at",
        "label_fact": "arrived",
        "label": "late",
        "lookback": "2 days",
        "label_window": "3 days",
        "starts": "2024-05-01",
    }
    pipeline = {"stages": [{"stage": "hash", "columns": ["shop"]}], "estimator": {"name": "FTRLClassifier"}}
    return Flow.model_validate({"name": "orders", "data": data, "pipeline": pipeline})


@pytest.fixture
def make_store(tmp_path: Path) -> Callable[..., FeatureStore]:
    """Make stores of the flow of orders, each in a home of its own unless told otherwise."""
    (tmp_path / "features.sql").write_text(FEATURES, encoding="utf-8")

    def make(home: str = "home", wait_s: float = 30) -> FeatureStore:
        return FeatureStore(orders_flow(), root=tmp_path, home=tmp_path / home, wait_s=wait_s)

    return make

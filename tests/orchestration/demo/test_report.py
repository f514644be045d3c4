"""The demo's tables: what became of each version is seen, in a terminal of 80 columns."""

import io
from datetime import UTC, datetime

from rich.console import Console

from ml_core.flow.ledger import Entry
from ml_core.flow.verdict import Verdict
from ml_core.flow.version import ModelVersion
from orchestration.demo import report


def version(number: int, stage: str, *, accepted: bool = True) -> ModelVersion:
    return ModelVersion(
        flow="flight_delays", version=number, stage=stage, kind="incremental" if number > 1 else "full",
        parent=number - 1 or None, watermark=100_000 * number, trained_through=datetime(2013, 9, number, 6, tzinfo=UTC),
        feature_fingerprint="", manifest_sha256="", dagster_run_id="", mlflow_run_id="", source="",
        metrics={"log_loss": 0.35, "auc": 0.86},
        verdict=Verdict(accepted=accepted, policy="first", rows=1, reasons=() if accepted else ("worse",), figures={}),
    )  # fmt: skip


def moved(number: int, kind: str, before: int | None, champion: int) -> Entry:
    return Entry("flight_delays", number, kind, champion, before=before, champion=champion, step="done")


def test_a_version_that_was_rolled_back_is_told_from_one_that_was_replaced() -> None:
    """Both are accepted and archived; the ledger knows which of them did harm."""
    versions = [version(number, "Archived", accepted=number != 3) for number in (1, 2, 3, 4)] + [
        version(5, "Production")
    ]
    entries = [
        moved(1, "promote", None, 1),
        moved(2, "promote", 1, 2),
        moved(3, "refuse", 2, 2),
        moved(4, "promote", 2, 4),
        moved(5, "rollback", 4, 2),
        moved(6, "promote", 2, 5),
    ]
    rows = report.version_rows(versions, entries)
    assert [row["fate"] for row in rows] == ["archived", "archived", "refused", "rolled back", "Production"]
    assert [row["verdict"] for row in rows] == ["accepted", "accepted", "refused", "accepted", "accepted"]

    shown = io.StringIO()
    week = {"rows": 10, "late_share": 0.2} | {each: {"log_loss": 0.35, "auc": 0.86} for each in ("live", "frozen")}
    told = {
        "versions": rows,
        "weeks": [week | {"week_starts": "2013-09-03"}],
        "last_8_weeks": week,
        "all": week,
        "sync_intervals": [{"model": "increments, as served", "rows": 10, "log_loss": 0.35, "auc": 0.86}],
        "requests": {"answered": 10, "sent": 10, "failed": 0, "reloads": 4},
    }
    report.show(told, Console(file=shown, width=80))
    lines = shown.getvalue().splitlines()
    assert [line.split()[0] for line in lines if "incremental" in line] == ["2", "3", "4", "5"], shown.getvalue()
    assert any(line.rstrip().endswith("2013-09-04  0.3500  0.8600  rolled back") for line in lines), shown.getvalue()

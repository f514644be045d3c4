"""A run launched by hand in Dagster's pages, and the model card it leaves there."""

import re
import runpy
from pathlib import Path

import dagster as dg
import pytest

from tests.integration.test_running_platform import Running, eventually, platform

__all__ = ["platform"]  # fixture

ROOT = Path(__file__).resolve().parents[2]
WAIT_MS = 60_000


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.usefixtures("chromium")
def test_a_run_launched_in_the_pages_leaves_its_model_card_there(platform: Running) -> None:
    """What a person does on the first day: press the button, wait, and read what came of it."""
    pictures = runpy.run_path(str(ROOT / "scripts" / "screenshots.py"))
    dagster = f"http://127.0.0.1:{platform.port}"
    with pictures["browser_page"](height=1000) as page:
        page.set_default_timeout(WAIT_MS)
        page.goto(f"{dagster}/locations/modelflow/jobs/orders_full_training/playground")
        page.get_by_role("button", name="Skip").click()  # a fresh profile is greeted first
        page.get_by_role("button", name="Launch Run").click()
        page.wait_for_url(re.compile("/runs/"))
        run_id = page.url.rpartition("/")[2]
        eventually(lambda: _ended(platform, run_id), what="the launched run to end", timeout_s=120)
        page.goto(f"{dagster}/assets/orders/full_model?view=events")
        page.get_by_text(run_id[:8]).first.wait_for()
        page.goto(f"{dagster}/assets/orders/full_model?view=overview")
        page.get_by_text("[Show Markdown]").first.click()
        for part in ("orders, version", "Lineage and data", "Influence of the columns"):
            page.get_by_text(part).first.wait_for()
    run = platform.instance.get_run_by_id(run_id)
    assert run is not None
    assert "dagster/sensor_name" not in run.tags
    assert "dagster/schedule_name" not in run.tags


def _ended(platform: Running, run_id: str) -> bool:
    run = platform.instance.get_run_by_id(run_id)
    if run is not None and run.status is dg.DagsterRunStatus.FAILURE:
        pytest.fail(f"the run {run_id} failed")
    return run is not None and run.status is dg.DagsterRunStatus.SUCCESS

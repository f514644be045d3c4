"""The asset graph as people see it in Dagster's pages."""

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.browser
@pytest.mark.usefixtures("chromium")
def test_the_asset_graph_is_drawn_for_the_screenshot(dagster_pages: str, tmp_path: Path) -> None:
    """The README's picture is taken by this very code; it must show the flow from events to the served model."""
    pictures = runpy.run_path(str(ROOT / "scripts" / "screenshots.py"))
    with pictures["browser_page"]() as page:
        names = pictures["open_asset_graph"](page, dagster_pages, "flight_delays")
        page.screenshot(path=tmp_path / "asset-graph.png")
        shown = page.inner_text("body")
    assert {"events", "features", "full_model", "incremental_model", "served_model"} <= set(names)
    assert all(name in shown for name in names)
    assert (tmp_path / "asset-graph.png").stat().st_size > 20_000

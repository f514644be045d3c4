"""The sidecar's page in a real browser: it shows what is served, and goes on by itself."""

import json
import re
import runpy
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.serving.conftest import ROW, FolderRegistry, RestRegistry, RunningSidecar, registry, rest_registry, sidecar

__all__ = ["registry", "rest_registry", "sidecar"]  # fixtures

ROOT = Path(__file__).resolve().parents[2]
LIVE = [{"version": 7, "role": "served", "rows": 90, "labelled": 60, "loss": 0.31234, "auc": 0.8}]
Start = Callable[..., RunningSidecar]


@pytest.mark.browser
@pytest.mark.usefixtures("chromium")
def test_the_page_shows_what_is_served_and_follows_a_swap(
    sidecar: Start, rest_registry: RestRegistry, registry: FolderRegistry, tmp_path: Path
) -> None:
    """Somebody who is called at night opens it first."""
    for version in (7, 8):
        registry.add(version)
    registry.promote(7)
    log, tokens = tmp_path / "log", tmp_path / "tokens"
    log.mkdir()
    (log / "live.json").write_text(json.dumps(LIVE), encoding="utf-8")
    tokens.write_text("open-sesame\n", encoding="utf-8")
    running = sidecar(
        "models:/f/Production", rest_registry.uri, "--poll-interval", "0.1", "--log", str(log), "--tokens", str(tokens)
    )
    told = {"Content-Type": "application/json", "Authorization": "Bearer open-sesame"}
    running.wait(lambda it: it.request("GET", "/ping")[0] == 200, "ready")
    pictures = runpy.run_path(str(ROOT / "scripts" / "screenshots.py"))
    with pictures["browser_page"](height=900) as page:
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        faults: list[str] = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto(f"http://127.0.0.1:{running.port}/")
        page.get_by_text("this sidecar asks for a token").wait_for()
        page.get_by_label("Token:").fill("open-sesame")
        page.get_by_role("button", name="Show").click()
        page.locator("#version", has_text="7").wait_for()
        assert page.inner_text("#state") == "ready"
        assert "0.3123" in page.inner_text("#live")
        assert "manifest_sha256" in page.inner_text("#lineage")
        for _ in range(40):
            assert running.request("POST", "/invocations", {"dataframe_records": [ROW] * 5}, told)[0] == 200
        registry.promote(8)
        page.locator("#version", has_text="8").wait_for(timeout=10_000)
        page.locator("#line span").nth(1).wait_for()
        assert page.locator("#line span").first.get_attribute("title").endswith("→ 7")
        assert page.locator("#line span").last.get_attribute("title").endswith("7 → 8")
        page.wait_for_function("parseInt(document.getElementById('requests').textContent) >= 40")
        assert re.fullmatch(r"[\d.]+ [µm]s · [\d.]+ [µm]s", page.inner_text("#latency"))  # by how busy the machine is
        assert not faults
        assert {url.split("/")[2] for url in asked} == {f"127.0.0.1:{running.port}"}, "nothing comes from elsewhere"
        assert running.terminate() == 0
        page.get_by_text("the sidecar does not answer").wait_for(timeout=10_000)

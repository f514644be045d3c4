"""Take the pictures of the documentation from a running platform: `make up`, then this script.

Invariant: a picture is taken of a page that has settled: every asset of the group has been drawn and has stopped
moving. Debian's chromium is driven through Playwright; nothing is downloaded.
"""

import argparse
import json
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Locator, Page, sync_playwright

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"
CHROMIUM = Path("/usr/bin/chromium")
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)
LOCATION = "modelflow"
ASSETS_OF = "query($group: AssetGroupSelector!) { assetNodes(group: $group) { assetKey { path } } }"
SETTLE_S = 60.0


def main() -> None:
    """Take every picture."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--dagster", default="http://127.0.0.1:3000", help="where Dagster's pages are")
    parser.add_argument("--flow", default="flight_delays", help="the flow to show")
    parser.add_argument("--into", type=Path, default=IMAGES, help="the folder for the pictures")
    options = parser.parse_args()
    options.into.mkdir(parents=True, exist_ok=True)
    with browser_page() as page:
        open_asset_graph(page, options.dagster, options.flow)
        page.screenshot(path=options.into / "asset-graph.png")


@contextmanager
def browser_page(*, width: int = 1400, height: int = 640) -> Iterator[Page]:
    """Open a page in a chromium of its own, with a profile that is thrown away."""
    with tempfile.TemporaryDirectory(prefix="modelflow-chromium-") as profile, sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            profile, executable_path=CHROMIUM, args=FLAGS, viewport={"width": width, "height": height}
        )
        try:
            yield context.pages[0]
        finally:
            context.close()


def open_asset_graph(page: Page, dagster: str, flow: str) -> list[str]:
    """Open a flow's asset graph, wait until it has settled, and return the names of the assets it shows."""
    names = asset_names(dagster, flow)
    if not names:
        raise LookupError(f"expected assets in group {flow!r} at {dagster}, found none; does the code location load?")
    greeting = page.get_by_role("button", name="Skip")  # shown to a fresh profile, over the page
    page.add_locator_handler(greeting, lambda skip: skip.click())
    page.goto(f"{dagster}/locations/{LOCATION}/asset-groups/{flow}/lineage")
    nodes = [page.get_by_text(name, exact=True).first for name in names]
    for node in nodes:
        node.wait_for(timeout=SETTLE_S * 1000)
    wait_until_still(page, nodes)
    return names


def asset_names(dagster: str, flow: str) -> list[str]:
    """Ask Dagster which assets the group of a flow has."""
    group = {
        "groupName": flow,
        "repositoryName": "__repository__",
        "repositoryLocationName": LOCATION,
    }
    question = json.dumps({"query": ASSETS_OF, "variables": {"group": group}}).encode()
    request = urllib.request.Request(f"{dagster}/graphql", question, {"Content-Type": "application/json"})  # noqa: S310 - the platform's own address
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - as above
        return [node["assetKey"]["path"][-1] for node in json.load(answer)["data"]["assetNodes"]]


def wait_until_still(page: Page, nodes: list[Locator]) -> None:
    """Wait until no node moves between two looks; raise TimeoutError when they never come to rest."""
    deadline = time.monotonic() + SETTLE_S
    before, now = None, [node.bounding_box() for node in nodes]
    while before != now or None in now:
        if time.monotonic() > deadline:
            raise TimeoutError(f"the asset graph did not come to rest within {SETTLE_S:.0f} s")
        page.wait_for_timeout(700)
        before, now = now, [node.bounding_box() for node in nodes]


if __name__ == "__main__":
    main()

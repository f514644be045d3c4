"""The guides: what they list is what the code has."""

import re
from pathlib import Path

import typer

from serving import wire
from serving.cli import serve

ROOT = Path(__file__).resolve().parent.parent
SERVING = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")


def test_the_serving_guide_lists_every_option_of_the_sidecar() -> None:
    """An option nobody finds is one nobody uses."""
    app = typer.Typer(add_completion=False)
    app.command()(serve)
    options = {option for each in typer.main.get_command(app).params for option in each.opts if option.startswith("--")}
    assert set(re.findall(r"`(--[a-z-]+)`", SERVING)) - {"--port"} == options - {"--port", "--help"}


def test_the_serving_guide_lists_every_answer_to_a_refused_request() -> None:
    """Callers write their retries from this table."""
    listed = {(int(status), code) for status, code in re.findall(r"^\| (\d+) \| `(\w+)` \|", SERVING, re.MULTILINE)}
    assert listed == set(wire.STATUS.values()) | {wire.INTERNAL}


def test_every_page_of_the_guides_is_reachable_from_the_readme() -> None:
    """A page without a way to it does not exist for a newcomer."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    pages = sorted((ROOT / "docs").glob("*.md"))
    assert [page.name for page in pages if f"docs/{page.name}" not in readme] == []

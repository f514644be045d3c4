"""Write docs/components.md from what every part did when it was tried; a slow test compares the page with a new try."""

from collections.abc import Iterable
from pathlib import Path

from serving.components import HEAD, Component, catalogue

PAGE = Path(__file__).resolve().parent.parent / "docs" / "components.md"
TEXT = """# Components

Every stage and estimator a pipeline can be made of, by the name the project file gives it. The table is what happened
when each part was tried in a small pipeline, on made-up rows with missing, unseen and far-out values; it is written by
`make reference`, and `modelflow components` makes it anew for the packages installed where it runs.

- **learns new rows**: `by row`, any split of new rows gave the same bits; `by batch`, it learned them as its library
  does; `refit`, each version is fitted anew ([more](pipelines.md#how-versions-follow-each-other)).
- **resumes exactly**: saved, read back and taught on, it came to the same bits as one that never stopped.
- **row scorer**: single rows are scored in microseconds without the graph; all others by ONNX Runtime.

All of them are served: a part whose graph does not say what it says is refused when a pipeline is built. {refused} more
were refused; `modelflow components --refused` says why each was.
"""


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(list(catalogue())), encoding="utf-8")


def page(found: Iterable[Component]) -> str:
    """Return the page as text."""
    found = list(found)
    served = [component for component in found if not component.refused]
    lines = [TEXT.format(refused=len(found) - len(served)), _line(HEAD), _line(["---"] * len(HEAD))]
    for component in served:
        name, *rest, told = component.cells
        lines.append(_line([f"`{name}`", *rest, f"`{told}`" if told else ""]))
    return "\n".join(lines) + "\n"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()

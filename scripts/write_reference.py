"""Write the reference parts of docs/project.md and docs/spark.md from what the code says of itself.

Invariant: the part between the two markers holds every key that the reader of `dagster_project.toml`, the stages and
the estimators accept, and nothing else; a test compares it with the file. The text around it is written by hand.
"""

import dataclasses
import inspect
import json
import types
from collections.abc import Iterable, Iterator, Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ml_core.clock import duration_text
from ml_core.data.spark.rules import NAMES as TRANSLATED
from ml_core.data.spark.translate import translate
from ml_core.pipeline.estimator import ESTIMATORS
from ml_core.pipeline.stages import STAGES
from ml_core.project import tables as project_tables

PAGE = Path(__file__).resolve().parent.parent / "docs" / "project.md"
SPARK_PAGE = PAGE.with_name("spark.md")
_ = translate  # importing it fills the table
BEGIN, END = "<!-- written by `make reference` -->\n", "<!-- end of what `make reference` writes -->\n"
WORDS = {
    str: "text", Path: "path", date: "date", timedelta: "duration", int: "whole number", float: "number",
    bool: "true or false", Any: "value",
}  # fmt: skip
BOUNDS = {Gt: "> {0.gt}", Ge: "≥ {0.ge}", Lt: "< {0.lt}", Le: "≤ {0.le}"}


def main() -> None:
    """Rewrite the pages in place."""
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    SPARK_PAGE.write_text(spark_page(SPARK_PAGE.read_text(encoding="utf-8")), encoding="utf-8")


def page(current: str) -> str:
    """Return the page with its generated part made anew."""
    before, rest = current.split(BEGIN)
    after = rest.split(END)[1]
    return before + BEGIN + "\n".join([*tables(), *stages(), *estimators()]) + "\n" + END + after


def spark_page(current: str) -> str:
    """Return the guide of Spark with its table of what is translated made anew."""
    before, rest = current.split(BEGIN)
    cells = {
        group: ", ".join(f"`{name.replace('|', chr(92) + '|')}`" for name in sorted(set(names)))
        for group, names in TRANSLATED.items()
    }
    table = ["| | |", "|---|---|", *(f"| {group} | {cell} |" for group, cell in cells.items())]
    return before + BEGIN + "\n".join(table) + "\n" + END + rest.split(END)[1]


def tables() -> Iterator[str]:
    """Describe every table of the file and every key in it."""
    for name, model in project_tables().items():
        yield f"\n### {f'`[{name}]`' if name else 'Top of the file'}\n"
        yield f"{first_line(model)}\n" if name else "Keys that stand before the first table.\n"
        yield from rows(
            (key, kind_of(field.annotation) + bounds(field), default_of(field), field.description or "")
            for key, field in model.model_fields.items()
            if not field.exclude and not is_table(field.annotation)
        )


def stages() -> Iterator[str]:
    """Describe every pipeline stage by the name it has in the file."""
    yield '\n## Stages\n\nEach is a table in `pipeline.stages`: `{ stage = "<name>", ... }`.'
    for name, stage in STAGES.items():
        yield f"\n### `{name}`\n\n{first_line(stage)} Takes {stage.takes} columns.\n"
        settings = [field for field in dataclasses.fields(stage) if field.init]  # type: ignore[arg-type]  # all are dataclasses
        yield from rows((field.name, kind_of(field.type), written(default_in(field)), "") for field in settings)


def estimators() -> Iterator[str]:
    """Describe every estimator and its hyper-parameters."""
    yield '\n## Estimators\n\nOne is the table `pipeline.estimator`: `{ name = "<name>", ... }`.'
    for name, estimator in ESTIMATORS.items():
        yield f"\n### `{name}`\n\n{first_line(estimator)}\n"
        settings = inspect.signature(estimator).parameters.values()
        yield from rows((each.name, kind_of(each.annotation), written(each.default), "") for each in settings)


def rows(entries: Iterable[tuple[str, str, str, str]]) -> Iterator[str]:
    """Lay entries out as a Markdown table; the last column only where it says something."""
    listed = list(entries)
    last = 4 if any(entry[3] for entry in listed) else 3
    yield "| " + " | ".join(("key", "value", "default", "meaning")[:last]) + " |"
    yield "|---" * last + "|"
    for key, *cells in listed:
        yield f"| `{key}` | " + " | ".join(cell.replace("|", "\\|") for cell in cells[: last - 1]) + " |"


def kind_of(annotation: Any) -> str:
    """Say in words what TOML value an annotation stands for."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return kind_of(inner[0])
    if origin is Literal:
        return " or ".join(f"`{choice}`" for choice in inner)
    if origin in {Union, types.UnionType}:
        return " or ".join(kind_of(part) for part in inner if part is not type(None))
    if origin is tuple:
        return f"{'list' if inner[-1] is Ellipsis else 'pair'} of {plural(kind_of(inner[0]))}"
    if origin is Mapping:
        return "table" if inner[1] is Any else f"table of {plural(kind_of(inner[1]))}"
    return WORDS[annotation]


def plural(kind: str) -> str:
    """Return 'lists of texts' for 'list of texts'."""
    if kind.startswith("`"):
        return f"values {kind}"
    head, of, tail = kind.partition(" of ")
    return f"{head}s{of}{tail}"


def bounds(field: FieldInfo) -> str:
    """Say which numbers a key accepts."""
    found = [text.format(bound) for bound in field.metadata for kind, text in BOUNDS.items() if isinstance(bound, kind)]
    return f", {' and '.join(found)}" if found else ""


def default_of(field: FieldInfo) -> str:
    """Say what holds when the key is left out."""
    return "required" if field.is_required() else written(field.default)


def default_in(field: dataclasses.Field[Any]) -> object:
    """Return a dataclass field's default, made where it is made for each instance."""
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def written(value: object) -> str:
    """Write a default as it would stand in the file."""
    if value is dataclasses.MISSING or value is inspect.Parameter.empty:
        return "required"
    if isinstance(value, timedelta):
        return f'`"{duration_text(value)}"`'
    if value is None or value in ((), ""):
        return "none"
    if isinstance(value, tuple):
        return f"`{json.dumps(value)}`"
    if isinstance(value, bool):
        return f"`{value}`".lower()
    return f'`"{value}"`' if isinstance(value, str) else f"`{value}`"


def is_table(annotation: Any) -> bool:
    """Whether a field holds tables, which have a section of their own."""
    parts = get_args(annotation) or (annotation,)
    return any(isinstance(part, type) and issubclass(part, BaseModel) for part in parts)


def first_line(thing: type) -> str:
    """Return the first sentence of a docstring."""
    return (inspect.getdoc(thing) or "").splitlines()[0]


if __name__ == "__main__":
    main()

"""What is wrong with a project file, in sentences: key and line and, for an unknown key, the nearest valid one."""

from collections.abc import Mapping, Sequence

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from ml_core.errors import nearest
from ml_core.places import line_of
from ml_core.project.file import table_at


def by_flow(error: ValidationError, text: str) -> dict[str, str]:
    """Return what is wrong with each flow; "" stands for the rest of the file."""
    findings: dict[str, list[ErrorDetails]] = {}
    for finding in error.errors():
        location = finding["loc"]
        name = str(location[1]) if location[0] == "flows" and len(location) > 1 else ""
        findings.setdefault(name, []).append(finding)
    return {name: "; ".join(explained(found, text)) for name, found in findings.items()}


def explained(findings: Sequence[ErrorDetails], text: str) -> list[str]:
    """Turn pydantic's findings into sentences that name key and line and, for an unknown key, the nearest valid one."""
    sentences = []
    for finding in findings:
        where = ".".join(str(part) for part in finding["loc"])
        line = line_of(text, finding["loc"])
        at = f" (line {line})" if line else ""
        if finding["type"] == "extra_forbidden":
            table = table_at(finding["loc"][:-1])
            hint = nearest(str(finding["loc"][-1]), [key for key in table.model_fields if key != "name"])
            sentences.append(f"unknown key {where}: {hint}{at}")
        elif finding["type"] == "missing":
            sentences.append(f"missing key {where}: {_describe(finding['loc'])}{at}")
        else:
            found = "" if isinstance(finding["input"], Mapping) else f" = {finding['input']!r}"
            sentences.append(f"{where}{found}: {finding['msg']}{at}")
    return sentences


def _describe(location: tuple[int | str, ...]) -> str:
    field = table_at(location[:-1]).model_fields[str(location[-1])]
    return field.description or f"a table [{'.'.join(str(part) for part in location)}]"

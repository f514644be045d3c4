"""Where things stand in the files a user writes, so that a message can lead there."""

import re
import tomllib
from collections.abc import Sequence
from typing import Any

_HEADER = re.compile(r"\s*(\[\[?)[^\[\]]+\]\]?\s*(#.*)?")
_KEY = re.compile(r"\s*([\w\-.\"' ]+?)\s*=")
_SQL_LINE = re.compile(r"^LINE (\d+):", re.MULTILINE)

Path = tuple[int | str, ...]


def line_of(text: str, location: Sequence[int | str]) -> int | None:
    """Return the line of a TOML text on which a key, or the innermost table around it that is written, stands.

    Parameters
    ----------
    text : str
        Valid TOML.
    location : sequence of str and int
        Names of tables and keys from the top, and positions in lists of tables.

    Returns
    -------
    int or None
        Counted from 1; None where not even an outer table is written.
    """
    lines: dict[Path, int] = {}
    table: Path = ()
    counted: dict[Path, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _HEADER.fullmatch(line):
            table = _resolved(_path(line), counted, appends=header[1] == "[[")
            lines.setdefault(table, number)
        elif key := _KEY.match(line):
            lines.setdefault((*table, *_path(f"{key[1]} = 0")), number)
    wanted = tuple(location)
    while wanted and wanted not in lines:
        wanted = wanted[:-1]
    return lines.get(wanted)


def sql_line(message: str) -> int | None:
    """Return the line DuckDB's error message speaks of."""
    found = _SQL_LINE.search(message)
    return int(found[1]) if found else None


def _path(line: str) -> Path:
    """Return the names in a header, or before the sign of a key."""
    try:
        inner: Any = tomllib.loads(line)
    except tomllib.TOMLDecodeError:  # a line inside a longer value that only looks like a key
        return ()
    path: list[int | str] = []
    while isinstance(inner, dict | list) and inner:
        if isinstance(inner, list):
            inner = inner[0]
        else:
            ((name, inner),) = inner.items()
            path.append(name)
    return tuple(path)


def _resolved(names: Path, counted: dict[Path, int], *, appends: bool) -> Path:
    """Put the position of the table meant after the name of each list of tables on the way to `names`."""
    path: Path = ()
    for depth, name in enumerate(names, start=1):
        path = (*path, name)
        if appends and depth == len(names):
            counted[path] = counted.get(path, -1) + 1
        if path in counted:
            path = (*path, counted[path])
    return path

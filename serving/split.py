"""A large `dataframe_split` body read where it lies: which bytes every value is, without an object for any of them.

A JSON reader makes an object of each of 20,000 values, and scoring looks at each again; that is most of what a batch of
1,000 rows costs. Here compiled code goes over the bytes once (`serving.scorer.jsonrows`), and strings are looked up
where they lie (`serving.scorer.texts`).

Only what a JSON writer writes for a table is read this way: the columns of the signature, strings without escapes,
numbers and null, row after row. What is read is valid JSON and means what orjson says it means, which tests see to; a
body with anything else in it, or a mistake, is left to orjson.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from secrets import token_hex
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from serving.scorer.texts import Texts
from serving.scorer.unread import Unread

_ROWS: Final = token_hex()  # stands for the rows while the rest is read, and nobody can send it
_ROWS_JSON: Final = orjson.dumps(_ROWS)
_SHAPE: Final = "dataframe_split"


class SplitBody(Unread):
    """The columns of a body.

    Parameters
    ----------
    body : bytes
    names : sequence of str
        In the body's order.
    strings, floats : names, and the columns of `texts` and of `numbers` in their order
    """

    def __init__(
        self,
        body: bytes,
        names: Sequence[str],
        strings: tuple[Sequence[str], Texts],
        floats: tuple[Sequence[str], NDArray[np.float64]],
    ) -> None:
        self._body = body
        self._names = names
        (order, self._texts), (others, self._numbers) = strings, floats
        self._strings, self._floats = ({name: place for place, name in enumerate(each)} for each in (order, others))

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return int(self._numbers.shape[1])

    def texts(self, names: Sequence[str]) -> Texts:
        """Return string columns; raise KeyError where one is none."""
        return self._texts.of([self._strings[name] for name in names])

    def numbers(self, names: Sequence[str]) -> NDArray[np.float64]:
        """Return number columns, shape (n_columns, n_rows), NaN where missing; raise KeyError where one is none."""
        return self._numbers[[self._floats[name] for name in names]]

    @cached_property
    def _made(self) -> dict[str, Sequence[Any]]:
        return dict(zip(self._names, zip(*orjson.loads(self._body)[_SHAPE]["data"], strict=True), strict=True))

    def __getitem__(self, name: str) -> Sequence[Any]:
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def read_split(body: bytes, signature: Mapping[str, str], others: Sequence[str] = ()) -> SplitBody | None:
    """Return the columns of a body; None where it is not one that is read this way.

    Parameters
    ----------
    body : bytes
    signature : mapping of str to str
        Raw column to ``string`` or ``float``.
    others : sequence of str
        What must not stand in a body beside `dataframe_split`.
    """
    from serving.scorer.jsonrows import read_rows  # here, because it may not have been built

    first, last = body.find(b"[[") + 1, body.rfind(b"]]") + 1
    if first == 0 or last <= first:
        return None
    names = _names(body[: first - 1], body[last + 1 :], others)
    if names is None or set(names) != signature.keys():
        return None
    if not body.isascii():
        try:
            body.decode()
        except UnicodeDecodeError:
            return None
    content = np.frombuffer(body, np.uint8)
    read = read_rows(content, first, last, np.array([signature[name] == "string" for name in names], np.uint8))
    if read is None:
        return None
    starts, lengths, numbers = read
    strings, floats = ([name for name in names if signature[name] == kind] for kind in ("string", "float"))
    return SplitBody(body, names, (strings, Texts(content, starts, lengths)), (floats, numbers))


def _names(before: bytes, after: bytes, others: Sequence[str]) -> list[str] | None:
    """Return the names of columns, from all of a body but its rows; None where those are not its rows."""
    try:
        body = orjson.loads(before + _ROWS_JSON + after)
    except orjson.JSONDecodeError:
        return None
    split = body.get(_SHAPE) if isinstance(body, dict) else None
    if not isinstance(split, dict) or split.get("data") != _ROWS or any(name in body for name in others):
        return None
    names = split.get("columns")
    fits = isinstance(names, list) and set(map(type, names)) == {str} and len(set(names)) == len(names)
    return names if fits else None

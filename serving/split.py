"""A large `dataframe_split` body read where it lies: which bytes every value is, without an object for any of them.

A JSON reader makes an object of each of 20,000 values, and scoring looks at each again; that is most of what a batch of
1,000 rows costs. Here NumPy finds the commas, Arrow reads the numbers, and strings are looked up by their bytes
(`serving.scorer.texts`).

Only what a JSON writer writes for a table is read this way: the columns of the signature, strings without escapes,
numbers and null, row after row, with at most a space after a comma. What is read is valid JSON and means what orjson
says it means, which tests see to; a body with anything else in it, or a mistake, is left to orjson.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Final

import numpy as np
import orjson
import pyarrow as pa
from numpy.typing import NDArray

from serving.rows import EXACT_INTEGER
from serving.scorer.texts import Texts, padded
from serving.scorer.unread import Unread

_ROWS: Final = "rows, which are read on their own"  # what stands for them while the rest is read
_ROWS_JSON: Final = orjson.dumps(_ROWS)
_NULL: Final = np.frombuffer(b"null", np.uint8)
_SHAPE: Final = "dataframe_split"
Bytes = NDArray[np.uint8]
Places = NDArray[np.int64]


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
    first, last = body.find(b"[[") + 1, body.rfind(b"]]") + 1
    if first == 0 or last <= first or b"\\" in body:
        return None
    names = _names(body[: first - 1], body[last + 1 :], others)
    if names is None or set(names) != signature.keys():
        return None
    if not body.isascii():
        try:
            body.decode()
        except UnicodeDecodeError:
            return None
    words = padded([memoryview(body)[first:last]])
    content = words.view(np.uint8)
    values = _values(content[: last - first], len(names))
    if values is None:
        return None
    strings, floats = (
        [place for place, name in enumerate(names) if signature[name] == kind] for kind in ("string", "float")
    )
    starts, ends = values
    texts = _texts(words, starts[strings], ends[strings], last - first)
    numbers = _numbers(content, starts[floats], ends[floats])
    if texts is None or numbers is None:
        return None
    order = [names[place] for place in strings], [names[place] for place in floats]
    return SplitBody(body, names, (order[0], texts), (order[1], numbers))


def _names(before: bytes, after: bytes, others: Sequence[str]) -> list[str] | None:
    """Return the names of columns, from all of a body but its rows; None where those are not its rows."""
    if _ROWS_JSON in before or _ROWS_JSON in after:
        return None
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


def _values(content: Bytes, width: int) -> tuple[Places, Places] | None:
    """Return where each value starts and ends, shape (n_columns, n_rows); None where rows are not all alike.

    Strings with a comma or a bracket in them make them differ, too.
    """
    if content.min() < ord(" "):
        return None
    commas, opened, closed = (np.flatnonzero(content == ord(mark)) for mark in ",[]")
    rows = opened.size
    if not rows or closed.size != rows or commas.size != rows * width - 1 or opened[0]:
        return None
    # the last comma of each row stands behind it, which the last row lacks
    at = np.append(commas, content.size).reshape(rows, width).T.copy()
    if (closed != at[-1] - 1).any() or (opened[1:] != _after_space(content, at[-1, :-1])).any():
        return None
    starts, ends = np.empty_like(at), at
    starts[0], starts[1:], ends[-1] = opened, at[:-1], closed
    starts = _after_space(content, starts)
    return None if (starts >= ends).any() else (starts, ends)


def _after_space(content: Bytes, places: Places) -> Places:
    """Return where what follows a place begins, which a space may precede."""
    after = places + 1
    after += content.take(after, mode="clip") == ord(" ")
    return after


def _texts(words: NDArray[np.uint64], starts: Places, ends: Places, size: int) -> Texts | None:
    """Return string columns, null as the empty string; None where a value is neither a string nor null."""
    content = words.view(np.uint8)
    quoted = content.take(starts) == ord('"')
    lengths = ends - starts - 2
    strings = int(np.count_nonzero(quoted))
    # every quote of the rows begins or ends one of these
    closed = (content.take(ends - 1) == ord('"')) & (lengths >= 0)
    if (closed != quoted).any() or np.count_nonzero(content[:size] == ord('"')) != 2 * strings:
        return None
    if strings < quoted.size:
        if not _are_null(content, starts[~quoted], ends[~quoted]):
            return None
        lengths[~quoted] = 0
    return Texts(words, starts + 1, lengths)


def _numbers(content: Bytes, starts: Places, ends: Places) -> NDArray[np.float64] | None:
    """Return number columns; None where a value is neither a number of JSON nor null, or an integer beyond 2**53."""
    count, rows = starts.shape
    starts, ends = starts.T.ravel(), ends.T.ravel()
    leading = content.take(starts)
    null = leading == ord("n")
    if null.any() and not _are_null(content, starts[null], ends[null]):
        return None
    first = starts + (leading == ord("-"))
    digit = content.take(first)
    # Arrow reads what C does; JSON has neither ".5", "5.", "5.e1" nor "05", nor names of numbers
    wrong = ~_is_digit(digit) | ~_is_digit(content.take(ends - 1))
    wrong |= (digit == ord("0")) & _is_digit(content.take(first + 1))
    if (wrong & ~null).any() or _has_bare_point(content, starts, ends):
        return None
    try:
        numbers = _as_arrow(content, starts, ends, ~null).cast(pa.float64()).to_numpy(zero_copy_only=False)
    except pa.ArrowException:
        return None
    numbers = numbers[::2].reshape(rows, count).T
    return None if np.fmax.reduce(np.abs(numbers), axis=None, initial=0.0) >= EXACT_INTEGER else numbers


def _as_arrow(content: Bytes, starts: Places, ends: Places, there: NDArray[np.bool_]) -> pa.Array:
    """Return values where they lie as Arrow strings, every other one: what is between two of them is null, not read."""
    places = np.empty(2 * starts.size + 1, np.int32)
    places[:-1:2], places[1::2], places[-1] = starts, ends, content.size
    valid = np.zeros(2 * starts.size, bool)
    valid[::2] = there
    parts = [np.packbits(valid, bitorder="little"), places, content]
    return pa.Array.from_buffers(pa.string(), valid.size, [pa.py_buffer(part) for part in parts])


def _has_bare_point(content: Bytes, starts: Places, ends: Places) -> bool:
    """Say whether the exponent of a number follows its point at once."""
    bare = content[:-1] == ord(".")
    bare &= (content[1:] | np.uint8(32)) == ord("e")
    places = np.flatnonzero(bare)
    numbers = np.searchsorted(starts, places, side="right") - 1
    behind = numbers >= 0
    return bool((places[behind] < ends[numbers[behind]]).any())


def _is_digit(content: Bytes) -> NDArray[np.bool_]:
    return content - np.uint8(ord("0")) < 10  # noqa: PLR2004 - below "0" it wraps around


def _are_null(content: Bytes, starts: Places, ends: Places) -> bool:
    return bool(
        (ends - starts == _NULL.size).all()
        and (content[starts + np.arange(4).reshape(-1, 1)] == _NULL[:, np.newaxis]).all()
    )

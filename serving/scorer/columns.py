"""Many rows at once, column by column: the same terms as a row's, over distinct values and arrays.

What a string is worth is looked up: by its bytes where it lies in Arrow's memory or in a body of JSON, once per
distinct string in a dictionary, and in what rows left in memory where it is an object of Python's. What is not
remembered is worked out for all new strings at once. A pair that is crossed is a few integer operations a row, and what
numbers are worth is one multiply-add over the matrix of them.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from serving.scorer.arrays import ARRAYS
from serving.scorer.numbers import NumberTerms, read_numbers, rounded
from serving.scorer.row import Memory
from serving.scorer.terms import Sum, Term, evaluator
from serving.scorer.texts import COMPILED, TextMemory, Texts
from serving.scorer.unread import Unread
from serving.scorer.words import Dictionary, Words

_TEXT = pa.StringArray | pa.LargeStringArray
_MOST_ROWS_BY_BYTES = 4096
"""Of more rows few strings are new, and a dictionary is made sooner than each is looked up."""


class ColumnScorer:
    """Scores columns as one graph does.

    Parameters
    ----------
    total : Sum
        The score, taken apart.
    signature : mapping of str to str
        Raw column to ``string`` or ``float``.
    memories : mapping of str to Memory
        What the strings of a column are worth, as far as the row scorer remembers; shared with it.
    """

    def __init__(self, total: Sum, signature: Mapping[str, str], memories: Mapping[str, Memory]) -> None:
        self._total = total
        self._signature = dict(signature)
        self._strings = [name for name, kind in signature.items() if kind == "string"]
        self._numbers = [name for name, kind in signature.items() if kind == "float"]
        self._paired = {name for columns in total.terms if len(columns) > 1 for name in columns}
        alone = [name for name in self._strings if name not in self._paired and (name,) in total.terms]
        self._memories = {name: memories[name] for name in alone}
        self._dictionaries: dict[str, Dictionary] = {}
        self._terms = {
            columns: evaluator(term, ARRAYS)
            for columns, term in total.terms.items()
            if signature[columns[0]] == "string"
        }
        self._number_terms = NumberTerms(self._numbers, total.terms)

    @cached_property
    def _texts(self) -> TextMemory:
        return TextMemory()

    @property
    def by_bytes(self) -> bool:
        """Whether strings can be found by their bytes: not where what they are worth hangs on another column."""
        return COMPILED and not self._paired

    def score(self, columns: Mapping[str, Any]) -> NDArray[np.float32] | None:
        """Return the score of each row; None where they do not fit, and the graph's way of reading them says why.

        Raises
        ------
        InputError
            A number does not fit its column.
        """
        try:
            if isinstance(columns, Unread) and self.by_bytes:
                margin = self._of_unread(columns)
            else:
                margin = self._of_columns(columns)
        except (KeyError, TypeError, UnicodeError, pa.ArrowException):
            return None
        if margin is None or not np.isfinite(margin).all():
            return None
        return (_logistic(margin) if self._total.logistic else margin).astype(np.float32)

    def _of_unread(self, columns: Unread) -> NDArray[np.float64] | None:
        names = list(self._memories)
        numbers = rounded(columns.numbers(self._numbers))
        if numbers is None:
            return None
        return self._total.bias + self._number_terms.worth(numbers) + self._by_bytes(columns.texts(names), names)

    def _of_columns(self, columns: Mapping[str, Any]) -> NDArray[np.float64] | None:
        """Return the margin of each row; None where columns differ in length, or hold what they may not."""
        sizes = {len(columns[name]) for name in self._signature}
        if len(sizes) != 1:
            return None
        rows = sizes.pop()
        margin = np.full(rows, self._total.bias)
        words: dict[str, Words] = {}
        texts: dict[str, pa.Array] = {}
        for name in self._strings:
            values, memory = _whole(columns[name]), self._memories.get(name)
            if memory is not None and isinstance(values, list | tuple):
                margin += _one_by_one(memory, self._work_out(name), values)
            elif COMPILED and memory is not None and isinstance(values, _TEXT) and 0 < rows <= _MOST_ROWS_BY_BYTES:
                texts[name] = values
            else:
                read = Words.of(values, self._dictionaries.get(name))
                if read is None:
                    return None
                self._dictionaries[name], words[name] = read.dictionary, read
        if texts:
            margin += self._by_bytes(Texts.of_arrow(list(texts.values())), list(texts))
        for names, worth in self._terms.items():
            if names[0] in words:
                margin += self._worth(names, worth, words)
        numbers = read_numbers(columns, self._numbers, rows)
        return None if numbers is None else margin + self._number_terms.worth(numbers)

    def _worth(self, names: tuple[str, ...], worth: Term, words: Mapping[str, Words]) -> Any:
        if len(names) > 1:
            return worth(words)
        (name,) = names
        memory = self._memories.get(name)
        if memory is not None:
            return words[name].spread(worth, partial(_one_by_one, memory, self._work_out(name)))
        return words[name].spread(worth, lambda _: worth({name: words[name].distinct()}))

    def _by_bytes(self, texts: Texts, names: Sequence[str]) -> NDArray[np.float64]:
        def work_out(column: int, strings: list[str]) -> NDArray[np.float64]:
            name = self._strings[column]
            return _one_by_one(self._memories[name], self._work_out(name), strings)

        return self._texts.look_up(texts, [self._strings.index(name) for name in names], work_out)

    def _work_out(self, name: str) -> Callable[[Words], NDArray[Any]]:
        worth = self._terms[(name,)]
        return lambda words: worth({name: words})


def _whole(values: Any) -> Any:
    """Return a column in one piece, where that costs nothing."""
    return values.chunk(0) if isinstance(values, pa.ChunkedArray) and values.num_chunks == 1 else values


def _one_by_one(
    memory: Memory, work_out: Callable[[Words], NDArray[Any]], strings: Sequence[Any]
) -> NDArray[np.float64]:
    """Return what each string is worth; work those out together that are not remembered.

    Raises
    ------
    TypeError
        Something is neither a string nor null.
    """
    worths = np.array([*map(memory.get, strings)], np.float64)
    missing = np.flatnonzero(np.isnan(worths)).tolist()
    if missing:
        new = list({strings[place] for place in missing})
        words = Words.of(new)
        if words is None:
            raise TypeError("expected strings")
        found = dict(zip(new, work_out(words).tolist(), strict=True))
        memory.learn(found)
        worths[missing] = [found[strings[place]] for place in missing]
    return worths


def _logistic(margin: NDArray[np.float64]) -> NDArray[np.float64]:
    odds = np.exp(-np.abs(margin))
    scores: NDArray[np.float64] = np.where(margin >= 0.0, np.float64(1), odds) / (odds + 1.0)
    return scores

"""Many rows at once, column by column: the same terms as a row's, over distinct values and arrays.

What a string is worth is looked up in what rows left in memory; what is not there is worked out for all new strings at
once, and remembered. So Arrow dictionaries are the form that costs least, with one look-up per distinct value. A pair
that is crossed is a few integer operations a row, a number column one bisection and one multiply-add. Of each column
the last dictionary is kept with what was made of it, because batches of one table share theirs.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Self

import numpy as np
import onnxruntime
import pyarrow as pa
from numpy.typing import NDArray
from onnx import TensorProto, helper

from ml_core.arrays import location
from serving.rows import number_column
from serving.scorer.expression import NotCoveredError, Table
from serving.scorer.piecewise import piecewise
from serving.scorer.row import Memory
from serving.scorer.terms import SCALARS, Sum, Term, applied, evaluator

_PLAIN_STRINGS = frozenset({str, type(None)})
_MOST_UNUSED = 8
"""A dictionary of more strings than this for each row is cut down to those that occur."""


class Dictionary:
    """The strings that occur in a column, with null as "" last, and what has been made of them."""

    __slots__ = ("_made", "arrow", "strings")

    def __init__(self, arrow: pa.Array) -> None:
        self.arrow = arrow  # held, so that no other array can come to lie where it does
        self.strings = np.append(arrow.to_numpy(zero_copy_only=False), "")
        self._made: dict[Any, NDArray[Any]] = {}

    def is_of(self, arrow: pa.Array) -> bool:
        """Say whether these are the strings of an array, by where they lie."""
        return self.arrow is arrow or location(self.arrow) == location(arrow)

    def made(self, name: Any, make: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        """Return what was made of the strings under a name, making it the first time."""
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]


@dataclass(frozen=True, slots=True, eq=False)
class Words:
    """A string column: a dictionary, and which of its strings each row has, shape (n_rows,)."""

    dictionary: Dictionary
    codes: NDArray[np.integer[Any]]

    @classmethod
    def of(cls, values: Any, last: Dictionary | None = None) -> Self | None:
        """Read a column; None where it holds anything but strings and nulls.

        Parameters
        ----------
        last : Dictionary, optional
            The one this column had before, which is used again where it is the same.
        """
        array = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
        if isinstance(array, pa.ChunkedArray):  # dictionaries that differ from chunk to chunk
            array = pa.concat_arrays(array.unify_dictionaries().chunks)
        if not isinstance(array, pa.Array):
            listed = array.tolist() if isinstance(array, np.ndarray) else array
            if not _PLAIN_STRINGS.issuperset(map(type, listed)):
                return None
            array = pa.array(listed, pa.large_string())
        if not isinstance(array, pa.DictionaryArray):
            array = array.dictionary_encode()
        if len(array.dictionary) > _MOST_UNUSED * len(array):
            array = array.dictionary_decode().dictionary_encode()
        kind, indices = array.type.value_type, array.indices
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
            return None
        if array.dictionary.null_count:
            return None
        if indices.null_count:
            indices = indices.cast(pa.int64()).fill_null(len(array.dictionary))
        same = last is not None and last.is_of(array.dictionary)
        return cls(last if last is not None and same else Dictionary(array.dictionary), indices.to_numpy())

    def spread(self, name: Any, work_out: Callable[[NDArray[Any]], NDArray[Any]]) -> NDArray[Any]:
        """Return what a function, known by a name, makes of each row's string; it is asked once per distinct one."""
        dictionary = self.dictionary
        made: NDArray[Any] = dictionary.made(name, lambda: work_out(dictionary.strings))[self.codes]
        return made

    def distinct(self) -> "Words":
        """Return each string of the dictionary once."""
        return Words(self.dictionary, np.arange(len(self.dictionary.strings)))


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
        self.signature = dict(signature)
        paired = {name for columns in total.terms if len(columns) > 1 for name in columns}
        self._memories = {name: memories[name] for name in memories if name not in paired and (name,) in total.terms}
        self._total = total
        self._dictionaries: dict[str, Dictionary] = {}
        self._terms = [
            (columns, evaluator(term, ARRAYS) if signature[columns[0]] == "string" else _number_term(columns[0], term))
            for columns, term in total.terms.items()
        ]

    def score(self, columns: Mapping[str, Any]) -> NDArray[np.float32] | None:
        """Return the score of each row; None where they do not fit, and the graph's way of reading them says why.

        Raises
        ------
        InputError
            A number does not fit its column.
        """
        read: dict[str, Any] = {}
        try:
            for name, kind in self.signature.items():
                if kind == "string":
                    read[name] = words = self._words(name, columns[name])
                    if words is None:
                        return None
                else:
                    read[name] = number_column(name, columns[name]).astype(np.float32).astype(np.float64)
            sizes = {len(columns[name]) for name in self.signature}
            if len(sizes) > 1:
                return None
            margin = np.full(sizes.pop(), self._total.bias)
            for names, worth in self._terms:
                margin += self._worth(names, worth, read)
        except (KeyError, TypeError, UnicodeEncodeError, pa.ArrowException):
            return None
        if not np.isfinite(margin).all():
            return None
        return (_logistic(margin) if self._total.logistic else margin).astype(np.float32)

    def _words(self, name: str, values: Any) -> "Words | Sequence[Any] | None":
        """Return a string column as it is looked up; None where it holds anything but strings and nulls."""
        if name in self._memories and isinstance(values, list | tuple):
            return values  # what of it is remembered needs no other form
        words = Words.of(values, self._dictionaries.get(name))
        if words is not None:
            self._dictionaries[name] = words.dictionary
        return words

    def _worth(self, names: tuple[str, ...], worth: Term, read: Mapping[str, Any]) -> Any:
        words, memory = read[names[0]], self._memories.get(names[0])
        if memory is not None:
            looked_up = partial(_looked_up, memory, lambda new: worth({names[0]: new}))
            return words.spread(worth, looked_up) if isinstance(words, Words) else looked_up(words)
        if len(names) > 1 or not isinstance(words, Words):
            return worth(read)
        return words.spread(worth, lambda _: worth({names[0]: words.distinct()}))


def _looked_up(memory: Memory, work_out: Callable[[Words], NDArray[Any]], strings: Sequence[Any]) -> NDArray[Any]:
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


def _number_term(name: str, term: Any) -> Term:
    try:
        straight = piecewise(term)
    except NotCoveredError:
        return evaluator(term, ARRAYS)
    missing = evaluator(term)({name: math.nan})
    breaks = np.array(straight.breaks, np.float64)
    slopes, levels = np.array(straight.pieces, np.float64).T.copy()

    def worth(columns: Mapping[str, Any]) -> Any:
        numbers = columns[name]
        # most batches lie within one piece of a scaled column
        ends = np.searchsorted(breaks, (np.fmin.reduce(numbers), np.fmax.reduce(numbers)))
        pieces = ends[0] if ends[0] == ends[1] else np.searchsorted(breaks, numbers)
        worths = slopes[pieces] * numbers + levels[pieces]
        absent = np.isnan(numbers)
        return np.where(absent, missing, worths) if absent.any() else worths

    return worth


@cache
def _hasher() -> onnxruntime.InferenceSession:
    """Return onnxruntime's own hash, which is the one in the graph."""
    graph = helper.make_graph(
        [
            helper.make_node("MurmurHash3", ["texts"], ["hashed"], domain="com.microsoft", positive=1, seed=0),
            helper.make_node("Cast", ["hashed"], ["hashes"], to=TensorProto.INT64),
        ],
        "hash",
        [helper.make_tensor_value_info("texts", TensorProto.STRING, ["n"])],
        [helper.make_tensor_value_info("hashes", TensorProto.INT64, ["n"])],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _hashes(words: Words) -> NDArray[Any]:
    return words.spread(_hashes, lambda strings: _hasher().run(None, {"texts": strings})[0])


def _encoded(encoder: tuple[Mapping[str, int], int], text: Term) -> Term:
    places, absent = encoder
    return lambda columns: text(columns).spread(
        id(places), lambda strings: np.array([places.get(word, absent) for word in strings], np.int64)
    )


def _gather(table: Table, slots: Term) -> Term:
    return lambda columns: table.take(slots(columns))


def _cast(kind: type, given: Term) -> Term:
    dtype = {float: np.float64, int: np.int64, bool: np.bool_}[kind]
    return lambda columns: given(columns).astype(dtype)


# what differs from `SCALARS` where a value is an array, or `Words`
ARRAYS: Mapping[str, Callable[..., Term]] = {
    **SCALARS,
    "IsNaN": applied(np.isnan),
    "Log": applied(np.log),
    "Sign": applied(np.sign),
    "Clip": applied(np.clip),
    "Where": applied(np.where),
    "Cast": _cast,
    "Gather": _gather,
    "MurmurHash3": applied(_hashes),
    "LabelEncoder": _encoded,
}

"""Many rows at once, column by column: the same terms as a row's, over distinct values and arrays.

A string column is worked out once per distinct value and then spread over its rows, so Arrow dictionaries are the form
that costs least; a crossed pair is a few integer operations a row, a number column one bisection and one multiply-add.
Pure, and nothing is remembered between two calls.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Self

import numpy as np
import onnxruntime
import pyarrow as pa
from numpy.typing import NDArray
from onnx import TensorProto, helper

from serving.rows import number_column
from serving.scorer.expression import NotCoveredError, Table
from serving.scorer.piecewise import piecewise
from serving.scorer.terms import SCALARS, Sum, Term, applied, evaluator

_PLAIN_STRINGS = frozenset({str, type(None)})


@dataclass(frozen=True, slots=True, eq=False)
class Words:
    """A string column: the strings that occur, shape (n_distinct,), and which of them each row has, (n_rows,)."""

    distinct: NDArray[Any]
    codes: NDArray[np.integer[Any]]

    @classmethod
    def of(cls, values: Any) -> Self | None:
        """Read a column; None where it holds anything but strings and nulls."""
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
        if len(array.dictionary) > len(array):  # work out only what occurs
            array = array.dictionary_decode().dictionary_encode()
        kind = array.type.value_type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
            return None
        if array.dictionary.null_count:
            return None
        codes = array.indices.fill_null(len(array.dictionary)).to_numpy(zero_copy_only=False)
        distinct = array.dictionary.to_pylist()
        return cls(np.array([*distinct, ""], object), codes)

    def spread(self, work_out: Callable[[NDArray[Any]], NDArray[Any]]) -> NDArray[Any]:
        """Return what a function makes of each row's string; it is asked once per distinct one."""
        spread: NDArray[Any] = work_out(self.distinct)[self.codes]
        return spread


class ColumnScorer:
    """Scores columns as one graph does.

    Parameters
    ----------
    total : Sum
        The score, taken apart.
    signature : mapping of str to str
        Raw column to ``string`` or ``float``.
    """

    def __init__(self, total: Sum, signature: Mapping[str, str]) -> None:
        self.signature = dict(signature)
        self._total = total
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
                read[name] = Words.of(columns[name]) if kind == "string" else number_column(name, columns[name])
                if read[name] is None or len(columns[name]) != len(columns[next(iter(read))]):
                    return None
            margin = np.full(len(columns[next(iter(read))]), self._total.bias)
            for names, worth in self._terms:
                values = {name: read[name] for name in names}
                if len(names) == 1 and isinstance(words := read[names[0]], Words):
                    alone = {names[0]: Words(words.distinct, np.arange(len(words.distinct)))}
                    margin += worth(alone)[words.codes]
                else:
                    margin += worth(values)
        except (KeyError, TypeError, UnicodeEncodeError, pa.ArrowException):
            return None
        if not np.isfinite(margin).all():
            return None
        return (_logistic(margin) if self._total.logistic else margin).astype(np.float32)


def _logistic(margin: NDArray[np.float64]) -> NDArray[np.float64]:
    odds = np.exp(-np.abs(margin))
    scores: NDArray[np.float64] = np.where(margin >= 0.0, np.float64(1), odds) / (odds + 1.0)
    return scores


def _number_term(name: str, term: Any) -> Term:
    exact = evaluator(term, ARRAYS)
    missing = evaluator(term)({name: math.nan})
    try:
        straight = piecewise(term)
    except NotCoveredError:
        return lambda columns: exact({name: columns[name].astype(np.float32).astype(np.float64)})
    breaks = np.array(straight.breaks, np.float64)
    slopes, levels = np.array(straight.pieces, np.float64).T.copy()

    def worth(columns: Mapping[str, Any]) -> NDArray[np.float64]:
        numbers = columns[name].astype(np.float32).astype(np.float64)
        pieces = np.searchsorted(breaks, numbers)
        worths: NDArray[np.float64] = np.where(np.isnan(numbers), missing, slopes[pieces] * numbers + levels[pieces])
        return worths

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
    return words.spread(lambda distinct: _hasher().run(None, {"texts": distinct})[0])


def _encoded(encoder: tuple[Mapping[str, int], int], text: Term) -> Term:
    places, absent = encoder
    return lambda columns: text(columns).spread(
        lambda distinct: np.array([places.get(word, absent) for word in distinct], np.int64)
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

"""The hash against scikit-learn's and ONNX Runtime's, and the places fields get from it."""

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.utils import murmurhash3_32

from ml_core.pipeline.columns import Words, read_columns
from ml_core.pipeline.hashing import hash_bytes, hash_strings, mix_of


@settings(deadline=None)  # the first example compiles
@given(value=st.binary(max_size=40), seed=st.integers(0, 2**31 - 1))
def test_the_hash_is_scikit_learns(value, seed):
    """Weights are found by this hash; another implementation must find the same ones."""
    assert hash_bytes(value, seed) == murmurhash3_32(value, seed, positive=True)


@settings(deadline=None)
@given(words=st.lists(st.text(max_size=8)), start=st.integers(0, 5))
def test_a_slice_of_a_column_hashes_as_its_strings_do(words, start):
    """Batches are slices: offsets into a shared buffer are easy to get wrong."""
    column = pa.array(words, pa.large_string()).slice(start)
    expected = [murmurhash3_32(word.encode(), 0, positive=True) for word in words[start:]]
    assert hash_strings(column).tolist() == expected


def test_a_missing_string_is_the_empty_one():
    """ONNX has no null string; both ends must agree on what stands for it."""
    table = pa.table({"a": pa.array([None, "", "x"]), "b": pa.array(["x", None, "y"]).dictionary_encode()})
    columns = read_columns(table, {"a": "string", "b": "string"})
    assert columns["a"].hashes[0] == columns["a"].hashes[1] == columns["b"].hashes[1] == 0
    assert columns["a"].hashes[2] == columns["b"].hashes[0]


def test_equal_strings_in_different_fields_have_different_places():
    """Origin and destination share their values, not their meaning."""
    hashes = np.array([hash_bytes(str(number).encode()) for number in range(1000)])
    places = []
    for field in ("origin", "dest"):
        (factor,), salt = mix_of(field)
        places.append((hashes * factor + salt) % (1 << 18))
    assert (places[0] == places[1]).sum() < 5
    assert len(np.unique(places[0])) > 990


def test_nothing_overflows_in_the_mix_of_a_cross():
    """The graph computes it in 64-bit integers as well; both would wrap, and Mod differs on negative numbers."""
    factors, salt = mix_of("a", "b")
    assert sum(factor * (2**32 - 1) for factor in factors) + salt < 2**63


def test_a_dictionary_that_batches_share_is_read_once_and_another_one_anew() -> None:
    words = pa.array([None, "", "x", "y"])
    shared = pa.DictionaryArray.from_arrays(pa.array([0, 1, 2, 3, None], pa.int32()), words)
    other = pa.DictionaryArray.from_arrays(pa.array([0, 1, None], pa.int32()), pa.array(["y", "z"]))
    plain = {"shared": ["", "", "x", "y", ""], "other": ["y", "z", ""]}
    known: dict[str, Words] = {}
    for array, name in ((shared, "shared"), (shared.slice(1), "shared"), (other, "other"), (shared, "shared")):
        text = read_columns(pa.table({"a": array}), {"a": "string"}, known)["a"]
        strings = plain[name][-len(array) :]
        assert text.hashes.tolist() == hash_strings(pa.array(strings, pa.large_string())).tolist()
        assert [text.distinct[code] for code in text.codes] == strings
    first = known["a"]
    read_columns(pa.table({"a": shared}), {"a": "string"}, known)
    assert known["a"] is first

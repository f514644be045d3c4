"""The dictionary of the examples' strings: what goes in comes out, and batches do not show."""

from itertools import pairwise

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_core.data import words
from ml_core.errors import FeatureError

_STRINGS = st.one_of(st.none(), st.sampled_from(["", "UA", "AA", "Zürich ✈", "N1"]), st.text(max_size=4))
_ROWS = st.lists(st.tuples(_STRINGS, _STRINGS), min_size=1, max_size=30)


def _table(rows: list[tuple[str | None, str | None]]) -> pa.Table:
    left, right = zip(*rows, strict=True)
    return pa.table({"carrier": pa.array(left, pa.string()), "tail": pa.array(right, pa.string())})


@settings(max_examples=40, deadline=None)
@given(rows=_ROWS, cuts=st.lists(st.integers(0, 30), max_size=4))
def test_codes_do_not_depend_on_how_examples_were_batched(rows: list[tuple[str | None, str | None]], cuts: list[int]):
    """A store that grew and one that was built at once must hold the same examples, bit for bit."""
    table, columns = _table(rows), ["carrier", "tail"]
    with duckdb.connect() as whole, duckdb.connect() as grown:
        at_once = words.encode(whole, table, columns)
        parts = [
            words.encode(grown, table.slice(start, stop - start), columns)
            for start, stop in pairwise([0, *sorted(min(cut, len(rows)) for cut in cuts), len(rows)])
        ]
        assert pa.concat_tables(parts).combine_chunks().equals(at_once.combine_chunks())
        attached = words.Dictionaries(grown, columns, len(rows)).attach(at_once.to_batches()[0])
        assert words.decoded(pa.Table.from_batches([attached])).equals(table)


@settings(max_examples=40, deadline=None)
@given(rows=_ROWS, first=st.integers(0, 29), count=st.integers(0, 3))
def test_a_few_rows_of_many_words_come_with_those_words_alone(
    rows: list[tuple[str | None, str | None]], first: int, count: int
):
    """A column of a million users must not bring a million strings into every batch."""
    table, columns = _table(rows), ["carrier", "tail"]
    with duckdb.connect() as connection:
        coded = words.encode(connection, table, columns).combine_chunks().to_batches()[0].slice(first, count)
        attached = words.Dictionaries(connection, columns, coded.num_rows).attach(coded)
        assert words.decoded(pa.Table.from_batches([attached])).equals(table.slice(first, count))
        for name in columns:
            dictionary = attached.column(name).dictionary
            assert len(dictionary) <= coded.num_rows + 1


def test_a_column_without_words_beside_one_of_too_many_leaves_the_others_theirs() -> None:
    """As many columns are read whole as have words, but not the same ones."""
    count = 30
    table = pa.table(
        {
            "empty": pa.nulls(count, pa.string()),
            "many": [f"m{number}" for number in range(count)],
            "some": [f"s{number % 3}" for number in range(count)],
        }
    )
    with duckdb.connect() as connection:
        coded = words.encode(connection, table, table.column_names).combine_chunks().to_batches()[0].slice(20, 5)
        attached = words.Dictionaries(connection, table.column_names, coded.num_rows).attach(coded)
        assert words.decoded(pa.Table.from_batches([attached])).equals(table.slice(20, 5))


def test_a_code_without_its_word_is_told_as_a_damaged_store() -> None:
    with duckdb.connect() as connection:
        coded = words.encode(connection, pa.table({"shop": ["a", "b"]}), ["shop"])
        connection.execute("delete from words where code = 2")
        with pytest.raises(FeatureError, match=r"codes of 'shop' below 2.*restore a backup"):
            words.Dictionaries(connection, ["shop"], 2).attach(coded.to_batches()[0])

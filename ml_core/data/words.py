"""The dictionary of the examples' strings: each distinct string of a column is stored once, under a code.

`words` holds (`column`, `code`, `word`). Codes count from 1 in the order in which examples first show a word, whatever
batches they come in, and never change; code 0 is a missing string. So a training batch leaves DuckDB as small integers
beside an Arrow dictionary, and whoever hashes or looks up strings does it once per distinct one (docs/adr/0005).

The functions run inside the owner's transaction or a reader's session, like those of `ml_core.data.tables`.
"""

from collections.abc import Sequence

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ml_core.errors import FeatureError

CODE = "UINTEGER"

_CREATE = 'create table if not exists words ("column" varchar, code uinteger, word varchar)'


def encode(connection: duckdb.DuckDBPyConnection, rows: pa.Table, columns: Sequence[str]) -> pa.Table:
    """Return `rows` with the strings of `columns` as uint32 codes; words not seen before are appended to `words`."""
    connection.execute(_CREATE)
    encoded = {name: rows.column(name).combine_chunks().dictionary_encode() for name in columns}
    found = pa.table(
        {
            "column": pa.array([name for name in columns for _ in encoded[name].dictionary], pa.string()),
            "word": pa.concat_arrays([pa.array([], pa.string()), *(encoded[name].dictionary for name in columns)]),
        }
    )
    numbered = found.append_column("place", pa.array(np.arange(found.num_rows)))
    connection.register("found_words", numbered)
    connection.execute(
        """
        insert into words
        select "column", coalesce(held, 0) + row_number() over (partition by "column" order by place), word
        from found_words
        anti join words using ("column", word)
        left join (select "column", max(code) as held from words group by "column") using ("column")
        order by place
        """
    )
    coded = connection.sql('select code from found_words join words using ("column", word) order by place')
    codes = coded.to_arrow_table().column(0).to_numpy()
    connection.unregister("found_words")
    start = 0
    for name in columns:
        end = start + len(encoded[name].dictionary)
        of_place = np.append(codes[start:end], np.uint32(0))  # a missing string has place -1, the last one
        places = encoded[name].indices.fill_null(-1).to_numpy()
        rows = rows.set_column(rows.schema.get_field_index(name), name, pa.array(of_place[places]))
        start = end
    return rows


class Dictionaries:
    """The words of columns as Arrow dictionaries, whose first word is null; read once for many batches.

    A column with more words than `rows` has none of them here: each batch then brings those that occur in it.

    Parameters
    ----------
    connection : DuckDBPyConnection
        Not the one that a result is still being read from.
    columns : sequence of str
    rows : int
        How many rows will be asked about.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, columns: Sequence[str], rows: int) -> None:
        self._connection, self._columns = connection, columns
        query = 'select "column", max(code) as held from words group by "column"'
        held = dict(connection.execute(query).fetchall()) if columns else {}
        whole = sorted(name for name in columns if held.get(name, 0) <= rows)
        every = held.keys() <= set(whole)
        some = "" if every else f' where "column" in ({", ".join("?" * len(whole)) or "null"})'
        words = connection.sql(f'select "column", code, word from words{some}', params=None if every else whole)  # noqa: S608 - marks
        # Arrow sorts them in half a millisecond, which takes DuckDB two
        ordered = words.to_arrow_table().sort_by([("column", "ascending"), ("code", "ascending")]).column("word")
        bounds = np.cumsum([0, *(held.get(name, 0) for name in whole)]).tolist()
        self._whole = {
            name: _after_null(ordered.slice(start, stop - start).combine_chunks())
            for name, start, stop in zip(whole, bounds, bounds[1:], strict=False)
        }

    def attach(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """Return `rows` with the codes of the columns as Arrow dictionaries."""
        arrays = dict(zip(rows.schema.names, rows.columns, strict=True))
        for name in self._columns:
            codes, dictionary = arrays[name].fill_null(0).view(pa.int32()), self._whole.get(name)
            if dictionary is None:
                places, dictionary = self._occurring(name, arrays[name].to_numpy())
                codes = pa.array(places.astype(np.int32))
            # compared here, because Arrow's own way reads all of the dictionary for each batch
            if codes.to_numpy().view(np.uint32).max(initial=0) >= len(dictionary):
                raise FeatureError(
                    f"expected codes of {name!r} below {len(dictionary)}, found one beyond its words: the store"
                    " is damaged; restore a backup, or delete the store and ingest again"
                )
            arrays[name] = pa.DictionaryArray.from_arrays(codes, dictionary, safe=False)
        return pa.RecordBatch.from_pydict(arrays)

    def _occurring(self, name: str, codes: NDArray[np.uint32]) -> tuple[NDArray[np.intp], pa.Array]:
        """Return the codes as places among the words that occur, and those words, after null."""
        distinct = np.unique(np.append(codes, np.uint32(0)))
        self._connection.register("wanted_codes", pa.table({"code": pa.array(distinct[1:])}))
        words = self._connection.sql(
            'select word from words semi join wanted_codes using (code) where "column" = $name order by code',
            params={"name": name},
        ).to_arrow_table()
        self._connection.unregister("wanted_codes")
        return np.searchsorted(distinct, codes), _after_null(words.column("word").combine_chunks())


def decoded(rows: pa.Table) -> pa.Table:
    """Return `rows` with plain strings in place of dictionaries."""
    for position, field in enumerate(rows.schema):
        if pa.types.is_dictionary(field.type):
            plain = pc.cast(rows.column(position), field.type.value_type)
            rows = rows.set_column(position, field.name, plain)
    return rows


def _after_null(words: pa.StringArray) -> pa.StringArray:
    return pa.concat_arrays([pa.nulls(1, words.type), words])

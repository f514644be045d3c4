"""The dictionary of the examples' strings: each distinct string of a column is stored once, under a code.

`words` holds (`column`, `code`, `word`). Codes count from 1 in the order in which examples first show a word, whatever
batches they come in, and never change; code 0 is a missing string. So a training batch leaves DuckDB as small integers
beside an Arrow dictionary, and whoever hashes or looks up strings does it once per distinct one (docs/adr/0004).

The functions run inside the owner's transaction or a reader's session, like those of `ml_core.data.tables`.
"""

from collections.abc import Sequence

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

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


def attach(connection: duckdb.DuckDBPyConnection, rows: pa.Table, columns: Sequence[str]) -> pa.Table:
    """Return `rows` with the codes of `columns` as Arrow dictionaries, whose first word is null.

    A dictionary holds every word of its column, or, where there are more of them than rows, those that occur.
    """
    query = 'select "column", max(code) as held from words group by "column"'
    held = dict(connection.execute(query).fetchall()) if columns else {}
    whole = [name for name in columns if held.get(name, 0) <= rows.num_rows]
    words = connection.sql(
        'from words where "column" in $columns order by "column", code', params={"columns": whole}
    ).to_arrow_table()
    bounds = np.cumsum([0, *(held.get(name, 0) for name in sorted(whole))])
    start_of = dict(zip(sorted(whole), bounds, strict=False))
    for name in columns:
        codes = rows.column(name).to_numpy()
        if name in start_of:
            dictionary = words.column("word").slice(start_of[name], held.get(name, 0)).combine_chunks()
        else:
            codes, dictionary = _occurring(connection, name, codes)
        with_null = pa.concat_arrays([pa.nulls(1, pa.string()), dictionary])
        column = pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), with_null)
        rows = rows.set_column(rows.schema.get_field_index(name), name, column)
    return rows


def decoded(rows: pa.Table) -> pa.Table:
    """Return `rows` with plain strings in place of dictionaries."""
    for position, field in enumerate(rows.schema):
        if pa.types.is_dictionary(field.type):
            plain = pc.cast(rows.column(position), field.type.value_type)
            rows = rows.set_column(position, field.name, plain)
    return rows


def _occurring(
    connection: duckdb.DuckDBPyConnection, name: str, codes: NDArray[np.uint32]
) -> tuple[NDArray[np.intp], pa.Array]:
    """Return the codes as places, 0 for a missing string, among the words that occur, and those words."""
    distinct = np.unique(np.append(codes, np.uint32(0)))
    connection.register("wanted_codes", pa.table({"code": pa.array(distinct[1:])}))
    words = connection.sql(
        'select word from words semi join wanted_codes using (code) where "column" = $name order by code',
        params={"name": name},
    ).to_arrow_table()
    connection.unregister("wanted_codes")
    return np.searchsorted(distinct, codes), words.column("word").combine_chunks()

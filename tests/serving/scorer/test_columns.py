"""The column scorer says what the graph says, whatever holds the columns."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ml_core.pipeline import PipelineModel
from serving.packing import open_session, packed_graph
from serving.rows import RowReader
from serving.scorer import read_scorers
from serving.scorer.columns import Words
from tests.pipeline.examples import ESTIMATORS, SCHEMA, STAGES, labels, pipeline, rows

UNCROSSED = tuple(stage for stage in STAGES if stage["stage"] != "cross")


def trained(estimator: Any = ESTIMATORS[0], stages: Any = STAGES) -> PipelineModel:
    model = PipelineModel.build(pipeline(estimator, stages), SCHEMA)
    model.learn(rows(), labels())
    return model


def graph_scores(model: PipelineModel, table: pa.Table) -> Any:
    reader = RowReader(model.signature)
    session = open_session(packed_graph(model.to_onnx(), model.signature))
    return session.run(None, reader.records(table.select(list(model.signature)).to_pylist()))[0]


def column_scores(model: PipelineModel, columns: Any) -> Any:
    return read_scorers(packed_graph(model.to_onnx(), model.signature), RowReader(model.signature)).columns.score(
        columns
    )


def as_lists(column: pa.ChunkedArray) -> Any:
    return column.to_pylist()


def as_arrays(column: pa.ChunkedArray) -> Any:
    return np.array(column.to_pylist(), object if pa.types.is_string(column.type) else np.float64)


def as_arrow(column: pa.ChunkedArray) -> Any:
    return column.combine_chunks()


def as_dictionaries(column: pa.ChunkedArray) -> Any:
    return column.combine_chunks().dictionary_encode() if pa.types.is_string(column.type) else column.combine_chunks()


def as_wide_places(column: pa.ChunkedArray) -> Any:
    """Return places of the widest kind, a missing string among them as null."""
    if not pa.types.is_string(column.type):
        return column.combine_chunks()
    encoded = column.combine_chunks().dictionary_encode()
    return pa.DictionaryArray.from_arrays(encoded.indices.cast(pa.uint64()), encoded.dictionary)


def as_differing_dictionaries(column: pa.ChunkedArray) -> Any:
    if not pa.types.is_string(column.type):
        return column
    halves = (column.slice(0, 700), column.slice(700))
    return pa.chunked_array([half.combine_chunks().dictionary_encode() for half in halves])


@pytest.mark.parametrize(
    "form", [as_lists, as_arrays, as_arrow, as_dictionaries, as_wide_places, as_differing_dictionaries]
)
@pytest.mark.parametrize(
    ("estimator", "stages", "size"),
    [
        (ESTIMATORS[0], STAGES, 2000),
        (ESTIMATORS[3], STAGES, 2000),
        (ESTIMATORS[0], UNCROSSED, 2000),
        (ESTIMATORS[0], UNCROSSED, 6000),
    ],
    ids=["crossed", "another estimator", "uncrossed", "many rows"],
)
def test_columns_in_every_form_score_as_the_graph(form: Any, estimator: Any, stages: Any, size: int) -> None:
    """A table from anywhere is taken as it is."""
    model, table = trained(estimator, stages), rows(size, seed=9)
    scores = column_scores(model, {name: form(table.column(name)) for name in model.signature})
    assert scores.dtype == np.float32
    assert np.abs(scores - graph_scores(model, table)).max() < 1e-6


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage["stage"] not in {"clip", "log1p"}], ids=str)
def test_each_stage_alone_scores_as_the_graph(stage: Any) -> None:
    """A single column, or columns of one kind, take other ways."""
    model, table = trained(stages=(stage,)), rows(300, seed=6)
    columns = {name: table.column(name) for name in model.signature}
    assert np.abs(column_scores(model, columns) - graph_scores(model, table)).max() < 1e-6


def test_ever_new_strings_score_as_the_graph() -> None:
    """A column of identifiers has no value twice."""
    model, table = trained(), rows(1000, seed=3)
    table = table.set_column(1, "tail", pa.array([f"t{n}" for n in range(1000)]))
    columns = {name: table.column(name) for name in model.signature}
    assert np.abs(column_scores(model, columns) - graph_scores(model, table)).max() < 1e-6


@pytest.mark.parametrize(
    "change",
    [
        {"tail": [b"N1", "N2"]},
        {"tail": ["N1", 7]},
        {"tail": ["N1"]},
        {"tail": ["\ud800", "N1"]},
        {"tail": pa.array([1, 2])},
        {"tail": None},
    ],
    ids=["bytes", "a number", "too few", "half a pair", "integers", "nothing"],
)
def test_what_no_string_column_takes_is_left_to_the_reading_of_rows(change: dict[str, Any]) -> None:
    """One policy, one wording: the scorer only says that it is not its matter."""
    columns: dict[str, Any] = {"carrier": ["UA", "AA"], "tail": ["N1", None], "delay": [1.0, None], "seats": [2, 3.5]}
    model = trained()
    assert column_scores(model, columns).shape == (2,)
    assert column_scores(model, {**columns, **change}) is None
    del columns["tail"]
    assert column_scores(model, columns) is None


def test_a_dictionary_much_larger_than_the_batch_is_worked_out_only_as_far_as_it_occurs() -> None:
    """Small batches often come with the dictionary of a whole table."""
    words = pa.array([f"w{n}" for n in range(1000)]).dictionary_encode()
    read = Words.of(words.slice(10, 3))
    assert read is not None
    assert read.dictionary.strings.tolist() == ["w10", "w11", "w12", ""]
    assert read.spread("same", lambda strings: strings).tolist() == ["w10", "w11", "w12"]


def test_batches_that_share_their_dictionaries_and_batches_that_do_not_score_as_the_graph() -> None:
    """What was made of one dictionary must never be taken for another's."""
    model, table = trained(), rows(1200, seed=11)
    scorer = read_scorers(packed_graph(model.to_onnx(), model.signature), RowReader(model.signature)).columns
    expected = graph_scores(model, table)
    shared = {name: as_dictionaries(table.column(name)) for name in model.signature}
    for start in range(0, 1200, 300):
        for columns in (
            {name: column.slice(start, 300) for name, column in shared.items()},
            {name: as_dictionaries(table.column(name).slice(start, 300)) for name in model.signature},
        ):
            assert np.abs(scorer.score(columns) - expected[start : start + 300]).max() < 1e-6


def test_a_table_that_is_held_sparsely_scores_as_the_graph() -> None:
    """Millions of slots of which few were ever touched are not laid out."""
    model, table = trained(stages=({"stage": "hash", "columns": ["tail"], "bits": 21},)), rows(300, seed=12)
    expected = graph_scores(model, table)
    assert np.abs(column_scores(model, {"tail": table.column("tail")}) - expected).max() < 1e-6
    scorer = read_scorers(packed_graph(model.to_onnx(), model.signature), RowReader(model.signature)).row
    assert np.abs(np.array([scorer.score(row) for row in table.to_pylist()]) - expected).max() < 1e-6


THEIRS = (
    ({"stage": "sklearn.preprocessing.StandardScaler", "columns": ["delay", "seats"]}, ("carrier", "tail")),
    ({"stage": "sklearn.preprocessing.MinMaxScaler", "columns": ["seats"]}, ("carrier",)),
)


@pytest.mark.parametrize(("scaler", "strings"), THEIRS, ids=["seed", "one column each"])
def test_scikit_learns_scaler_and_one_hot_score_as_the_graph(scaler: Any, strings: tuple[str, ...]) -> None:
    """Their graphs have the rows along another axis, and lay out a column for each category."""
    stages = (scaler, {"stage": "sklearn.preprocessing.OneHotEncoder", "columns": list(strings)})
    estimator = {"name": "sklearn.linear_model.LogisticRegression"}
    model = PipelineModel.build(pipeline(estimator, stages), SCHEMA)
    known = rows()
    whole = {
        name: [0.0 if value is None else value for value in known[name].to_pylist()] for name in ("delay", "seats")
    }
    for name, values in whole.items():
        known = known.set_column(known.schema.get_field_index(name), name, pa.array(values, known[name].type))
    model.fit(known, labels())
    asked = rows(300, seed=8)
    asked = asked.set_column(
        asked.schema.get_field_index("carrier"), "carrier", pa.array(["??", *asked["carrier"].to_pylist()[1:]])
    )
    expected = graph_scores(model, asked)
    scorers = read_scorers(packed_graph(model.to_onnx(), model.signature), RowReader(model.signature))
    columns = {name: asked[name].to_pylist() for name in model.signature}
    assert np.abs(scorers.columns.score(columns) - expected).max() < 1e-6
    one_by_one = [scorers.row.score(row) for row in asked.select(list(model.signature)).to_pylist()]
    assert np.abs(np.array(one_by_one) - expected).max() < 1e-6
    assert len(np.unique(expected)) > 100


def test_strings_that_rows_left_in_memory_and_new_ones_score_as_the_graph() -> None:
    """Rows and batches share what they remember, also where it is full and starts anew."""
    model, table = trained(stages=UNCROSSED), rows(3000, seed=13)
    ever_new = [f"t{number // 3}" for number in range(3000)]
    table = table.set_column(table.schema.get_field_index("tail"), "tail", pa.array(ever_new))
    scorers = read_scorers(packed_graph(model.to_onnx(), model.signature), RowReader(model.signature))
    for memory in scorers.row.words.values():
        memory._limit = 40
    expected = graph_scores(model, table)
    for start in range(0, 3000, 100):
        part = table.slice(start, 100).select(list(model.signature))
        one_by_one = [scorers.row.score(row) for row in part.to_pylist()[:20]]
        assert np.abs(np.array(one_by_one) - expected[start : start + 20]).max() < 1e-6
        together = scorers.columns.score(part.to_pydict())
        assert np.abs(together - expected[start : start + 100]).max() < 1e-6
        assert 0 < max(map(len, scorers.row.words.values())) <= 40

"""The pipeline model: one pass in any split, resumed anywhere, exported exactly, and never poisoned."""

import hashlib
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_core.errors import InputError, ProjectError, StateError
from ml_core.pipeline import PipelineModel
from ml_core.pipeline.columns import read_columns
from ml_core.pipeline.hashing import hash_strings
from tests.pipeline.examples import ESTIMATORS, SCHEMA, STAGES, labels, onnx_scores, pipeline, rows


@pytest.fixture(params=ESTIMATORS, ids=lambda spec: "-".join(map(str, spec.values())))
def estimator(request):
    """Each learner a pipeline can end in."""
    return request.param


def _trained(estimator, count=400):
    model = PipelineModel.build(pipeline(estimator), SCHEMA)
    model.learn(rows(count), labels(count, classes=estimator.get("n_classes", 2)))
    return model


@settings(max_examples=15, deadline=None)
@given(cuts=st.lists(st.integers(0, 400), max_size=6))
def test_any_split_of_the_rows_gives_the_same_bits(cuts):
    """Two trainers that saw the same examples must publish the same model, whatever their batches were."""
    whole = PipelineModel.build(pipeline(), SCHEMA)
    scores = whole.learn(rows(), labels())
    parts = PipelineModel.build(pipeline(), SCHEMA)
    pieces = [
        parts.learn(rows().slice(start, stop - start), labels()[start:stop])
        for start, stop in pairwise([0, *sorted(cuts), 400])
    ]
    assert np.concatenate(pieces).tobytes() == scores.tobytes()
    assert parts.state_digest() == whole.state_digest()
    assert parts.to_onnx() == whole.to_onnx()


def test_overlapped_learning_gives_the_same_bits(estimator):
    """Reading ahead is for speed; it must not be visible in the model."""
    whole = _trained(estimator)
    table = rows().append_column("label", pa.array(labels(classes=estimator.get("n_classes", 2))))
    stream = PipelineModel.build(pipeline(estimator), SCHEMA)
    learned = list(stream.learn_batches(table.to_batches(max_chunksize=70)))
    assert stream.state_digest() == whole.state_digest()
    assert sum(len(part) for part, _ in learned) == 400


def test_whenever_a_stream_yields_the_model_has_learned_exactly_that(estimator):
    """A trainer that is told to stop saves its model and its watermark together; they must agree."""
    targets = labels(classes=estimator.get("n_classes", 2))
    table = rows().append_column("label", pa.array(targets))
    stream, alone = (PipelineModel.build(pipeline(estimator), SCHEMA) for _ in range(2))
    batches = stream.learn_batches(table.to_batches(max_chunksize=70))
    for start in (0, 70, 140):
        next(batches)
        alone.learn(rows().slice(start, 70), targets[start : start + 70])
        assert stream.state_digest() == alone.state_digest()
    batches.close()
    assert stream.state_digest() == alone.state_digest()


def test_a_stream_that_is_refused_has_learned_the_batches_before():
    """The batch that follows was laid out before the refusal; nothing of it, nor of the refused one, may stay."""
    table = rows().append_column("label", pa.array(np.arange(400) / 1e3))
    steep = table.slice(140, 70).set_column(
        table.schema.get_field_index("label"), "label", pa.array(np.full(70, 1e300))
    )
    given_batches = [table.slice(0, 70), table.slice(70, 70), steep, table.slice(210, 70)]
    stream, alone = (PipelineModel.build(pipeline({"name": "FTRLRegressor"}), SCHEMA) for _ in range(2))
    with pytest.raises(InputError, match="diverged"):
        list(stream.learn_batches(given_batches))
    for batch in given_batches[:2]:
        alone.learn(batch, batch.column("label").to_numpy())
    assert stream.state_digest() == alone.state_digest()


@pytest.mark.parametrize(
    ("given_labels", "complaint"),
    [(None, "expected a column 'label'"), (["a"] * 50, "numbers"), ([2.0] * 50, "0 .. 1"), ([None] * 50, "0 .. 1")],
)
def test_labels_that_are_none_are_refused_and_change_nothing(given_labels, complaint):
    """A table that lost its labels must not become a model of something else."""
    table = rows(50)
    if given_labels is not None:
        table = table.append_column("label", pa.array(given_labels))
    model = PipelineModel.build(pipeline(), SCHEMA)
    before = model.state_digest()
    with pytest.raises(InputError, match=complaint):
        list(model.learn_batches(table.to_batches()))
    assert model.state_digest() == before


@pytest.mark.parametrize("place", [-1, 3, 2**30])
def test_a_place_outside_its_dictionary_is_refused_and_changes_nothing(place):
    """What came over a wire may say anything; a model must not learn what happens to lie in memory there."""
    words = pa.array(["", "UA", "B6"])
    table = rows(50)
    at = table.schema.get_field_index("carrier")
    coded = pa.DictionaryArray.from_arrays(pa.array([0] * 49 + [place], pa.int32()), words, safe=False)
    model = PipelineModel.build(pipeline(), SCHEMA)
    before = model.state_digest()
    with pytest.raises(InputError, match="dictionary of column 'carrier'"):
        model.learn(table.set_column(at, "carrier", coded), labels(50))
    assert model.state_digest() == before


def test_nobody_else_teaches_a_model_amid_a_stream():
    """What was laid out ahead would forget what the stages learned in between."""
    table = rows(210).append_column("label", pa.array(labels(210)))
    model = PipelineModel.build(pipeline(), SCHEMA)
    batches = model.learn_batches(table.to_batches(max_chunksize=70))
    next(batches)
    model.learn(table.slice(0, 5), labels(210)[:5])
    with pytest.raises(RuntimeError, match="nobody else"):
        next(batches)


def test_scores_while_learning_are_those_predicted_just_before(estimator):
    """The gate judges by these scores; they must be what the sidecar would have answered."""
    model = _trained(estimator, 200)
    later = rows().slice(200)
    before = model.predict(later.slice(0, 1))
    assert model.learn(later, labels(classes=estimator.get("n_classes", 2))[200:])[0].tobytes() == before[0].tobytes()


def test_prediction_changes_nothing_and_does_not_depend_on_company(estimator):
    """A request must not move the model, nor the answer to its neighbour."""
    model = _trained(estimator)
    before, together = model.state_digest(), model.predict(rows(50, seed=9))
    alone = np.concatenate([model.predict(rows(50, seed=9).slice(row, 1)) for row in range(50)])
    assert alone.tobytes() == together.tobytes()
    assert model.state_digest() == before


def test_the_graph_scores_as_the_model_does(estimator):
    """Promise 1: every predictor runs the same pipeline."""
    model, unseen = _trained(estimator), rows(300, seed=5)
    exported = onnx_scores(model.to_onnx(), unseen, model.signature)
    np.testing.assert_allclose(
        exported, model.predict(unseen), rtol=0, atol=1e-6 if "Cl" in estimator["name"] else 1e-4
    )


_STRINGS = st.one_of(st.none(), st.just(""), st.sampled_from(["UA", "N1", "日本"]), st.text(max_size=12))
_NUMBERS = st.one_of(st.none(), st.just(float("nan")), st.floats(width=32, allow_infinity=False))


@settings(max_examples=100, deadline=None)
@given(
    odd=st.lists(st.tuples(_STRINGS, _STRINGS, _NUMBERS, _NUMBERS), min_size=1, max_size=8),
)
def test_the_graph_scores_any_row_as_the_model_does(odd):
    """Callers send what no one thought of: nulls, unseen values, empty and non-ASCII strings, extreme numbers."""
    model = _exported()[0]
    carrier, tail, delay, seats = zip(*odd, strict=True)
    table = pa.table(
        {
            "carrier": pa.array(_sendable(carrier), pa.string()),
            "tail": pa.array(_sendable(tail), pa.string()),
            "delay": pa.array(delay, pa.float32()),
            "seats": pa.array(seats, pa.float32()),
        }
    )
    scores = model.predict(table)
    assert np.isfinite(scores).all()
    np.testing.assert_allclose(onnx_scores(_exported()[1], table, model.signature), scores, rtol=0, atol=1e-6)


_ONCE = {}


def _exported():
    if not _ONCE:
        model = _trained({"name": "FTRLClassifier", "alpha": 0.3})
        _ONCE["both"] = model, model.to_onnx()
    return _ONCE["both"]


def _sendable(strings):
    """Leave out what no UTF-8 text can hold."""
    return [None if text is None else text.encode("utf-8", "ignore").decode().replace("\x00", "") for text in strings]


_RESUME = """
import sys
from pathlib import Path
from ml_core.pipeline import PipelineModel
from ml_core.pipeline.columns import read_columns
from ml_core.pipeline.hashing import hash_strings
from tests.pipeline.examples import ESTIMATORS, labels, rows

for place, estimator in enumerate(ESTIMATORS):
    model = PipelineModel.load(Path(sys.argv[1], str(place)))
    model.learn(rows().slice(250), labels(classes=estimator.get("n_classes", 2))[250:])
    print(model.state_digest())
"""


@pytest.mark.parametrize("hash_seed", ["1", pytest.param("2", marks=pytest.mark.slow)])  # this process has its own
def test_models_saved_in_mid_stream_continue_in_a_new_process_bit_for_bit(hash_seed, tmp_path):
    """Promise 3: kill the trainer anywhere, and the final weights are those of an undisturbed run."""
    expected = []
    for place, estimator in enumerate(ESTIMATORS):
        model = PipelineModel.build(pipeline(estimator), SCHEMA)
        targets = labels(classes=estimator.get("n_classes", 2))
        model.learn(rows().slice(0, 250), targets[:250])
        model.save(tmp_path / str(place))
        model.learn(rows().slice(250), targets[250:])
        expected.append(model.state_digest())
    done = subprocess.run(
        [sys.executable, "-c", _RESUME, tmp_path],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert done.stdout.split() == expected


def test_a_saved_model_is_the_same_bytes_each_time(tmp_path):
    """Packages are compared by digest; a timestamp inside would make every copy a new one."""
    digests = []
    for name in ("first", "second"):
        _trained({"name": "FTRLClassifier"}).save(tmp_path / name)
        files = sorted((tmp_path / name).iterdir())
        digests.append([hashlib.sha256(file.read_bytes()).hexdigest() for file in files])
    assert digests[0] == digests[1]


@pytest.mark.parametrize(
    ("stages", "estimator"),
    [
        (STAGES, {"name": "FTRLClassifier", "alpha": 0.31, "l1": 0.01}),
        (STAGES, {"name": "FTRLClassifier", "alpha": 0.3, "l1": 0.01, "optimizer": "sgd"}),
        (({"stage": "hash", "columns": ["carrier", "tail"], "bits": 11}, *STAGES[1:]), {"name": "FTRLClassifier"}),
        (STAGES[:-1], {"name": "FTRLClassifier", "alpha": 0.3, "l1": 0.01}),
    ],
)
def test_a_state_of_other_hyper_parameters_is_an_error_not_a_drift(stages, estimator, tmp_path):
    """Resuming under other rates keeps predictions and silently changes what is learned next."""
    _trained({"name": "FTRLClassifier", "alpha": 0.3, "l1": 0.01}).save(tmp_path)
    with pytest.raises(StateError, match="run a full training"):
        PipelineModel.load(tmp_path, pipeline(estimator, stages))


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("state.npz", lambda content: content[: len(content) // 2]),
        ("state.json", lambda content: content[: len(content) // 2]),
        ("state.npz", lambda _: b""),
        ("state.json", lambda _: b"[]"),
        ("state.json", lambda content: content.replace(b'"n_trained": 400', b'"n_trained": 4')),
        ("state.json", lambda content: content.replace(b'"format": 1', b'"format": 99')),
    ],
)
def test_a_damaged_state_is_refused(name, damage, tmp_path):
    """Half a file after a crash must not become a model."""
    _trained({"name": "FTRLClassifier"}).save(tmp_path)
    file = tmp_path / name
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(StateError):
        PipelineModel.load(tmp_path)


def _without(table, name):
    return table.drop_columns([name])


def _with(table, name, values):
    return table.set_column(table.schema.names.index(name), name, values)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda t, y: (_without(t, "tail"), y), "expected one column 'tail'"),
        (lambda t, y: (_with(t, "tail", pa.array(range(400))), y), "expected strings in column 'tail'"),
        (lambda t, y: (_with(t, "delay", pa.array(["x"] * 400)), y), "expected numbers in column 'delay'"),
        (lambda t, y: (_with(t, "delay", pa.array([0.0] * 7 + [np.inf] * 393)), y), "'delay'.*row 7"),
        (lambda t, y: (_with(t, "delay", pa.array([1e300] * 400)), y), "finite numbers"),
        (lambda t, y: (t, np.where(np.arange(400) == 3, np.nan, y)), "found nan in row 3"),
        (lambda t, y: (t, np.where(np.arange(400) == 3, 2, y)), "found 2.0 in row 3"),
        (lambda t, y: (t, np.where(np.arange(400) == 3, 0.5, y)), "found 0.5 in row 3"),
        (lambda t, y: (t, y[:-1]), "a label for each of 400 rows"),
    ],
)
def test_a_refused_batch_names_its_fault_and_leaves_the_model_untouched(spoil, said):
    """Never a poisoned model: the batch is refused whole, and the message says where to look."""
    model = _trained({"name": "FTRLClassifier"})
    before = model.state_digest()
    with pytest.raises(InputError, match=said):
        model.learn(*spoil(rows(), labels()))
    assert model.state_digest() == before


def test_a_regression_that_diverges_leaves_its_stages_untouched_too():
    """Statistics that ran ahead of the weights would be a model no order of rows gives."""
    model = PipelineModel.build(pipeline({"name": "FTRLRegressor", "alpha": 50.0, "optimizer": "sgd"}), SCHEMA)
    before = model.state_digest()
    with pytest.raises(InputError, match="diverged"):
        model.learn(rows(), labels() * 1e30)
    assert model.state_digest() == before


def test_an_empty_batch_changes_nothing():
    """A quiet hour is not an error."""
    model = _trained({"name": "FTRLClassifier"})
    before = model.state_digest()
    assert model.learn(rows().slice(0, 0), []).shape == (0,)
    assert model.predict_proba(rows().slice(0, 0)).shape == (0,)
    assert model.state_digest() == before


@pytest.mark.parametrize("kind", [pa.large_string(), pa.dictionary(pa.int32(), pa.string()), pa.string_view()])
def test_how_strings_are_stored_is_not_information(kind):
    """DuckDB hands the same column over as text, as an enumeration, or as views."""
    model = _trained({"name": "FTRLClassifier"})
    stored = _with(rows(), "tail", rows().column("tail").combine_chunks().cast(kind))
    assert model.predict_proba(stored).tobytes() == model.predict_proba(rows()).tobytes()
    other = PipelineModel.build(pipeline({"name": "FTRLClassifier"}), SCHEMA)
    other.learn(stored, labels())
    assert other.state_digest() == model.state_digest()


@pytest.mark.parametrize("words", [["a", None, ""], [None, "a"], ["a", ""], ["a"], ["a", "a", None], ["a", "a"]])
def test_a_missing_string_of_a_dictionary_is_the_empty_one(words):
    """It may be missing among the places, among the words, or both, beside an empty word or without one."""
    stored = pa.DictionaryArray.from_arrays(pa.array([0, None, len(words) - 1, 0], pa.int8()), pa.array(words))
    text = read_columns(pa.table({"tail": stored}), {"tail": "string"})["tail"]
    expected = [word or "" for word in stored.to_pylist()]
    assert [text.distinct[code] for code in text.codes] == expected
    assert text.hashes.tolist() == hash_strings(pa.array(expected, pa.large_string())).tolist()
    assert len(set(text.distinct)) == len(text.distinct)


@pytest.mark.parametrize("part", [slice(0, 30), slice(3, 11), slice(16, 17), slice(29, 30), slice(7, 7)])
def test_missing_numbers_of_a_part_of_an_array_are_those_of_its_rows(part):
    numbers = pa.array([None if number % 3 == 0 else number / 2 for number in range(30)], pa.float32())
    read = read_columns(pa.table({"x": numbers})[part.start : part.stop], {"x": "float"})["x"]
    assert repr(read.tolist()) == repr([float("nan") if n % 3 == 0 else n / 2 for n in range(30)][part])


@pytest.mark.parametrize(
    ("stages", "estimator", "said"),
    [
        ([{"stage": "hsh", "columns": ["tail"]}], {"name": "FTRLClassifier"}, "did you mean 'hash'"),
        ([{"stage": "hash", "column": ["tail"]}], {"name": "FTRLClassifier"}, "did you mean 'columns'"),
        ([{"stage": "hash"}], {"name": "FTRLClassifier"}, "needs the key 'columns'"),
        ([{"stage": "hash", "columns": ["tial"]}], {"name": "FTRLClassifier"}, "did you mean 'tail'"),
        ([{"stage": "hash", "columns": ["delay"]}], {"name": "FTRLClassifier"}, "'hash' takes string.*'delay'"),
        ([{"stage": "hash", "columns": []}], {"name": "FTRLClassifier"}, "list of columns"),
        ([{"stage": "hash", "columns": "tail"}], {"name": "FTRLClassifier"}, "list of columns"),
        ([{"stage": "hash", "columns": ["tail", "tail"]}], {"name": "FTRLClassifier"}, "twice"),
        ([{"stage": "hash", "columns": ["tail"], "bits": 99}], {"name": "FTRLClassifier"}, "bits"),
        ([{"stage": "cross", "pairs": [["tail", "tail"]]}], {"name": "FTRLClassifier"}, "two different"),
        ([{"stage": "bucketize", "boundaries": {"delay": [2, 1]}}], {"name": "FTRLClassifier"}, "ascending"),
        ([{"stage": "standardise", "columns": ["delay"], "policy": "x"}], {"name": "FTRLClassifier"}, "policy"),
        ([{"stage": "clip", "columns": ["delay"]}], {"name": "FTRLClassifier"}, "none of them makes an entry"),
        ([{"stage": "onehot", "columns": ["tail"], "cap": 0}], {"name": "FTRLClassifier"}, "cap"),
        ([STAGES[0]], {"name": "FTRLClasifier"}, "did you mean 'FTRLClassifier'"),
        ([STAGES[0]], {"name": "FTRLClassifier", "alhpa": 1}, "did you mean 'alpha'"),
        ([STAGES[0]], {"name": "FTRLClassifier", "alpha": -1}, "alpha > 0"),
        ([STAGES[0]], {"name": "FTRLClassifier", "n_classes": 1}, "n_classes"),
    ],
)
def test_a_pipeline_that_makes_no_sense_is_refused_with_a_hint(stages, estimator, said):
    """A misspelt key must not be trained past."""
    with pytest.raises(ProjectError, match=said):
        PipelineModel.build(pipeline(estimator, tuple(stages)), SCHEMA)


def test_the_signature_holds_the_used_columns_in_the_tables_order():
    """It is what callers see as the model's inputs."""
    assert list(PipelineModel.build(pipeline(), SCHEMA).signature) == ["carrier", "tail", "delay", "seats"]

"""Parts of other libraries in a pipeline: fitted, exported, kept without pickle, continued, or refused by name."""

import json
import sys

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from ml_core.errors import ExportError, InputError, ProjectError, StateError
from ml_core.pipeline import PipelineModel
from ml_core.pipeline.library import KEPT, keep, make, restore
from tests.pipeline.examples import SCHEMA, labels, onnx_scores, rows
from tests.pipeline.foreign import (
    CLASSIFIERS,
    FROZEN_SEED,
    LOGISTIC,
    NUMBERS,
    PLAIN,
    REGRESSORS,
    SEED,
    STRINGS,
    TRANSFORMERS,
    settings,
)

ONLINE = {"name": "FTRLClassifier", "start_from": LOGISTIC}
BOOSTERS = [CLASSIFIERS["LGBMClassifier"], CLASSIFIERS["XGBClassifier"]]
CASES = [
    *((f"{name}-stage", stages, LOGISTIC) for name, stages in TRANSFORMERS.items()),
    *(
        (f"{name}-{count}", PLAIN, spec | {"n_classes": count})
        for name, spec in CLASSIFIERS.items()
        for count in (2, 3)
    ),
    *((name, PLAIN, spec) for name, spec in REGRESSORS.items()),
    ("seed-2", SEED, LOGISTIC),
    ("seed-3", SEED, LOGISTIC | {"n_classes": 3}),
    ("seed-online-2", FROZEN_SEED, ONLINE),
    ("seed-online-3", FROZEN_SEED, ONLINE | {"n_classes": 3}),
]

# forests of many classes: what is exported is the same as of two, or of one tree, only more of it
LONG = {f"{name}Classifier-3" for name in ("HistGradientBoosting", "GradientBoosting", "RandomForest", "ExtraTrees")}


def targets(estimator, count=400, seed=0):
    """Labels for an estimator: classes that depend on the rows, or numbers."""
    if ("Regress" in estimator["name"] and "Logistic" not in estimator["name"]) or "Ridge" in estimator["name"]:
        delay = np.nan_to_num(rows(count, seed).column("delay").to_numpy())
        return delay * 0.1 + np.random.default_rng(seed).normal(0, 1, count)
    if estimator.get("n_classes", 2) == 2:
        return labels(count, seed)
    delay = np.nan_to_num(rows(count, seed).column("delay").to_numpy())
    return np.digitize(delay + np.random.default_rng(seed).normal(0, 10, count), [-5, 30]).astype(float)


def fitted(stages, estimator):
    """Build without the rehearsal, which has tests of its own, and fit."""
    model = PipelineModel(settings(stages, estimator), SCHEMA)
    return model.fit(rows(), targets(estimator))


_ONCE = {}


def exported(name, stages, estimator):
    """Fit and export each case once."""
    if name not in _ONCE:
        model = fitted(stages, estimator)
        _ONCE[name] = model, model.to_onnx()
    return _ONCE[name]


_STRINGS = st.one_of(st.none(), st.just(""), st.sampled_from(["UA", "N1", "日本"]), st.text(max_size=8))
_NUMBERS = st.one_of(
    st.none(),
    st.just(float("nan")),
    st.floats(-1e6, 1e6, width=32),
    st.sampled_from([float(value) for value in rows().column("delay").to_numpy()[:40]]),
)
_ROWS = st.lists(st.tuples(_STRINGS, _STRINGS, _NUMBERS, _NUMBERS), min_size=1, max_size=6)


@pytest.mark.filterwarnings("ignore")  # of libraries, about tiny samples
@pytest.mark.parametrize(
    ("name", "stages", "estimator"),
    [pytest.param(*case, id=case[0], marks=[pytest.mark.slow] if case[0] in LONG else []) for case in CASES],
)
@hypothesis_settings(max_examples=15, deadline=None)
@given(odd=_ROWS)
def test_the_graph_scores_any_row_as_the_library_does(name, stages, estimator, odd):
    """Nulls, unseen, empty and non-ASCII strings, numbers from the training rows and far from them."""
    model, graph = exported(name, stages, estimator)
    carrier, tail, delay, seats = zip(*odd, strict=True)
    sendable = [[text and text.encode("utf-8", "ignore").decode().replace("\x00", "") for text in column]
                for column in (carrier, tail)]  # fmt: skip
    table = pa.table(
        {
            "carrier": pa.array(sendable[0], pa.string()),
            "tail": pa.array(sendable[1], pa.string()),
            "delay": pa.array(delay, pa.float32()),
            "seats": pa.array(seats, pa.float32()),
        }
    )
    scores = model.predict(table)
    assert np.isfinite(scores).all()
    found = onnx_scores(graph, table, model.signature)
    assert found.shape == scores.shape
    np.testing.assert_array_less(np.abs(found - scores), 1e-6 * np.maximum(1, np.abs(scores)) + 1e-12)


def test_the_seed_pipeline_says_what_scikit_learns_own_says():
    """StandardScaler, OneHotEncoder, assembled vector, LogisticRegression: the same model, whoever put it together."""
    table = rows().filter(pa.compute.invert(pa.compute.is_nan(pa.compute.fill_null(rows().column("delay"), np.nan))))
    table = table.filter(pa.compute.invert(pa.compute.is_nan(table.column("seats"))))
    target = (table.column("delay").to_numpy() > 10).astype(float)
    ours = PipelineModel(settings(SEED, LOGISTIC | {"tol": 1e-12}), SCHEMA).fit(table, target).predict(table)
    frame = table.to_pandas().fillna({"tail": ""}).astype(dict.fromkeys(NUMBERS, float))
    theirs = make_pipeline(
        make_column_transformer((StandardScaler(), NUMBERS), (OneHotEncoder(), STRINGS)), LogisticRegression(tol=1e-12)
    ).fit(frame, target)
    np.testing.assert_allclose(ours, theirs.predict_proba(frame)[:, 1], atol=1e-9)


def test_handing_a_batch_model_to_the_online_learner_keeps_its_predictions():
    """Promise 4: batch to incremental changes no score before the first new example."""
    for classes in (2, 3):
        batch = fitted(FROZEN_SEED, LOGISTIC | {"n_classes": classes})
        online = fitted(FROZEN_SEED, ONLINE | {"n_classes": classes})
        assert online.way == "online"
        later = rows(200, seed=3)
        assert np.abs(batch.predict(later) - online.predict(later)).max() < 1e-9
        first = online.learn(later.slice(0, 1), [1.0])
        assert np.abs(batch.predict(later.slice(0, 1)) - first).max() < 1e-9
    ridge = {"name": "sklearn.linear_model.Ridge"}
    number = fitted(FROZEN_SEED, {"name": "FTRLRegressor", "start_from": ridge, "alpha": 0.05})
    batch = fitted(FROZEN_SEED, ridge)
    assert number.n_classes == batch.n_classes == 0


def test_an_online_learner_behind_frozen_stages_keeps_every_promise(tmp_path):
    """Any split of the rows, and any stop and start, gives the same bits."""
    whole, parts = (fitted(FROZEN_SEED, ONLINE) for _ in range(2))
    later, marks = rows(300, seed=4), labels(300, seed=4)
    whole.learn(later, marks)
    parts.learn(later.slice(0, 70), marks[:70])
    parts.save(tmp_path)
    parts = PipelineModel.load(tmp_path, settings(FROZEN_SEED, ONLINE))
    parts.learn(later.slice(70), marks[70:])
    assert parts.state_digest() == whole.state_digest()
    assert parts.to_onnx() == whole.to_onnx()


@pytest.mark.parametrize("estimator", [*BOOSTERS, CLASSIFIERS["SGDClassifier"], CLASSIFIERS["GaussianNB"]], ids=str)
def test_a_library_that_can_continue_does_so_exactly_from_what_was_saved(estimator, tmp_path):
    """A trainer that was killed and loads its state must not make another model than one that was not."""
    model = fitted(PLAIN, estimator)
    assert model.way == "continued"
    later, marks = rows(300, seed=4), labels(300, seed=4)
    model.save(tmp_path)
    loaded = PipelineModel.load(tmp_path, settings(PLAIN, estimator))
    assert loaded.state_digest() == model.state_digest()
    before = model.predict(later)
    np.testing.assert_array_equal(model.learn(later, marks), before)
    loaded.learn(later, marks)
    assert loaded.state_digest() == model.state_digest()
    assert np.abs(model.predict(later) - before).max() > 1e-6
    np.testing.assert_allclose(onnx_scores(model.to_onnx(), later, model.signature), model.predict(later), atol=1e-6)


def test_an_updating_scaler_learns_from_each_batch_after_it_was_transformed():
    """A batch must not help to place itself."""
    stages = ({"stage": "sklearn.preprocessing.StandardScaler", "columns": NUMBERS, "policy": "updating"},)
    model = fitted(stages, ONLINE)
    seen = model.stages[0].fitted.n_samples_seen_.copy()
    before = model.predict(rows(50, seed=5))
    np.testing.assert_allclose(model.learn(rows(50, seed=5), labels(50, seed=5))[0], before[0])
    assert (model.stages[0].fitted.n_samples_seen_ > seen).all()
    assert model.way == "continued"


def test_what_a_stage_makes_can_take_the_place_of_its_columns():
    """A scaler in front of buckets: later stages see what it made."""
    stages = (
        {"stage": "sklearn.preprocessing.MinMaxScaler", "columns": ["delay"], "into": "columns", "policy": "frozen"},
        {"stage": "bucketize", "boundaries": {"delay": [0.25, 0.5, 0.75]}},
    )
    model = PipelineModel.build(settings(stages, {"name": "FTRLClassifier"}), SCHEMA)
    model.fit(rows(), labels())
    np.testing.assert_allclose(
        onnx_scores(model.to_onnx(), rows(80, seed=7), model.signature), model.predict(rows(80, seed=7)), atol=1e-6
    )


def test_the_vector_may_keep_missing_numbers_for_estimators_that_take_them():
    """Trees learn where a missing number belongs; a linear model is given 0."""
    assert all(stage.keeps_missing for stage in PipelineModel(settings(PLAIN, BOOSTERS[0]), SCHEMA).stages)
    assert not any(stage.keeps_missing for stage in PipelineModel(settings(PLAIN, LOGISTIC), SCHEMA).stages)


@pytest.mark.parametrize("path", sorted(KEPT))
def test_a_kept_class_knows_the_same_after_it_was_written_and_read(path):
    """Promise 7: state without pickle, and nothing lost."""
    parameters = {"loss": "log_loss"} if path.endswith("SGDClassifier") else {}
    unfitted = make(path, parameters, "here")
    draw = np.random.default_rng(0)
    values = np.abs(draw.normal(size=(60, 3)))
    if path.endswith("Encoder"):
        values = draw.choice(np.array(["", "a", "日本"], object), (60, 2))
    target = (draw.random(60) > 0.5).astype(float)
    known = unfitted.fit(values, target)
    arrays = keep(known)
    assert all(array.dtype != object for array in arrays.values())
    read = restore(make(path, parameters, "here"), arrays)
    call = "transform" if hasattr(known, "transform") else "predict"
    found, expected = (getattr(each, call)(values) for each in (read, known))
    dense = [each.toarray() if hasattr(each, "toarray") else each for each in (found, expected)]
    assert dense[0].tobytes() == dense[1].tobytes()
    assert {name: array.tobytes() for name, array in keep(read).items()} == {
        name: array.tobytes() for name, array in arrays.items()
    }


def test_a_version_that_keeps_only_its_graph_says_so(tmp_path):
    """A forest has no form but pickle; continuing it is impossible, not silently wrong."""
    model = fitted(PLAIN, CLASSIFIERS["RandomForestClassifier"])
    assert model.way == "refit"
    model.save(tmp_path)
    assert json.loads((tmp_path / "state.json").read_text())["n_trained"] == 400
    with pytest.raises(StateError, match="keeps only its graph"):
        PipelineModel.load(tmp_path)


def test_a_state_of_another_release_of_its_library_is_an_error(tmp_path, monkeypatch):
    """Private attributes change between releases; reading them anyway would be a drift."""
    fitted(FROZEN_SEED, ONLINE).save(tmp_path)
    monkeypatch.setattr("sklearn.__version__", "99.0")
    with pytest.raises(StateError, match="scikit-learn 99"):
        PipelineModel.load(tmp_path, settings(FROZEN_SEED, ONLINE))


def test_a_refused_batch_leaves_every_part_untouched():
    """Also the parts that had taken it in when another refused it."""
    stages = ({"stage": "sklearn.preprocessing.StandardScaler", "columns": NUMBERS}, PLAIN[1])
    model = fitted(stages, {"name": "FTRLRegressor", "optimizer": "sgd", "alpha": 0.01})
    before = model.state_digest()
    with pytest.raises(InputError, match="diverged"):
        model.learn(rows(), (labels().astype(float) - 0.5) * 1e308)
    assert model.state_digest() == before
    model = fitted(PLAIN, BOOSTERS[0])
    before = model.state_digest()
    with pytest.raises(InputError, match="all 2 classes"):
        model.learn(rows(), np.zeros(400))
    assert model.state_digest() == before
    assert model.learn(rows().slice(0, 0), []).shape == (0,)


@pytest.mark.parametrize(
    ("stages", "estimator", "said"),
    [
        (SEED, LOGISTIC, r"pipeline.stages\[1\] 'sklearn.preprocessing.OneHotEncoder'.*policy = \"frozen\""),
        (FROZEN_SEED, LOGISTIC, "estimator 'sklearn.linear_model.LogisticRegression'.*start_from"),
        (PLAIN, CLASSIFIERS["RandomForestClassifier"], "'sklearn.ensemble.RandomForestClassifier'.*without pickle"),
        (TRANSFORMERS["SelectKBest"], ONLINE, r"stages\[1\] 'sklearn.feature_selection.SelectKBest'"),
    ],
)
def test_what_cannot_learn_from_new_rows_is_named(stages, estimator, said):
    """An incremental flow is refused with the stage that stands in its way, and what to do."""
    import re

    model = PipelineModel(settings(stages, estimator), SCHEMA)
    assert re.search(said, model.hindrance)
    assert model.way == "refit"


@pytest.mark.parametrize(
    ("stages", "estimator", "said"),
    [
        (({"stage": "sklearn.preprocessing.PowerTransformer", "columns": NUMBERS},), LOGISTIC, "PowerTransformer"),
        (({"stage": "sklearn.preprocessing.SplineTransformer", "columns": NUMBERS},), LOGISTIC, "SplineTransformer"),
        (
            ({"stage": "sklearn.preprocessing.OneHotEncoder", "columns": STRINGS, "handle_unknown": "error"},),
            LOGISTIC,
            "OneHotEncoder",
        ),
        (
            PLAIN,
            {"name": "sklearn.discriminant_analysis.LinearDiscriminantAnalysis"},
            "LinearDiscriminantAnalysis.*apart",
        ),
        (PLAIN, {"name": "sklearn.neighbors.KNeighborsClassifier"}, "KNeighborsClassifier.*equally near"),
        (
            ({"stage": "sklearn.preprocessing.Normalizer", "columns": NUMBERS},),
            LOGISTIC,
            "pipeline stage 'sklearn.preprocessing.Normalizer'.*NaN",
        ),
    ],
)
def test_a_part_that_cannot_be_served_is_refused_when_the_pipeline_is_built(stages, estimator, said):
    """On the day it is written, not after a night's training."""
    with pytest.raises((ExportError, ProjectError), match=said):
        PipelineModel.build(settings(stages, estimator), SCHEMA)


@pytest.mark.parametrize(
    ("stages", "estimator", "said"),
    [
        (({"stage": "sklearn.preprocessing.StandrdScaler", "columns": NUMBERS},), LOGISTIC, "'StandardScaler'"),
        (
            ({"stage": "sklearn.preprocessing.StandardScaler", "columns": NUMBERS, "with_men": 1},),
            LOGISTIC,
            "with_mean",
        ),
        (({"stage": "sklearn.preprocessing.StandardScaler", "columns": ["delay", "tail"]},), LOGISTIC, "'tail'"),
        (({"stage": "sklearn.preprocessing.StandardScaler"},), LOGISTIC, "list of columns"),
        (
            ({"stage": "sklearn.preprocessing.OneHotEncoder", "columns": STRINGS, "policy": "updating"},),
            LOGISTIC,
            "part",
        ),
        (({"stage": "sklearn.preprocessing.OneHotEncoder", "columns": STRINGS, "policy": "x"},), LOGISTIC, "policy"),
        (({"stage": "os.path", "columns": NUMBERS},), LOGISTIC, "os"),
        (({"stage": "nowhere.to.Scaler", "columns": NUMBERS},), LOGISTIC, "install"),
        (({"stage": "hash", "columns": STRINGS, "policy": "growing"},), LOGISTIC, "'frozen'"),
        (PLAIN, {"name": "sklearn.svm.LinearSVC"}, "predict_proba"),
        (PLAIN, {"name": "sklearn.linear_model.LogisticRegression", "c": 1}, "no parameter 'c'.* C,"),
        (PLAIN, {"name": "sklearn.linear_model.Ridge", "n_classes": 3}, "predicts a number"),
        (PLAIN, {"name": "FTRLClassifier", "start_from": {"name": "sklearn.linear_model.Ridge"}}, "LogisticRegression"),
        (({"stage": "hash", "columns": STRINGS},), BOOSTERS[0], "at most 4096 slots"),
        (SEED, {"name": "sklearn.preprocessing.StandardScaler"}, "predicts nothing"),
    ],
)
def test_a_description_that_makes_no_sense_is_refused_with_a_hint(stages, estimator, said):
    """The same care for other libraries' parts as for our own."""
    with pytest.raises(ProjectError, match=said):
        PipelineModel.build(settings(stages, estimator), SCHEMA)


@pytest.mark.parametrize("estimator", BOOSTERS, ids=str)
def test_a_missing_booster_says_what_to_install(estimator, monkeypatch):
    """They are extras; most flows never need them."""
    monkeypatch.setitem(sys.modules, estimator["name"].partition(".")[0], None)
    with pytest.raises(ProjectError, match=r"modelflow\[trees\]"):
        PipelineModel.build(settings(PLAIN, estimator), SCHEMA)


def test_the_same_fit_gives_the_same_bytes():
    """Packages are compared by digest."""
    for stages, estimator in ((SEED, LOGISTIC), (PLAIN, BOOSTERS[0]), (PLAIN, BOOSTERS[1])):
        first, second = (fitted(stages, estimator) for _ in range(2))
        assert first.to_onnx() == second.to_onnx()
        assert first.state_digest() == second.state_digest()

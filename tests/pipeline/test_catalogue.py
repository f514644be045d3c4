"""The catalogue says what a part did, also where that is less than the part declares."""

from dataclasses import asdict
from pathlib import Path

import pytest

from ml_core.pipeline.catalogue import components, trial
from ml_core.pipeline.estimator import ESTIMATORS
from ml_core.pipeline.stages import STAGES
from scripts.write_components import PAGE, page
from serving.components import catalogue


def test_it_holds_every_part_of_ours_and_those_of_installed_libraries() -> None:
    """By the names a project file gives them, each in one role."""
    found = components()
    names = [name for _, name in found]
    assert names[: len(STAGES) + len(ESTIMATORS)] == [*STAGES, *ESTIMATORS]
    assert len(set(names)) == len(names)
    assert {
        ("stage", "sklearn.preprocessing.StandardScaler"),
        ("classifier", "sklearn.ensemble.HistGradientBoostingClassifier"),
        ("regressor", "sklearn.linear_model.TweedieRegressor"),
        ("classifier", "lightgbm.LGBMClassifier"),
        ("regressor", "xgboost.XGBRegressor"),
    } <= set(found)


@pytest.mark.parametrize(
    ("role", "name", "increments", "resumes"),
    [
        ("stage", "onehot", "by row", True),
        ("classifier", "FMClassifier", "by row", True),
        ("regressor", "FTRLRegressor", "by row", True),
        ("stage", "sklearn.preprocessing.MaxAbsScaler", "by batch", True),
        ("classifier", "sklearn.linear_model.SGDClassifier", "by batch", True),
        ("classifier", "lightgbm.LGBMClassifier", "by batch", True),
        ("classifier", "sklearn.neural_network.MLPClassifier", "refit", False),
    ],
)
def test_a_part_is_tried_not_believed(role: str, name: str, increments: str, *, resumes: bool) -> None:
    """MLPClassifier declares partial_fit, but nothing of it can be kept between two versions."""
    tried = trial(role, name)
    assert (tried.refused, tried.increments, tried.resumes) == (None, increments, resumes)
    assert tried.model is not None


@pytest.mark.parametrize(
    ("role", "name", "reason"),
    [
        ("classifier", "sklearn.svm.LinearSVC", "predict_proba"),
        ("classifier", "sklearn.neighbors.KNeighborsClassifier", "cannot be exported"),
        ("stage", "sklearn.preprocessing.PowerTransformer", "skl2onnx cannot write it"),
    ],
)
def test_what_cannot_be_served_is_told_with_its_reason(role: str, name: str, reason: str) -> None:
    tried = trial(role, name)
    assert tried.model is None
    assert tried.refused is not None
    assert reason in tried.refused


def test_the_row_scorer_is_tried_too() -> None:
    (found,) = catalogue("FTRLClassifier")
    assert found.row_scorer
    (found,) = catalogue("BernoulliNB")
    assert not found.row_scorer
    assert asdict(found)["refused"] is None


@pytest.mark.slow
def test_the_page_is_what_a_new_try_says() -> None:
    assert Path(PAGE).read_text(encoding="utf-8") == page(catalogue())

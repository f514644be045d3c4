"""Pipelines with parts of other libraries: each stage and estimator that is promised, with what it needs around it."""

from ml_core.project import PipelineSettings
from tests.pipeline.examples import SCHEMA

NUMBERS, STRINGS = ["delay", "seats"], ["carrier", "tail"]
LOGISTIC = {"name": "sklearn.linear_model.LogisticRegression"}
FILLED = {"stage": "impute", "columns": NUMBERS, "indicator": False}
PLAIN = (
    {"stage": "passthrough", "columns": NUMBERS},
    {"stage": "onehot", "columns": STRINGS, "cap": 16},
)
SEED = (
    {"stage": "sklearn.preprocessing.StandardScaler", "columns": NUMBERS},
    {"stage": "sklearn.preprocessing.OneHotEncoder", "columns": STRINGS},
)
FROZEN_SEED = tuple(stage | {"policy": "frozen"} for stage in SEED)


def _numbers(name: str, *, filled: bool = False, **parameters: object) -> tuple[dict[str, object], ...]:
    stage = {"stage": f"sklearn.{name}", "columns": NUMBERS, **parameters}
    return (FILLED, stage) if filled else (stage,)


TRANSFORMERS = {
    "StandardScaler": _numbers("preprocessing.StandardScaler"),
    "MinMaxScaler": _numbers("preprocessing.MinMaxScaler"),
    "MaxAbsScaler": _numbers("preprocessing.MaxAbsScaler"),
    "RobustScaler": _numbers("preprocessing.RobustScaler"),
    "Normalizer": _numbers("preprocessing.Normalizer", filled=True),
    "Binarizer": _numbers("preprocessing.Binarizer", filled=True),
    "KBinsDiscretizer": _numbers("preprocessing.KBinsDiscretizer", filled=True, encode="ordinal", n_bins=4),
    "PCA": _numbers("decomposition.PCA", filled=True),
    "IncrementalPCA": _numbers("decomposition.IncrementalPCA", filled=True),
    "TruncatedSVD": _numbers("decomposition.TruncatedSVD", filled=True, n_components=1, algorithm="arpack"),
    "VarianceThreshold": _numbers("feature_selection.VarianceThreshold"),
    "SelectKBest": _numbers("feature_selection.SelectKBest", filled=True, k=1),
    "OneHotEncoder": ({"stage": "sklearn.preprocessing.OneHotEncoder", "columns": STRINGS},),
    "OrdinalEncoder": ({"stage": "sklearn.preprocessing.OrdinalEncoder", "columns": STRINGS},),
    "TargetEncoder": ({"stage": "sklearn.preprocessing.TargetEncoder", "columns": STRINGS},),
}
CLASSIFIERS = {
    "LogisticRegression": LOGISTIC,
    "SGDClassifier": {"name": "sklearn.linear_model.SGDClassifier", "loss": "log_loss", "random_state": 0},
    "GaussianNB": {"name": "sklearn.naive_bayes.GaussianNB"},
    "BernoulliNB": {"name": "sklearn.naive_bayes.BernoulliNB"},
    "DecisionTreeClassifier": {"name": "sklearn.tree.DecisionTreeClassifier", "random_state": 0},
    "RandomForestClassifier": {
        "name": "sklearn.ensemble.RandomForestClassifier", "n_estimators": 20, "random_state": 0,
    },
    "ExtraTreesClassifier": {"name": "sklearn.ensemble.ExtraTreesClassifier", "n_estimators": 20, "random_state": 0},
    "GradientBoostingClassifier": {
        "name": "sklearn.ensemble.GradientBoostingClassifier", "n_estimators": 20, "random_state": 0,
    },
    "HistGradientBoostingClassifier": {
        "name": "sklearn.ensemble.HistGradientBoostingClassifier", "max_iter": 20, "random_state": 0,
    },
    "MLPClassifier": {"name": "sklearn.neural_network.MLPClassifier", "max_iter": 20, "random_state": 0},
    "LGBMClassifier": {"name": "lightgbm.LGBMClassifier", "n_estimators": 30},
    "XGBClassifier": {"name": "xgboost.XGBClassifier", "n_estimators": 30},
}  # fmt: skip
REGRESSORS = {
    "LinearRegression": {"name": "sklearn.linear_model.LinearRegression"},
    "Ridge": {"name": "sklearn.linear_model.Ridge"},
    "SGDRegressor": {"name": "sklearn.linear_model.SGDRegressor", "random_state": 0},
    "HuberRegressor": {"name": "sklearn.linear_model.HuberRegressor", "max_iter": 500},
    "DecisionTreeRegressor": {"name": "sklearn.tree.DecisionTreeRegressor", "random_state": 0},
    "RandomForestRegressor": {
        "name": "sklearn.ensemble.RandomForestRegressor", "n_estimators": 20, "random_state": 0,
    },
    "GradientBoostingRegressor": {
        "name": "sklearn.ensemble.GradientBoostingRegressor", "n_estimators": 20, "random_state": 0,
    },
    "HistGradientBoostingRegressor": {
        "name": "sklearn.ensemble.HistGradientBoostingRegressor", "max_iter": 20, "random_state": 0,
    },
    "LGBMRegressor": {"name": "lightgbm.LGBMRegressor", "n_estimators": 30},
    "XGBRegressor": {"name": "xgboost.XGBRegressor", "n_estimators": 30},
}  # fmt: skip


def settings(stages, estimator) -> PipelineSettings:
    """Return the settings of a pipeline."""
    return PipelineSettings(stages=stages, estimator=estimator)


__all__ = ["SCHEMA"]

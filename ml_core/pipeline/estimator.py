"""Which head a pipeline ends in, by the name and hyper-parameters the project file gives."""

from collections.abc import Mapping
from typing import Any

from ml_core.errors import InputError, ProjectError, nearest
from ml_core.learners import FMClassifier, FTRLClassifier, FTRLRegressor
from ml_core.learners.estimators import OnlineEstimator
from ml_core.pipeline.heads import BOOSTERS, ForeignHead, Head, OnlineHead

ESTIMATORS: Mapping[str, type[OnlineEstimator]] = {
    estimator.__name__: estimator for estimator in (FTRLClassifier, FTRLRegressor, FMClassifier)
}


def build_head(spec: Mapping[str, Any]) -> Head:
    """Build the head of a pipeline.

    Parameters
    ----------
    spec : mapping
        ``name``, one of ours or another library's dotted path; its hyper-parameters; for a classifier of more than two
        classes ``n_classes``; for a linear learner of ours maybe ``start_from``, the table of a linear model.

    Raises
    ------
    ProjectError
        The estimator or a parameter does not exist (the nearest one is given), or a value is out of range.
    """
    settings = dict(spec)
    name, n_classes = settings.pop("name", None), settings.pop("n_classes", 2)
    if not isinstance(n_classes, int) or n_classes < 2:  # noqa: PLR2004 - classes to tell apart
        raise ProjectError(f"pipeline.estimator: expected n_classes >= 2, found {n_classes!r}")
    if isinstance(name, str) and "." in name:
        head = BOOSTERS.get(name, ForeignHead)(name, settings, n_classes)
        if head.regressor and "n_classes" in spec:
            raise ProjectError(f"pipeline.estimator: {name} predicts a number and has no n_classes")
        return head
    if name not in ESTIMATORS:
        raise ProjectError(
            f"pipeline.estimator: no estimator {name!r}: {nearest(str(name), ESTIMATORS)} (an estimator of another"
            " library goes by its dotted path, such as sklearn.linear_model.LogisticRegression)"
        )
    return _online(str(name), settings, 0 if issubclass(ESTIMATORS[name], FTRLRegressor) else n_classes, spec)


def _online(name: str, settings: dict[str, Any], n_classes: int, spec: Mapping[str, Any]) -> OnlineHead:
    kind = ESTIMATORS[name]
    started = settings.pop("start_from", None) if kind is not FMClassifier else None
    valid = kind().get_params()
    if not n_classes and "n_classes" in spec:
        raise ProjectError(f"pipeline.estimator: {name} predicts a number and has no n_classes")
    for key in settings:
        if key not in valid:
            raise ProjectError(f"pipeline.estimator: {name} has no parameter {key!r}: {nearest(key, valid)}")
    estimator = kind(**settings)
    try:
        estimator.start(1, n_classes)
    except (InputError, TypeError, ValueError) as error:
        raise ProjectError(f"pipeline.estimator: {name}: {error}") from error
    return OnlineHead(estimator, n_classes, None if started is None else _linear(started, n_classes, name))


def _linear(spec: Any, n_classes: int, name: str) -> ForeignHead:
    """Build the batch model an online learner starts from."""
    settings = dict(spec) if isinstance(spec, Mapping) else {}
    path = settings.pop("name", None)
    model = ForeignHead(str(path), settings, n_classes or 2)
    if not model.linear or model.n_classes != n_classes:
        wanted = "LogisticRegression" if n_classes else "LinearRegression, Ridge, Lasso or SGDRegressor"
        raise ProjectError(f"pipeline.estimator: {name} can start from scikit-learn's {wanted}, found {path!r}")
    return model

"""Which learner a pipeline ends in, by the name and hyper-parameters the project file gives."""

from collections.abc import Mapping
from typing import Any

from ml_core.errors import InputError, ProjectError
from ml_core.learners import FMClassifier, FTRLClassifier, FTRLRegressor
from ml_core.learners.estimators import OnlineEstimator
from ml_core.project import nearest

ESTIMATORS: Mapping[str, type[OnlineEstimator]] = {
    estimator.__name__: estimator for estimator in (FTRLClassifier, FTRLRegressor, FMClassifier)
}


def build_estimator(spec: Mapping[str, Any]) -> tuple[OnlineEstimator, int]:
    """Build the estimator of a pipeline.

    Parameters
    ----------
    spec : mapping
        ``name``, hyper-parameters, and for a classifier of more than two classes ``n_classes``.

    Returns
    -------
    estimator : OnlineEstimator
    n_classes : int
        Labels are 0 .. n_classes - 1; 0 for a regressor.

    Raises
    ------
    ProjectError
        The estimator or a parameter does not exist (the nearest one is given), or a value is out of range.
    """
    settings = dict(spec)
    name = settings.pop("name", None)
    if name not in ESTIMATORS:
        raise ProjectError(f"pipeline.estimator: no estimator {name!r}: {nearest(str(name), ESTIMATORS)}")
    regressor = issubclass(ESTIMATORS[name], FTRLRegressor)
    n_classes = 0 if regressor else settings.pop("n_classes", 2)
    valid = ESTIMATORS[name]().get_params()
    for key in settings:
        if key not in valid:
            raise ProjectError(f"pipeline.estimator: {name} has no parameter {key!r}: {nearest(key, valid)}")
    if not regressor and (not isinstance(n_classes, int) or n_classes < 2):  # noqa: PLR2004 - classes to tell apart
        raise ProjectError(f"pipeline.estimator: expected n_classes >= 2, found {n_classes!r}")
    estimator = ESTIMATORS[name](**settings)
    try:
        estimator.start(1, n_classes)
    except (InputError, TypeError, ValueError) as error:
        raise ProjectError(f"pipeline.estimator: {name}: {error}") from error
    return estimator, n_classes

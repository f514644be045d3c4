"""scikit-learn's own estimator checks over every learner, and the few a learner in row order cannot pass."""

from sklearn.utils.estimator_checks import parametrize_with_checks

import ml_core.learners
from ml_core.learners import FTRLRegressor

_ORDER = "rows are learned in order, and the check compares two orders of the same rows"


def _expected_failures(estimator):
    failures = {
        "check_sample_weight_equivalence_on_dense_data": _ORDER,
        "check_sample_weight_equivalence_on_sparse_data": _ORDER,
    }
    if isinstance(estimator, FTRLRegressor):
        failures["check_regressors_train"] = (
            "the check takes `alpha` for a penalty and sets it to 0.01; here it is the learning rate"
        )
    return failures


@parametrize_with_checks(
    [getattr(ml_core.learners, name)() for name in ml_core.learners.__all__],
    expected_failed_checks=_expected_failures,
)
def test_a_learner_is_a_scikit_learn_estimator(estimator, check):
    """Pipelines, searches and clones of other people rely on this contract."""
    check(estimator)

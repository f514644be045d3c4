"""Online learners with scikit-learn's interface, one family per file."""

from ml_core.learners.ftrl import FTRLClassifier, FTRLRegressor

__all__ = ["FTRLClassifier", "FTRLRegressor"]

"""Online learners with scikit-learn's interface, one family per file."""

from ml_core.learners.fm import FMClassifier
from ml_core.learners.ftrl import FTRLClassifier, FTRLRegressor

__all__ = ["FMClassifier", "FTRLClassifier", "FTRLRegressor"]

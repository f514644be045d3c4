"""Online learners with scikit-learn's interface, one algorithm per file."""

from ml_core.learners.ftrl import FTRLClassifier

__all__ = ["FTRLClassifier"]

"""Scoring without the graph: what a linear pipeline's graph says, said in a microsecond, and proved against it."""

from serving.scorer.expression import NotCoveredError
from serving.scorer.proof import Scorers, prove_scorers, read_scorers
from serving.scorer.unread import Unread

__all__ = ["NotCoveredError", "Scorers", "Unread", "prove_scorers", "read_scorers"]

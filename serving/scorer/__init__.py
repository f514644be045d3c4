"""Scoring without the graph: what a linear pipeline's graph says, said in a microsecond, and proved against it."""

from serving.scorer.expression import NotCoveredError
from serving.scorer.proof import prove_scorer
from serving.scorer.row import RowScorer

__all__ = ["NotCoveredError", "RowScorer", "prove_scorer"]

"""Training: from examples to published versions, and the judgement that decides which of them is served.

`train_full` learns a window from scratch, `train_increment` continues the head of the flow, `judge_and_promote`
lets the gate decide, `settle` brings a version that was overtaken up to the head first, and
`roll_back_if_worse` looks at the labels that follow. `increment_due` is the sensor's question as a pure function.
"""

from ml_core.training.due import Due, increment_due
from ml_core.training.evaluation import Evaluation, ScoredSlice
from ml_core.training.full import train_full
from ml_core.training.gate import judge_and_promote
from ml_core.training.incremental import train_increment
from ml_core.training.live import roll_back_if_worse
from ml_core.training.rebasing import settle

__all__ = [
    "Due",
    "Evaluation",
    "ScoredSlice",
    "increment_due",
    "judge_and_promote",
    "roll_back_if_worse",
    "settle",
    "train_full",
    "train_increment",
]

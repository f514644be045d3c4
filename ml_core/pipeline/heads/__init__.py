"""What a pipeline ends in: an online learner of ours, an estimator of another library, or a booster."""

from ml_core.pipeline.heads.base import Head
from ml_core.pipeline.heads.boosted import BOOSTERS, BoostedHead
from ml_core.pipeline.heads.foreign import ForeignHead
from ml_core.pipeline.heads.online import OnlineHead

__all__ = ["BOOSTERS", "BoostedHead", "ForeignHead", "Head", "OnlineHead"]

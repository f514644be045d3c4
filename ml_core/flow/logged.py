"""What a prediction log looks like: agreed between the predictors that write it and whoever reads it later."""

from typing import Final

SUFFIX: Final = ".parquet"
LIVE: Final = "live.json"
"""Beside the log: how versions did by the labels known so far."""

SERVED: Final = "served"
CANARY: Final = "canary"
SHADOW: Final = "shadow"
STREAMED: Final = "streamed"
"""The roles of a row; the last one was answered by weights that no registry ever held."""

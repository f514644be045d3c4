"""The predictor: scores rows with the current model and follows the flow in the background.

The current model is one reference, read once per call and swapped as a whole, so a prediction takes no lock and all
scores of a call come from one version. Prediction is pure. Whatever the follower is doing, loading or failing, the
model in the reference keeps answering.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ml_core.errors import NotReadyError
from ml_core.flow.read import ModelAddress
from serving.follower import Follower, ServedModel
from serving.rows import columns_of, feed_of

DEFAULT_TRACKING_URI = "http://127.0.0.1:5000"


@dataclass(frozen=True, slots=True)
class Prediction:
    """One answer.

    Attributes
    ----------
    score : float
        P(label = 1).
    version : int
        The version that gave it.
    """

    score: float
    version: int


@dataclass(frozen=True, slots=True)
class Predictions:
    """The answers to one call, all of one version.

    Attributes
    ----------
    scores : ndarray of float32, shape (n_rows,)
    version : int
    """

    scores: NDArray[np.float32]
    version: int


class LocalPredictor:
    """A predictor inside the caller's own process.

    Parameters
    ----------
    uri : str
        ``models:/<flow>/Production``, ``models:/<flow>@champion`` or ``models:/<flow>/<number>``; a number is never
        followed.
    tracking_uri : str
        The MLflow registry.
    poll_interval_s : float
        Seconds between two looks at the registry.
    cache : Path, optional
        Where the last good package is kept, so that a start with the registry down can serve at once.

    Raises
    ------
    ModelFlowError
        No version could be loaded and none is cached; see `ml_core.errors`.
    """

    def __init__(
        self,
        uri: str,
        *,
        tracking_uri: str = DEFAULT_TRACKING_URI,
        poll_interval_s: float = 1.0,
        cache: Path | None = None,
    ) -> None:
        self.follower = Follower(
            ModelAddress.parse(uri), tracking_uri=tracking_uri, poll_interval_s=poll_interval_s, cache=cache
        )
        self.follower.load_first()
        self.follower.start()

    @property
    def version(self) -> int:
        """The version that answers now."""
        return self._current().version

    def predict(self, row: Mapping[str, Any]) -> Prediction:
        """Score one raw row, column name to value; raise InputError when it does not fit the signature."""
        model = self._current()
        columns = {name: [value] for name, value in row.items()}
        return Prediction(float(model.score(feed_of(columns, model.signature))[0]), model.version)

    def predict_batch(self, rows: Sequence[Mapping[str, Any]] | Mapping[str, Any] | Any) -> Predictions:
        """Score many rows: a sequence of rows, a mapping of columns, or an Arrow table."""
        model = self._current()
        return Predictions(model.score(feed_of(columns_of(rows), model.signature)), model.version)

    def close(self) -> None:
        """Stop following."""
        self.follower.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _current(self) -> ServedModel:
        model = self.follower.current
        if model is None:
            raise NotReadyError("no verified model is loaded yet; the follower's state says why")
        return model

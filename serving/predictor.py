"""The predictor: scores rows with the current model and follows the flow in the background.

The current model is one reference, read once per call and swapped as a whole, so a prediction takes no lock and all
scores of a call come from one version. Prediction is pure. Whatever the follower is doing, loading or failing, the
model in the reference keeps answering.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ml_core.errors import InputError, NotReadyError
from serving.addresses import follower_of
from serving.following import FollowerSettings
from serving.model import ServedModel
from serving.settings import default_tracking_uri


class Prediction(NamedTuple):
    """One answer.

    Attributes
    ----------
    score : float or tuple of float
        P(label = 1), or the number predicted; with more classes than two the probability of each.
    version : int
        The version that gave it.
    """

    score: float | tuple[float, ...]
    version: int


_answer = tuple.__new__  # what `Prediction(...)` does, in half the time


@dataclass(frozen=True, slots=True)
class Predictions:
    """The answers to one call, all of one version.

    Attributes
    ----------
    scores : ndarray of float32, shape (n_rows,) or (n_rows, n_classes)
    version : int
    """

    scores: NDArray[np.float32]
    version: int


class LocalPredictor:
    """A predictor inside the caller's own process; any number of them, in any number of threads.

    Parameters
    ----------
    uri : str
        ``models:/<flow>/Production``, ``models:/<flow>@champion`` or ``models:/<flow>/<number>``; a number is loaded
        once and never followed. Or ``kafka://host:port/<flow>.model``, the weights a resident learner streams.
    tracking_uri : str, optional
        The MLflow registry; by default ``MLFLOW_TRACKING_URI``, or ``http://127.0.0.1:5000``.
    poll_interval_s : float
        Seconds between two looks at the registry.
    cache : Path, optional
        A folder of its own for the last good package, so that a start with the registry down serves at once.
    accept_new_signature, refuse_extra : bool
        See `serving.follower.FollowerSettings`.

    Raises
    ------
    NotReadyError
        No version could be loaded and none is cached; the message says why.

    Examples
    --------
    >>> with LocalPredictor("models:/flight_delays/Production") as predictor:  # doctest: +SKIP
    ...     score, version = predictor.predict({"carrier": "UA", "origin_delay_3h": 12.0})
    """

    def __init__(
        self,
        uri: str,
        *,
        tracking_uri: str | None = None,
        poll_interval_s: float = 1.0,
        cache: Path | None = None,
        accept_new_signature: bool = False,
        refuse_extra: bool = False,
    ) -> None:
        settings = FollowerSettings(
            poll_interval_s=poll_interval_s,
            cache=cache,
            accept_new_signature=accept_new_signature,
            refuse_extra=refuse_extra,
        )
        self.follower = follower_of(uri, tracking_uri or default_tracking_uri(), settings=settings)
        try:
            self.follower.load_first()
        except NotReadyError:
            self.follower.stop()
            raise
        self.follower.start()

    @property
    def served(self) -> ServedModel:
        """The model that answers now; raise NotReadyError where there is none."""
        return self._current()

    @property
    def version(self) -> int:
        """The version that answers now."""
        return self._current().version

    @property
    def signature(self) -> Mapping[str, str]:
        """The raw columns a row needs, each ``string`` or ``float``."""
        return self._current().signature

    def predict(self, row: Mapping[str, Any]) -> Prediction:
        """Score one raw row, column name to value; raise InputError when it does not fit the signature."""
        model = self.follower.current or self._current()
        return _answer(Prediction, (model.score_row(row), model.version))

    def predict_batch(
        self, rows: Sequence[Mapping[str, Any]] | Mapping[str, Any] | pa.Table | pa.RecordBatch
    ) -> Predictions:
        """Score many rows, all by one version.

        Parameters
        ----------
        rows : sequence of mappings, mapping of columns, pyarrow.Table or pyarrow.RecordBatch
            Columns may be lists, NumPy arrays or Arrow arrays.

        Raises
        ------
        InputError
            Names the row and the column that do not fit.
        """
        model = self._current()
        if isinstance(rows, pa.Table | pa.RecordBatch):
            scores = model.score_columns(dict(zip(rows.schema.names, rows.columns, strict=True)))
        elif isinstance(rows, Mapping):
            scores = model.score_columns(rows)
        elif isinstance(rows, Sequence) and all(isinstance(row, Mapping) for row in rows):
            scores = model.score(model.rows.records(rows))
        else:
            raise InputError(f"expected rows, columns or an Arrow table, found {type(rows).__name__}")
        return Predictions(scores, model.version)

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
            raise NotReadyError(f"{self.follower.address.flow}: no verified model is loaded yet")
        return model

"""A streamed model as one that may be served: its weights bound to a session as inputs, and proved.

A streamed model is a graph without its numbers and the numbers by themselves (`ml_core.flow.topic`), so new weights
need no new session: they come in as inputs. A publication has to say of the learner's golden rows what the learner
said, through the session and the way rows really take.
"""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import numpy as np
import onnxruntime

from ml_core.errors import PackageError
from ml_core.flow.package import TOLERANCE, distance
from ml_core.flow.read import VersionRef
from ml_core.flow.topic import StreamedModel
from serving.model import ServedModel
from serving.packing import open_session, packed_graph
from serving.rows import RowReader

STAGE: Final = "Stream"
_TAGS: Final = ("kind", "parent", "trained_through", "feature_fingerprint")


class Binder:
    """Makes served models of one topic's publications; those of one skeleton share a session.

    Parameters
    ----------
    flow, topic : str
    refuse_extra : bool
        As for `serving.rows.RowReader`.
    """

    def __init__(self, flow: str, topic: str, *, refuse_extra: bool = False) -> None:
        self._flow, self._topic, self._refuse_extra = flow, topic, refuse_extra
        self._opened: tuple[bytes, str, onnxruntime.InferenceSession, RowReader] | None = None

    def proved(self, model: StreamedModel, *, loaded_at: datetime) -> ServedModel:
        """Return a publication as a served model; its version is the publication's number.

        Raises
        ------
        PackageError
            It does not score the golden rows as the learner did.
        """
        described = model.described
        session, rows = self._session_of(model.skeleton, described["signature"])
        tags = {name: str(described[name]) for name in _TAGS}
        tags |= {"manifest_sha256": model.digest, "watermark": json.dumps({"examples": described["watermark"]})}
        ref = VersionRef(self._flow, model.sequence, STAGE, self._topic, tags)
        served = ServedModel(ref, session, rows, loaded_at, parameters=model.parameters)
        golden: Mapping[str, Any] = described["golden"]
        found = served.score(rows.columns({name: golden[name] for name in rows.signature}))
        worst = distance(found, np.array(model.golden_scores))
        if not worst <= TOLERANCE:
            raise PackageError(
                f"publication {model.sequence}: expected the learner's scores of its golden rows within {TOLERANCE},"
                f" found one {worst:.3g} away"
            )
        return served

    def _session_of(
        self, skeleton: bytes, signature: Mapping[str, str]
    ) -> tuple[onnxruntime.InferenceSession, RowReader]:
        """Return the session of a skeleton, the one there is while it stays the same."""
        columns = json.dumps(signature)
        if self._opened is None or self._opened[:2] != (skeleton, columns):
            rows = RowReader(signature, refuse_extra=self._refuse_extra)
            self._opened = (skeleton, columns, open_session(packed_graph(skeleton, signature)), rows)
        return self._opened[2], self._opened[3]

"""One verified version in memory: immutable, and the only thing that scores.

A package becomes a `ServedModel` only through `prove`: manifest and digests, signature, golden rows, by the graph as it
was published and as it is served, and rows of nulls. Scoring is pure, so any number of threads may share a model.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from ml_core.errors import InputError, PackageError
from ml_core.flow.package import GOLDEN, GRAPH, TOLERANCE, distance, verify_package
from ml_core.flow.read import VersionRef
from serving.packing import open_session, packed_graph
from serving.rows import Feed, RowReader
from serving.scorer import Scorers, Unread, prove_scorers

_WARM_UP_ROWS = (1, 64)
_OUTPUTS = ["score"]
_MANY_ROWS = 256  # below, the graph's way costs less than a few array operations a column


@dataclass(frozen=True, slots=True, weakref_slot=True)
class ServedModel:
    """A verified version, as all requests that began while it was current see it.

    Attributes
    ----------
    ref : VersionRef
        Where it came from, and its tags.
    rows : RowReader
        Reads what callers send into the graph's inputs.
    loaded_at : datetime
    from_cache : bool
        Whether it came from the local cache while the registry could not give it.
    scorers : Scorers or None
        Say what the graph says of a row or of columns, much faster; None where it is not a sum over columns.
    parameters : mapping of str to ndarray, or None
        The numbers of a streamed model, bound to its graph's inputs with every call.
    """

    ref: VersionRef
    session: onnxruntime.InferenceSession
    rows: RowReader
    loaded_at: datetime
    from_cache: bool = False
    scorers: Scorers | None = None
    parameters: Mapping[str, NDArray[Any]] | None = None

    @property
    def version(self) -> int:
        """The version's number."""
        return self.ref.version

    @property
    def signature(self) -> Mapping[str, str]:
        """The raw columns it takes, in order, each ``string`` or ``float``."""
        return self.rows.signature

    @property
    def by_bytes(self) -> bool:
        """Whether columns may stay unread (`serving.scorer.unread`): their strings are found by their bytes."""
        return self.scorers is not None and self.scorers.columns.by_bytes and not self.rows.refuse_extra

    @property
    def trained_through(self) -> datetime | None:
        """When the newest example it has learned became known; None where its tags do not say."""
        told = self.ref.tags.get("trained_through")
        try:
            through = datetime.fromisoformat(told) if told else None
        except ValueError:
            return None
        return through if through is None or through.tzinfo else through.replace(tzinfo=UTC)

    def score(self, feed: Feed) -> NDArray[np.float32]:
        """Return the score of each row, shape (n_rows,), or (n_rows, n_classes) for more classes than two.

        Raises
        ------
        InputError
            A row has no finite score, or a string that is not valid Unicode.
        """
        if not next(iter(feed.values())).shape[1]:
            return np.empty(0, np.float32)
        inputs = feed if self.parameters is None else {**feed, **self.parameters}
        try:
            scores: NDArray[np.float32] = self.session.run(_OUTPUTS, inputs)[0]
        except UnicodeEncodeError as error:
            raise InputError(f"expected valid Unicode in every string, found {error.object[:40]!a}") from error
        finite = np.isfinite(scores)
        if np.count_nonzero(finite) != scores.size:
            row = int(np.argmin(finite.reshape(len(scores), -1).all(axis=1)))
            raise InputError(f"row {row}: its numbers are so large that the model has no finite score for it", row=row)
        return scores

    def score_row(self, row: Mapping[str, Any]) -> float | tuple[float, ...]:
        """Return the score of one raw row, for more classes than two one each; raise as `score` does.

        The scorer's answer and the graph's lie within 1e-6 of each other.
        """
        if self.scorers is not None:
            score = self.scorers.row.score(row)
            if score is not None:
                return score
        answer = self.score(self.rows.records((row,)))[0]
        return float(answer) if answer.ndim == 0 else tuple(answer.tolist())

    def score_columns(self, columns: Mapping[str, Any]) -> NDArray[np.float32]:
        """Return the score of each row of columns (lists, NumPy or Arrow arrays), shaped and raised as by `score`."""
        if self.scorers is not None and not self.rows.refuse_extra and _count(columns) >= _MANY_ROWS:
            scores = self.scorers.columns.score(columns)
            if scores is not None:
                return scores
        return self.score(self.rows.columns(columns))

    def described(self) -> dict[str, Any]:
        """Return what `/version` says."""
        tags = self.ref.tags
        return {
            "flow": self.ref.flow,
            "version": self.version,
            "stage": self.ref.stage,
            "kind": tags.get("kind"),
            "parent": int(tags["parent"]) if tags.get("parent") else None,
            "watermark": tags.get("watermark"),
            "trained_through": tags.get("trained_through"),
            "feature_fingerprint": tags.get("feature_fingerprint"),
            "manifest_sha256": self.ref.manifest_sha256,
            "loaded_at": self.loaded_at.isoformat(),
            "from_cache": self.from_cache,
            "row_scorer": self.scorers is not None,
        }


def _count(columns: Mapping[str, Any]) -> int:
    return columns.rows if isinstance(columns, Unread) else len(next(iter(columns.values()), ()))


def prove(
    ref: VersionRef, directory: Path, *, loaded_at: datetime, from_cache: bool = False, refuse_extra: bool = False
) -> ServedModel:
    """Verify the package in `directory` and return it as a model that may be served; see also `warm_up`.

    Raises
    ------
    PackageError
        The package is not what the registry recorded, or the registry recorded no digest for it.
    """
    if ref.manifest_sha256 is None:
        raise PackageError(
            f"{ref.flow} version {ref.version}: expected the tag manifest_sha256, found none; only versions published"
            " by a flow are served"
        )
    package = verify_package(directory, expect_digest=ref.manifest_sha256, whole=False)
    outputs = [(node.name, node.type) for node in package.session.get_outputs()]
    if outputs != [(_OUTPUTS[0], "tensor(float)")]:
        raise PackageError(f"{directory / GRAPH}: expected the output score of floats and no other, found {outputs}")
    packed = packed_graph((directory / GRAPH).read_bytes(), package.signature)
    rows = RowReader(package.signature, refuse_extra=refuse_extra)
    model = ServedModel(ref, open_session(packed), rows, loaded_at, from_cache)
    golden = json.loads((directory / GOLDEN).read_text(encoding="utf-8"))
    _prove_golden(model, golden, directory / GOLDEN)
    return replace(model, scorers=prove_scorers(packed, rows, model.score, golden["rows"]))


def _prove_golden(model: ServedModel, golden: Mapping[str, Any], path: Path) -> None:
    """Hold the way rows really take, from a caller's values to a score, against the trainer's own scores."""
    found = model.score(model.rows.columns({name: golden["rows"][name] for name in model.signature}))
    worst = distance(found, np.array(golden["scores"]))
    if worst > TOLERANCE:
        raise PackageError(
            f"{path}: expected the golden scores within {TOLERANCE} as served, found one {worst:.3g} away"
        )


def warm_up(model: ServedModel) -> None:
    """Score rows of nulls, one and many, so that the first request finds everything allocated.

    Raises
    ------
    PackageError
        The graph has no finite score for a row of nulls, which every pipeline must have a policy for.
    """
    for rows in _WARM_UP_ROWS:
        try:
            model.score(model.rows.records([dict.fromkeys(model.signature)] * rows))
        except Exception as error:  # onnxruntime's errors have no base of their own
            raise PackageError(
                f"{model.ref.flow} version {model.version}: expected a finite score for a row of nulls, found: {error}"
            ) from error


def check_signature(served: ServedModel, model: ServedModel) -> None:
    """Raise PackageError when callers of the served model would be refused by the new one."""
    new = {name: kind for name, kind in model.signature.items() if served.signature.get(name) != kind}
    if new:
        raise PackageError(
            f"{model.ref.flow} version {model.version}: it needs columns that version {served.version} does not:"
            f" {new}; once callers send them, start with --accept-new-signature"
        )

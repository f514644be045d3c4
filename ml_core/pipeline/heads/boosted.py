"""A head that is a booster: LightGBM's or XGBoost's, continued by more trees, kept in the library's own text.

After every fit the booster is written as text and read back, and only that is scored, exported and continued; so what
was saved and loaded cannot differ from what was not. LightGBM's thresholds and leaves are rounded to float32 in that
text, which is the width both libraries' exchange formats have: the model is the rounded one, everywhere.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone

from ml_core.errors import StateError
from ml_core.pipeline.convert import write_booster
from ml_core.pipeline.graph import GraphWriter
from ml_core.pipeline.heads.base import Scores
from ml_core.pipeline.heads.foreign import ForeignHead
from ml_core.pipeline.library import float32_below, import_library
from ml_core.pipeline.parts import Parts, assembled

_THRESHOLDS = re.compile(r"^threshold=(.*)$", re.MULTILINE)
_LEAVES = re.compile(r"^leaf_value=(.*)$", re.MULTILINE)
# where each tree begins in the text; it no longer holds once numbers are rewritten, and is optional
_SIZES = re.compile(r"^tree_sizes=.*\n", re.MULTILINE)


class BoostedHead(ForeignHead):
    """A booster of LightGBM's or XGBoost's, by its scikit-learn class."""

    @property
    def kept(self) -> bool:
        return True

    @property
    def hindrance(self) -> str | None:
        return None

    @property
    def takes_missing(self) -> bool:
        return True

    def fit(self, rows: Any, targets: NDArray[np.float64]) -> None:
        self._check_classes(targets)
        self._grow(self._matrix(rows), targets, None)

    def arrays(self) -> dict[str, NDArray[Any]]:
        if self._fitted is None:
            return {}
        return {"text": np.frombuffer(self._text().encode(), np.uint8)}

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        self._fitted = self._read(arrays["text"].tobytes().decode()) if arrays else None

    def _continue(self, values: Any, targets: NDArray[np.float64]) -> None:
        self._check_classes(targets)
        self._grow(values, targets, self._read(self._text()))

    def _grow(self, values: Any, targets: NDArray[np.float64], before: Any) -> None:
        raise NotImplementedError

    def _text(self) -> str:
        raise NotImplementedError

    def _read(self, text: str) -> Any:
        raise NotImplementedError


class LightGBMHead(BoostedHead):
    """LightGBM; `_fitted` is its Booster."""

    def _grow(self, values: Any, targets: NDArray[np.float64], before: Any) -> None:
        grown = self._ask(lambda: clone(self._unfitted).fit(values, targets, init_model=before))
        self._fitted = self._read(_rounded(grown.booster_.model_to_string(num_iteration=-1)))

    def _text(self) -> str:
        return str(self._fitted.model_to_string(num_iteration=-1))

    def _read(self, text: str) -> Any:
        lightgbm = import_library("lightgbm", "pipeline.estimator")
        try:
            return lightgbm.Booster(model_str=text)
        except lightgbm.basic.LightGBMError as error:
            raise StateError(f"{self.name}: expected a model in LightGBM's text form: {error}") from error

    def _scores(self, values: Any) -> Scores:
        return np.asarray(self._fitted.predict(values, num_threads=1), np.float64)

    def _write(self, graph: GraphWriter, parts: Parts) -> bytes:
        rows = assembled(graph, parts)
        return self._finish(graph, write_booster(graph, "convert_lightgbm", self._fitted, rows, width=self._n_slots))


class XGBoostHead(BoostedHead):
    """XGBoost; `_fitted` is its scikit-learn model, whose state is a JSON text."""

    def _grow(self, values: Any, targets: NDArray[np.float64], before: Any) -> None:
        model = None if before is None else before.get_booster()
        grown = self._ask(lambda: clone(self._unfitted).fit(values, targets, xgb_model=model))
        self._fitted = self._read(grown.get_booster().save_raw("json").decode())

    def _text(self) -> str:
        return str(self._fitted.get_booster().save_raw("json").decode())

    def _read(self, text: str) -> Any:
        xgboost = import_library("xgboost", "pipeline.estimator")
        model = clone(self._unfitted)
        try:
            model.load_model(bytearray(text.encode()))
        except xgboost.core.XGBoostError as error:
            raise StateError(f"{self.name}: expected a model in XGBoost's JSON: {error}") from error
        # its converter counts classes by it
        return model.set_params(n_estimators=model.get_booster().num_boosted_rounds())

    def _write(self, graph: GraphWriter, parts: Parts) -> bytes:
        rows = graph.cast(graph.cast(assembled(graph, parts), np.float32), np.float64)  # as XGBoost itself does
        return self._finish(graph, write_booster(graph, "convert_xgboost", self._fitted, rows, width=self._n_slots))


BOOSTERS: Mapping[str, type[BoostedHead]] = {
    "lightgbm.LGBMClassifier": LightGBMHead,
    "lightgbm.LGBMRegressor": LightGBMHead,
    "xgboost.XGBClassifier": XGBoostHead,
    "xgboost.XGBRegressor": XGBoostHead,
}


def _rounded(text: str) -> str:
    """Return LightGBM's text with each threshold at the float32 below or at it, and leaves at the nearest one.

    A float32 lies on the same side of both thresholds; for any other number the rewritten model is the model.
    """
    text = _SIZES.sub("", text)
    text = _THRESHOLDS.sub(lambda line: f"threshold={_written(float32_below(_numbers(line[1])))}", text)
    return _LEAVES.sub(lambda line: f"leaf_value={_written(_numbers(line[1]).astype(np.float32))}", text)


def _numbers(line: str) -> NDArray[np.float64]:
    return np.array(line.split(), np.float64)


def _written(values: NDArray[np.float32]) -> str:
    return " ".join(repr(float(value)) for value in values)

"""Every stage and estimator that goes by a name here, with what each can do as tried, not as declared.

Each one is put into a small pipeline, fitted on made-up rows, written as a graph that is held against it, and where it
claims to learn on: taught more rows in one piece and in two, and once more after it was saved and read back. What the
table says is what happened on this machine, under the releases installed here.
"""

import importlib
import warnings
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import pyarrow as pa
from sklearn.base import BaseEstimator
from sklearn.utils import all_estimators

from ml_core.errors import ModelFlowError
from ml_core.pipeline.estimator import ESTIMATORS
from ml_core.pipeline.model import PipelineModel
from ml_core.pipeline.rehearsal import made_up_labels, made_up_rows, rehearse
from ml_core.pipeline.stages import STAGES
from ml_core.project import PipelineSettings

NUMBERS: Final = ["x", "y"]
STRINGS: Final = ["s", "t"]
SCHEMA: Final = dict.fromkeys(STRINGS, "string") | dict.fromkeys(NUMBERS, "float")
_FILLED: Final = {"stage": "impute", "columns": NUMBERS, "indicator": False}
_PLAIN: Final = {"stage": "passthrough", "columns": NUMBERS}
_AROUND: Final = ({"stage": "onehot", "columns": STRINGS, "cap": 8}, _FILLED, _PLAIN)
_LEARNER: Final = {"name": "FTRLClassifier"}
_FITTED_ON: Final = 160
_CUTS: Final = (167, 180, 200, 220, 233)  # what depends on the cut may agree in one place by luck

# What a stage of ours has to be told.
_OURS: Final[Mapping[str, Mapping[str, Any]]] = {
    "hash": {"columns": STRINGS, "bits": 8},
    "onehot": {"columns": STRINGS, "cap": 16},
    "cross": {"pairs": [STRINGS], "bits": 8},
    "bucketize": {"boundaries": {"x": [1.0, 3.0]}},
    "clip": {"columns": NUMBERS, "low": {"x": 0.5}, "high": {"x": 5.0}},
}
# What another library's part has to be told before it can be served, with the reason beside it.
_TOLD: Final[Mapping[str, Mapping[str, Any]]] = {
    "sklearn.linear_model.SGDClassifier": {"loss": "log_loss"},  # its default has no probabilities
    "sklearn.preprocessing.KBinsDiscretizer": {"encode": "ordinal"},  # its default makes a sparse matrix
    "sklearn.decomposition.TruncatedSVD": {"n_components": 1},  # its default wants more columns than are tried
    "sklearn.feature_selection.SelectKBest": {"k": 1},  # likewise
    "sklearn.preprocessing.QuantileTransformer": {"n_quantiles": 20},  # its default of 1,000 takes minutes to write
}


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of trying one part.

    Attributes
    ----------
    name : str
        As a project file gives it.
    role : str
        ``stage``, ``classifier`` or ``regressor``.
    told : mapping
        Parameters it was tried with; all others are its own defaults.
    refused : str or None
        Why it cannot be served: it could not be fitted, or not be written as a graph that scores alike.
    increments : str
        ``by row`` where any split of new rows gave the same bits, ``by batch`` where it learned them, ``refit``.
    resumes : bool
        Whether it went on to the same bits after it was saved and read back.
    model : PipelineModel or None
        The fitted pipeline it was tried in; None where it is refused.
    """

    name: str
    role: str
    told: Mapping[str, Any]
    refused: str | None = None
    increments: str = "refit"
    resumes: bool = False
    model: PipelineModel | None = None


def components() -> list[tuple[str, str]]:
    """Return the role and name of everything there is to try: ours, then other libraries' in alphabetical order.

    Of other libraries: scikit-learn's own list, and what installed packages that name it as a requirement offer at
    their top.
    """
    ours = [("stage", name) for name in STAGES]
    ours += [("regressor" if "Regressor" in name else "classifier", name) for name in ESTIMATORS]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some are on their way out
        found = {_path(kind): kind for _, kind in all_estimators()}
        for module in _compatible():
            found |= {
                f"{module.__name__}.{name}": kind
                for name, kind in vars(module).items()
                if isinstance(kind, type) and issubclass(kind, BaseEstimator) and not name.startswith("_")
            }
        return ours + sorted((role, path) for path, kind in found.items() if (role := _role(kind)))


def trial(role: str, name: str) -> Trial:
    """Try one part: fit it, write it, teach it more and stop and start it."""
    told = _TOLD.get(name, {})
    tried, refused = Trial(name, role, told), None
    for settings in _pipelines(role, name, told):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return _learned(tried, settings)
        except ModelFlowError as error:
            refused = refused or error
    return replace(tried, refused=str(refused))


def _pipelines(role: str, name: str, told: Mapping[str, Any]) -> Iterator[PipelineSettings]:
    """Yield the pipelines to try a part in, one after the other until one takes it."""
    if role != "stage":
        n_classes = {"n_classes": 2} if role == "classifier" else {}
        yield PipelineSettings(stages=_AROUND, estimator={"name": name, **told, **n_classes})
    elif "." in name:
        for before, columns in (((), NUMBERS), ((_FILLED,), NUMBERS), ((), STRINGS)):
            stages = (*before, {"stage": name, "columns": columns, **told}, _PLAIN)
            yield PipelineSettings(stages=stages, estimator=_LEARNER)
    else:
        spec = _OURS.get(name, {"columns": NUMBERS})
        yield PipelineSettings(stages=({"stage": name, **spec}, _PLAIN), estimator=_LEARNER)


def _learned(tried: Trial, settings: PipelineSettings) -> Trial:
    untrained = PipelineModel(settings, SCHEMA)
    rehearse(untrained)
    rows, labels = made_up_rows(untrained.signature), made_up_labels(untrained.n_classes)
    fit = partial(_fitted, settings, rows, labels)
    tried = replace(tried, model=fit())
    if untrained.hindrance is not None:
        return tried
    with suppress(ModelFlowError):  # it learns nothing from new rows alone, whatever it declares
        whole = _taught(fit(), rows, labels, _FITTED_ON, rows.num_rows)
        digest, ways = whole.state_digest(), set()
        for cut in _CUTS:
            parts = _taught(fit(), rows, labels, _FITTED_ON, cut)
            ways.add(_taught(parts, rows, labels, cut, rows.num_rows).state_digest())
        again = _taught(_reread(fit(), settings), rows, labels, _FITTED_ON, rows.num_rows)
        increments = "by row" if ways == {digest} else "by batch"
        return replace(tried, increments=increments, resumes=digest == again.state_digest())
    return tried


def _fitted(settings: PipelineSettings, rows: pa.Table, labels: Any) -> PipelineModel:
    return PipelineModel(settings, SCHEMA).fit(rows.slice(0, _FITTED_ON), labels[:_FITTED_ON])


def _taught(model: PipelineModel, rows: pa.Table, labels: Any, start: int, stop: int) -> PipelineModel:
    model.learn(rows.slice(start, stop - start), labels[start:stop])
    return model


def _reread(model: PipelineModel, settings: PipelineSettings) -> PipelineModel:
    with TemporaryDirectory() as folder:
        model.save(Path(folder))
        return PipelineModel.load(Path(folder), settings)


def _path(kind: type) -> str:
    """Return the shortest dotted path a class is found under."""
    parts = kind.__module__.split(".")
    for length in range(2, len(parts)):
        module = ".".join(parts[:length])
        if getattr(importlib.import_module(module), kind.__name__, None) is kind:
            return f"{module}.{kind.__name__}"
    return f"{kind.__module__}.{kind.__name__}"


def _role(kind: type) -> str | None:
    """Return what a class would be in a pipeline; None where it neither predicts nor transforms."""
    try:
        declared = kind().__sklearn_tags__().estimator_type
    except Exception:  # what cannot be made without arguments is no part of a project file  # noqa: BLE001
        return None
    if declared in {"classifier", "regressor"}:
        return str(declared)
    return "stage" if hasattr(kind, "transform") else None


def _compatible() -> Iterator[Any]:
    """Yield the top modules of installed packages that build on scikit-learn, as far as they can be imported."""
    for top, names in sorted(packages_distributions().items()):
        with suppress(ImportError, PackageNotFoundError):
            needs = [need for name in names for need in requires(name) or ()]
            if top != "sklearn" and any(need.startswith("scikit-learn") for need in needs):
                yield importlib.import_module(top)

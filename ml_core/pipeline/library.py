"""Transformers and estimators of other libraries: found by their dotted path, and kept without pickle.

Only classes with scikit-learn's interface are taken. What a fitted one of `KEPT` knows, numbers, strings, arrays and
lists of them, is written as JSON and arrays and read back bit for bit; a class that holds anything else cannot be
written, and says so. Under another release of its library a state is not read at all: private attributes change.
"""

import importlib
import inspect
import json
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone

from ml_core.errors import InputError, ProjectError, StateError, nearest
from ml_core.pipeline.state import Arrays

KEPT = frozenset({
    "sklearn.decomposition.IncrementalPCA",
    "sklearn.decomposition.PCA",
    "sklearn.decomposition.TruncatedSVD",
    "sklearn.feature_selection.VarianceThreshold",
    "sklearn.linear_model.ElasticNet",
    "sklearn.linear_model.Lasso",
    "sklearn.linear_model.LinearRegression",
    "sklearn.linear_model.LogisticRegression",
    "sklearn.linear_model.Ridge",
    "sklearn.linear_model.SGDClassifier",
    "sklearn.linear_model.SGDRegressor",
    "sklearn.naive_bayes.BernoulliNB",
    "sklearn.naive_bayes.GaussianNB",
    "sklearn.naive_bayes.MultinomialNB",
    "sklearn.preprocessing.Binarizer",
    "sklearn.preprocessing.MaxAbsScaler",
    "sklearn.preprocessing.MinMaxScaler",
    "sklearn.preprocessing.Normalizer",
    "sklearn.preprocessing.OneHotEncoder",
    "sklearn.preprocessing.OrdinalEncoder",
    "sklearn.preprocessing.RobustScaler",
    "sklearn.preprocessing.StandardScaler",
    "sklearn.preprocessing.TargetEncoder",
})  # fmt: skip
"""Classes whose fitted state is known to be numbers and strings; a test fits, keeps and compares each."""

# Where a library would refuse at serving what every predictor has to score.
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "sklearn.preprocessing.OneHotEncoder": {"handle_unknown": "ignore"},
    "sklearn.preprocessing.OrdinalEncoder": {"handle_unknown": "use_encoded_value", "unknown_value": -1},
    "lightgbm": {"n_jobs": 1, "deterministic": True, "force_row_wise": True, "verbose": -1},
    "xgboost": {"n_jobs": 1},
}
_EXTRAS = {"lightgbm": "trees", "xgboost": "trees", "onnxmltools": "trees"}
# What a fitted estimator holds beside its knowledge, and makes anew from its parameters when it learns on.
_MADE_ANEW = frozenset({"_loss_function_"})


def import_library(name: str, where: str) -> Any:
    """Import a module; raise ProjectError saying what to install where it is missing."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        root = name.partition(".")[0]
        hint = f"pip install 'modelflow[{_EXTRAS[root]}]'" if root in _EXTRAS else f"install the package of {root!r}"
        raise ProjectError(f"{where}: expected the module {name!r}, found {error}: {hint}") from error


def make(path: str, parameters: Mapping[str, Any], where: str) -> Any:
    """Make an unfitted transformer or estimator.

    Parameters
    ----------
    path : str
        Its dotted path, such as ``sklearn.preprocessing.StandardScaler``.
    parameters : mapping
        Its own parameters, as TOML gives them.
    where : str
        Named in errors.

    Raises
    ------
    ProjectError
        The library, the class or a parameter does not exist; what to install or the nearest name is given.
    """
    module, _, name = path.rpartition(".")
    found = getattr(import_library(module, where), name, None)
    if found is None:
        public = [each for each in dir(importlib.import_module(module)) if each[:1].isupper()]
        raise ProjectError(f"{where}: {module!r} has no {name!r}: {nearest(name, public)}")
    if not (inspect.isclass(found) and issubclass(found, BaseEstimator)):
        raise ProjectError(f"{where}: expected a class with scikit-learn's interface, found {path!r}")
    defaults = dict(_DEFAULTS.get(module.partition(".")[0], {})) | dict(_DEFAULTS.get(path, {}))
    try:
        known: dict[str, Any] = found().get_params()  # type: ignore[attr-defined]  # scikit-learn ships no types
    except TypeError as error:
        raise ProjectError(f"{where}: {path!r} cannot be described in a project file: {error}") from error
    # LightGBM and XGBoost pass on parameters they do not name
    open_ended = any(each.kind is each.VAR_KEYWORD for each in inspect.signature(found).parameters.values())
    for key in parameters:
        if key not in known and not open_ended:
            raise ProjectError(f"{where}: {name} has no parameter {key!r}: {nearest(key, known)}")
    if known.get("random_state", 0) is None:
        defaults["random_state"] = 0  # the same rows make the same model
    settings = defaults | {key: _as_typed(value, known.get(key)) for key, value in parameters.items()}
    return found(**settings)


def release(path: str) -> str:
    """Return the library of a dotted path and its release, such as ``scikit-learn 1.9.0``."""
    root = path.partition(".")[0]
    distribution = {"sklearn": "scikit-learn"}.get(root, root)
    module = importlib.import_module(root)
    return f"{distribution} {getattr(module, '__version__', None) or version(distribution)}"


def ask(where: str, call: Callable[..., Any], *arguments: Any) -> Any:
    """Call a library; what it refuses is an input that does not fit.

    Raises
    ------
    InputError
        Instead of the library's ValueError; `where` is named.
    """
    try:
        return call(*arguments)
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error


def keep(fitted: Any) -> Arrays:
    """Return everything a fitted estimator learned, as arrays; JSON's bytes among them.

    Raises
    ------
    StateError
        It holds something that is neither a number nor a string nor made of those.
    """
    arrays: Arrays = {}
    learned = {
        name: _plain(value, arrays, f"{type(fitted).__name__}.{name}")
        for name, value in sorted(vars(fitted).items())
        if name not in fitted.get_params(deep=False) and name not in _MADE_ANEW
    }
    content = json.dumps(learned, sort_keys=True).encode()
    return {"json": np.frombuffer(content, np.uint8)} | arrays


def restore(unfitted: Any, arrays: Mapping[str, NDArray[Any]]) -> Any:
    """Return a fitted copy of `unfitted` that knows what `keep` wrote."""
    fitted = clone(unfitted)
    learned = json.loads(arrays["json"].tobytes())
    for name, value in learned.items():
        setattr(fitted, name, _read(value, arrays))
    return fitted


def float32_below(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return the greatest float32 at or below each number: a float32 lies on the same side of both."""
    closest = values.astype(np.float32)
    return np.where(closest.astype(np.float64) > values, np.nextafter(closest, np.float32(-np.inf)), closest)


def _plain(value: Any, arrays: Arrays, where: str) -> Any:
    """Return a value as JSON holds it, arrays by their place."""
    if value is None or type(value) in {bool, str, int, float}:
        return value
    if isinstance(value, np.generic):
        return {"scalar": _plain(np.asarray(value), arrays, where)}
    if isinstance(value, np.ndarray):
        if value.dtype == object:
            return {"objects": [_plain(item, arrays, where) for item in value.ravel()], "shape": list(value.shape)}
        place = str(len(arrays))
        arrays[place] = value if value.flags.f_contiguous else np.ascontiguousarray(value)
        return {"array": place, "fortran": bool(value.flags.f_contiguous and not value.flags.c_contiguous)}
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_plain(item, arrays, where) for item in value]}
    if isinstance(value, dict):
        pairs = [[_plain(key, arrays, where), _plain(item, arrays, where)] for key, item in value.items()]
        return {"dict": pairs}
    raise StateError(f"{where}: expected numbers and strings, found {type(value).__name__}; it cannot be kept")


def _read(value: Any, arrays: Mapping[str, NDArray[Any]]) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, content),) = [item for item in value.items() if item[0] not in {"shape", "fortran"}]
    if kind == "scalar":
        return _read(content, arrays)[()]
    if kind == "array":
        return np.asfortranarray(arrays[content]) if value["fortran"] else np.array(arrays[content])
    if kind == "objects":
        read = np.empty(len(content), object)
        read[:] = [_read(item, arrays) for item in content]
        return read.reshape(value["shape"])
    if kind == "dict":
        return {_read(key, arrays): _read(item, arrays) for key, item in content}
    items = [_read(item, arrays) for item in content]
    return tuple(items) if kind == "tuple" else items


def _as_typed(value: Any, default: Any) -> Any:
    """Return a TOML value as the parameter wants it: TOML has no tuples."""
    if isinstance(default, tuple) and isinstance(value, list | tuple):
        return tuple(value)
    return list(value) if isinstance(value, tuple) else value

"""One call to MLflow: bounded in time, tried again while its database is busy, failing with an error of our tree."""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from mlflow import MlflowClient
from mlflow.environment_variables import (
    MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR,
    MLFLOW_HTTP_REQUEST_MAX_RETRIES,
    MLFLOW_HTTP_REQUEST_TIMEOUT,
    MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT,
)
from mlflow.exceptions import MlflowException

from ml_core.disk import is_full, said
from ml_core.errors import DiskFullError, RegistryDownError, RegistryError, VersionNotFoundError

_TIMEOUT_S, _RETRIES = 30, 2
_BUSY_ATTEMPTS, _BUSY_PAUSE_S = 40, 0.05
# with basic auth a server denies what does not exist; and what may not be read, its asker cannot write either
_MISSING = {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "PERMISSION_DENIED"}
_Answer = TypeVar("_Answer")


class _Client(MlflowClient):
    """MLflow's client without a question it puts before every move: whether the model is a prompt.

    A flow is none, and to tell, the server loads every version it has.
    """

    def _raise_if_prompt(self, name: str) -> None:
        """Do not ask."""


class Asking:
    """A client of one MLflow registry that answers in time or fails in our own words."""

    def __init__(self, tracking_uri: str) -> None:
        # MLflow's defaults would block for minutes on a server that is gone
        for variable, value in (
            (MLFLOW_HTTP_REQUEST_TIMEOUT, _TIMEOUT_S),
            (MLFLOW_HTTP_REQUEST_MAX_RETRIES, _RETRIES),
            (MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR, False),
            (MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT, True),
        ):
            if not variable.is_set():  # type: ignore[no-untyped-call]  # MLflow ships no types for these two
                variable.set(value)  # type: ignore[no-untyped-call]
        self.tracking_uri = tracking_uri
        self.client = _Client(tracking_uri=tracking_uri, registry_uri=tracking_uri)

    def ask(self, call: Callable[[], _Answer], **missing: Any) -> _Answer | Any:
        """Make a call; `missing=...` is the answer for something that is not there, which is an error otherwise."""
        with self.reported():
            for attempt in range(_BUSY_ATTEMPTS):
                try:
                    return call()
                except MlflowException as error:
                    if error.error_code in _MISSING and "missing" in missing:
                        return missing["missing"]
                    if error.error_code != "TEMPORARILY_UNAVAILABLE" or attempt == _BUSY_ATTEMPTS - 1:
                        raise
                    time.sleep(_BUSY_PAUSE_S * random.uniform(0.5, 1.5))  # noqa: S311 - writers must not march in step
        raise AssertionError("the last attempt returns or raises")

    @contextmanager
    def reported(self) -> Iterator[None]:
        """Turn MLflow's one exception class into ours."""
        try:
            yield
        except (OSError, MlflowException) as error:
            if is_full(error):
                raise DiskFullError(
                    f"{self.tracking_uri}: expected room in the registry, found the disk full"
                    f" ({said(error)}). What is registered is whole: free some space (`modelflow"
                    " gc` lets old versions go), then run the same command again"
                ) from error
            if not isinstance(error, MlflowException):
                raise
            down = (
                error.error_code == "TEMPORARILY_UNAVAILABLE" or "Max retries" in str(error) or "refused" in str(error)
            )
            kind = RegistryDownError if down else RegistryError
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                kind = VersionNotFoundError
            raise kind(f"{self.tracking_uri}: {error}") from error

"""Every error Model Flow raises on purpose, in one tree.

ModelFlowError
├── ProjectError              dagster_project.toml or a file it names cannot be used
├── DataError
│   ├── SegmentError          a segment of the event log is malformed, or out of sequence
│   ├── SourceError           a table that facts are read from is missing, or does not hold what was declared
│   ├── FeatureError          features.sql failed, or broke its contract
│   └── StoreBusyError        another process held the feature store for too long     (retryable)
├── InputError (ValueError)   rows given to a model do not fit it
├── StateError                a saved trainer state does not fit this code or these hyper-parameters
├── ExportError               a pipeline cannot be written as an ONNX graph
├── PackageError              a model package is incomplete, altered, or fails its own golden rows
├── RegistryError
│   ├── RegistryDownError     the registry did not answer in time                     (retryable)
│   ├── VersionNotFoundError  no version stands where the model address points        (retryable)
│   ├── HeadMovedError        another producer advanced the flow first                (retryable)
│   └── FlowBusyError         another process is moving the flow's stages             (retryable)
├── PromotionError            a transition was asked for that the flow's rules forbid
├── NotReadyError             no verified model is loaded yet                         (retryable)
├── RequestError              a request to a predictor is refused before its rows are read
│   ├── UnauthorizedError     it carries no token, or none that is known here
│   ├── MediaTypeError        its body is of a kind that is not read here
│   ├── LimitError            it is larger than the predictor's limits allow
│   ├── LateRequestError      it did not arrive whole in time                         (retryable)
│   └── OverloadedError       too many requests are in flight                         (retryable)
├── StreamError               a topic is not what the flow needs, or was made anew
│   └── BrokerDownError       the broker did not answer in time                       (retryable)
├── DiskFullError             something could not be written, because there is no room     (retryable)
├── BackupError               a backup cannot be taken, is damaged, or its place is not empty
└── PlatformError             a process of the platform could not be started or kept

A message says what was expected, what was found, on which object, and what to do. There is no HTTP and no
Kafka in here: each transport maps these classes in a table of its own. A refused promotion is a `Verdict`,
not an error.
"""

import difflib
from collections.abc import Iterable
from typing import ClassVar


class ModelFlowError(Exception):
    """Root of the tree. `retryable` says whether the same call may succeed later without a change."""

    retryable: ClassVar[bool] = False


class ProjectError(ModelFlowError):
    """The project file, or a file it names, cannot be used."""


class DataError(ModelFlowError):
    """Facts, features or examples are not what the flow declares."""


class SegmentError(DataError):
    """A segment of the event log is malformed or out of sequence."""


class SourceError(DataError):
    """A table that facts are read from is missing, or does not hold what was declared of it."""


class FeatureError(DataError):
    """`features.sql` failed, or its result breaks the contract of a feature table."""


class StoreBusyError(DataError):
    """Another process held the feature store for longer than the wait allowed."""

    retryable = True


class InputError(ModelFlowError, ValueError):
    """Rows given to a model do not fit its signature; the model is unchanged.

    Attributes
    ----------
    column : str or None
        The raw column that does not fit, where it is one.
    row : int or None
        The index of the row that does not fit, where it is one.
    """

    def __init__(self, message: str, *, column: str | None = None, row: int | None = None) -> None:
        super().__init__(message)
        self.column = column
        self.row = row


class StateError(ModelFlowError):
    """A saved trainer state does not fit this code or these hyper-parameters."""


class ExportError(ModelFlowError):
    """A pipeline holds a stage that cannot be written as an ONNX graph."""


class PackageError(ModelFlowError):
    """A model package is incomplete or altered, or does not reproduce its own golden rows."""


class RegistryError(ModelFlowError):
    """The model registry refused a request or holds something unexpected."""


class RegistryDownError(RegistryError):
    """The registry did not answer in time."""

    retryable = True


class VersionNotFoundError(RegistryError):
    """No version stands where the model address points."""

    retryable = True


class HeadMovedError(RegistryError):
    """Another producer advanced the flow first; rebase onto the new head and try again."""

    retryable = True


class FlowBusyError(RegistryError):
    """Another process is moving the flow's stages; the same call may succeed a moment later."""

    retryable = True


class PromotionError(ModelFlowError):
    """A stage transition was asked for that the flow's rules forbid."""


class NotReadyError(ModelFlowError):
    """No verified model is loaded yet."""

    retryable = True


class RequestError(ModelFlowError):
    """A request to a predictor is refused before its rows are read."""


class UnauthorizedError(RequestError):
    """A request carries no token, or none that is known here."""


class MediaTypeError(RequestError):
    """A request's body is of a kind that is not read here."""


class LimitError(RequestError):
    """A request is larger than the predictor's limits allow."""


class LateRequestError(RequestError):
    """A request did not arrive whole in time."""

    retryable = True


class OverloadedError(RequestError):
    """Too many requests are in flight; the same one may be answered a moment later."""

    retryable = True


class StreamError(ModelFlowError):
    """A topic, or what it holds, is not what the flow needs; or the topic was deleted and made anew."""


class BrokerDownError(StreamError):
    """The broker did not answer in time."""

    retryable = True


class BackupError(ModelFlowError):
    """A backup cannot be taken or put back: it is damaged, or something is where it belongs."""


class DiskFullError(ModelFlowError):
    """A disk is full; what was there before is whole."""

    retryable = True


class PlatformError(ModelFlowError):
    """A process of the platform could not be started or kept running."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return a hint naming the valid key closest to `name`, for the end of an error message."""
    keys = sorted(valid)
    close = difflib.get_close_matches(name, keys, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"valid keys: {', '.join(keys)}"

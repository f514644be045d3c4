"""What becomes of an error inside a run: tried again when that can help, and otherwise one sentence in Dagster.

`retryable` is the error's own word. A step is tried again with growing pauses; a failure that is final says so at
once and is not tried again by Dagster either.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from ml_core.errors import ModelFlowError
from ml_core.project import Flow

_RETRIES = 4
_FIRST_PAUSE_S = 2.0


@contextmanager
def reported(context: dg.AssetExecutionContext, flow: Flow) -> Iterator[None]:
    """Turn an error of ours into what Dagster acts upon; a message names the flow in any case."""
    try:
        yield
    except ModelFlowError as error:
        if error.retryable and context.retry_number < _RETRIES:
            pause_s = _FIRST_PAUSE_S * 2**context.retry_number
            context.log.warning("%s; trying again in %.0f s", error, pause_s)
            raise dg.RetryRequested(max_retries=_RETRIES, seconds_to_wait=pause_s) from error
        text = str(error) if flow.name in str(error) else f"flow {flow.name}: {error}"
        raise dg.Failure(text, metadata={"error": type(error).__name__}, allow_retries=False) from error

"""Python functions as tasks of Spark: one piece of work each, the results in the order of the pieces.

Spark runs a task again, elsewhere, when its executor is lost; so a function given here has to be pure. It is named, not
sent: every worker needs this package, and what the function imports, in the Python it runs.
"""

import re
from collections.abc import Callable, Sequence
from typing import TypeVar

from ml_core.data.spark import session as spark
from ml_core.errors import PlatformError
from ml_core.project import DataSettings

Shared = TypeVar("Shared")
Piece = TypeVar("Piece")
Made = TypeVar("Made")

# the last line of a traceback: an error's name, which is not one of Java's, and what it says
_RAISED = re.compile(r"(?!org\.|java\.)[\w.]*(Error|Exception|Interrupt|Exit): .+")


def run(
    data: DataSettings, function: Callable[[Shared, Piece], Made], shared: Shared, pieces: Sequence[Piece]
) -> list[Made]:
    """Return ``function(shared, piece)`` of every piece, in their order.

    Parameters
    ----------
    data : DataSettings
        Says where Spark is, and with which settings.
    function : callable
        Pure, and importable by its name on every worker.
    shared : object
        Sent to each executor once.
    pieces : sequence
        One task each; as many at a time as the executors have cores.

    Raises
    ------
    ProjectError
        pyspark is not installed.
    PlatformError
        Spark could not be started, or a task failed on every executor it was tried on.
    """
    context = spark.session(data.spark_master, data.spark_settings).sparkContext
    sent = context.broadcast(shared)
    try:
        tasks = context.parallelize(pieces, len(pieces))
        return list(tasks.map(lambda piece: function(sent.value, piece)).collect())
    except spark.failures() as error:
        raise PlatformError(
            f"Spark at {data.spark_master}: a task of {function.__module__}.{function.__qualname__} failed:"
            f" {_reason(error)}; workers need this release of the platform in the Python they run"
            " (spark.pyspark.python) and spark_folder under the driver's path, see docs/spark.md"
        ) from error
    finally:
        sent.unpersist()


def _reason(error: BaseException) -> str:
    """Return what Python said within the task, or else what Spark says."""
    raised = [found[0] for line in str(error).splitlines() if (found := _RAISED.fullmatch(line.strip()))]
    return raised[-1] if raised else spark.first_line(error)

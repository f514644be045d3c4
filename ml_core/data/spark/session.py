"""The one place that imports pyspark: a session whose settings give Spark SQL the meaning the translation relies on.

A process has one Spark application at a time; asking for another master or other settings ends the one before. It
lives as long as the process, since starting one takes seconds.
"""

import re
import sys
import threading
import warnings
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from ml_core.errors import PlatformError, ProjectError

# what the rules of the translation rely on; a flow's own settings cannot change them
MEANING = {
    "spark.sql.ansi.enabled": "true",
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.caseSensitive": "false",
    "spark.sql.parser.escapedStringLiterals": "false",
    "spark.sql.timestampType": "TIMESTAMP_LTZ",
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
    "spark.sql.parquet.inferTimestampNTZ.enabled": "true",
    "spark.sql.parquet.datetimeRebaseModeInRead": "CORRECTED",
    "spark.sql.parquet.datetimeRebaseModeInWrite": "CORRECTED",
}
_QUIET = {"spark.ui.enabled": "false", "spark.ui.showConsoleProgress": "false", "spark.log.level": "ERROR"}
# of a Spark within this process: what it needs for some hundred thousand rows, and no other address than loopback
_LOCAL = {
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.memory": "4g",
    "spark.sql.shuffle.partitions": "8",
}
_held: dict[str, Any] = {}
_turn = threading.RLock()  # flows of one process may build at the same time


def session(master: str, settings: Mapping[str, str]) -> Any:
    """Return a Spark session with views of its own.

    Parameters
    ----------
    master : str
        Spark's address: ``local[*]`` for threads of this process's own JVM, or ``spark://host:port``.
    settings : mapping of str to str
        Spark's own settings; see `MEANING` for those they cannot change.

    Raises
    ------
    ProjectError
        pyspark is not installed, or a setting would change what the SQL means.
    PlatformError
        Spark could not be started.
    """
    changed = sorted(set(settings) & set(MEANING))
    if changed:
        raise ProjectError(f"spark_settings: expected none of {changed}, on which equal rows depend; remove them")
    with _turn, warnings.catch_warnings():
        # pyspark looks at pandas' version even where, as here, no pandas is used
        warnings.filterwarnings("ignore", message="PySpark does not yet fully support pandas")
        try:
            from pyspark.errors import PySparkException
            from pyspark.sql import SparkSession
        except ImportError as missing:
            raise ProjectError(
                'engine = "spark" and spark_training need the package pyspark and Java 17 or newer, found no pyspark;'
                " install it with `make spark`, or into an environment of your own from docker/spark-requirements.lock"
            ) from missing
        wanted = {
            "master": master,
            **(_LOCAL if master.startswith("local") else {}),
            **_QUIET,
            **settings,
            **MEANING,
        }
        if _held.get("wanted") != wanted or _held["session"].sparkContext._jsc is None:  # noqa: SLF001 - None once stopped
            stop()
            starting: tuple[type[Exception], ...] = (PySparkException, OSError, *_java_errors())
            builder = SparkSession.builder.master(master).appName("modelflow")
            for key, value in wanted.items():
                builder = builder if key == "master" else builder.config(key, value)
            try:
                _held.update(session=builder.getOrCreate(), wanted=wanted)
                context = _held["session"].sparkContext
                # a worker runs the Python that the settings name, or one at the path of this one
                context.pythonExec = settings.get("spark.pyspark.python", sys.executable)
            except starting as error:
                raise PlatformError(
                    f"expected to start Spark at {master}, found: {first_line(error)}; it needs Java 17 or newer, and a"
                    " master that answers"
                ) from error
        return _held["session"].newSession()


def stop() -> None:
    """End the Spark application of this process, where there is one."""
    with _turn:
        running = _held.pop("session", None)
        _held.clear()
        if running is not None:
            with suppress(*_java_errors()):  # its JVM is gone already
                running.stop()


def failures() -> tuple[type[Exception], ...]:
    """Return what a running query may raise."""
    from pyspark.errors import PySparkException

    return (PySparkException, *_java_errors())


def first_line(error: BaseException) -> str:
    """Return what an error of Spark says, without plans and stacks of Java."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [
        line for line in lines if line.startswith("[") or re.match(r"(: |Caused by: )?(java|org)\.[\w.]+(:|$)", line)
    ]
    return next(iter(telling or lines), type(error).__name__)


def _java_errors() -> tuple[type[Exception], ...]:
    from py4j.protocol import Py4JError

    return (Py4JError, ConnectionError)

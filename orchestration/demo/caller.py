"""A caller of the sidecar, as any client of `mlflow models serve` would be: one HTTP request per row, no retries.

Every answer is kept, with the version that gave it, because the report's figures come from what was served.
"""

import http.client
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
from numpy.typing import NDArray

_TIMEOUT_S = 5.0
_ROWS_TOGETHER = 1_000


@dataclass(slots=True)
class Answers:
    """What was sent and what came back, in the order of sending.

    Attributes
    ----------
    rows : list of pyarrow.Table
        The rows sent: key, request_time and the features, exactly as in the request bodies.
    scores : list of float
        NaN where the request failed.
    versions : list of int
        0 where the request failed.
    latencies_s : list of float
    failures : list of str
        One sentence per request that got no 200 in time.
    """

    rows: list[pa.Table] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    latencies_s: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


class Caller:
    """Sends rows to one sidecar over one kept-alive connection."""

    def __init__(self, port: int) -> None:
        self.answers = Answers()
        self._port = port
        self._connection = self._connect()

    def ask(self, rows: pa.Table) -> None:
        """Send one request per row of `rows`, features only, and keep the answers."""
        self.answers.rows.append(rows)
        for body in request_bodies(rows):
            started = perf_counter()
            try:
                (score,), version = self._post(body)
            except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
                self.answers.failures.append(f"{type(error).__name__}: {error}")
                score, version = float("nan"), 0
                self._connection.close()
                self._connection = self._connect()
            self.answers.latencies_s.append(perf_counter() - started)
            self.answers.scores.append(score)
            self.answers.versions.append(version)

    def score_together(self, rows: pa.Table) -> NDArray[np.float64]:
        """Return the sidecar's scores of many rows, sent in few requests; nothing is kept among the answers."""
        scores: list[float] = []
        columns = feature_columns(rows)
        for start in range(0, rows.num_rows, _ROWS_TOGETHER):
            part = rows.slice(start, _ROWS_TOGETHER)
            data = list(zip(*(_json_values(part.column(name)) for name in columns), strict=True))
            body = orjson.dumps({"dataframe_split": {"columns": columns, "data": data}})
            scores.extend(self._post(body)[0])
        return np.array(scores, np.float64)

    def served_version(self) -> int | None:
        """Return the version the sidecar says it serves; None while it serves none."""
        connection = self._connect()
        try:
            connection.request("GET", "/version")
            response = connection.getresponse()
            content = response.read()
            return int(orjson.loads(content)["version"]) if response.status == http.HTTPStatus.OK else None
        finally:
            connection.close()

    def _connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self._port, timeout=_TIMEOUT_S)

    def _post(self, body: bytes) -> tuple[list[float], int]:
        self._connection.request("POST", "/invocations", body, {"Content-Type": "application/json"})
        response = self._connection.getresponse()
        content = response.read()
        if response.status != http.HTTPStatus.OK:
            raise ValueError(f"status {response.status}: {content[:200]!r}")
        return orjson.loads(content)["predictions"], int(response.headers["X-Model-Version"])


def feature_columns(rows: pa.Table) -> list[str]:
    """Return the columns a caller sends: all but the two that say which row it is."""
    return [name for name in rows.column_names if name not in {"key", "request_time"}]


def request_bodies(rows: pa.Table) -> Iterator[bytes]:
    """Yield the MLflow ``dataframe_split`` body of each row."""
    columns = feature_columns(rows)
    values: Sequence[list[Any]] = [_json_values(rows.column(name)) for name in columns]
    for index, row in enumerate(zip(*values, strict=True)):
        yield orjson.dumps({"dataframe_split": {"columns": columns, "index": [index], "data": [row]}})


def _json_values(column: pa.ChunkedArray) -> list[Any]:
    """Return a column as JSON values: a number that is missing is null, as JSON knows no NaN."""
    if pa.types.is_floating(column.type):
        return [None if np.isnan(value) else value for value in column.to_numpy().tolist()]
    values: list[Any] = column.to_pylist()
    return values

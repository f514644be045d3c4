"""What goes on while parts are killed: callers that count every answer, and a producer that keeps facts coming."""

import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ml_core.project import Flow
from ml_core.streaming.broker import Broker

_TIMEOUT_S = 30.0
_DELIVERED_MS = 180_000  # longer than a broker takes to come back
_INSTANT = pa.timestamp("us", tz="UTC")


class Callers:
    """Threads that ask for predictions all the time, a connection for each.

    Attributes
    ----------
    failures : list of str
        Every request that was not answered with 200 and a finite score.
    versions : Counter
        Answers by the version that made them.
    """

    def __init__(self, address: tuple[str, int], token: str, rows: list[Mapping[str, Any]], threads: int = 3) -> None:
        self._address, self._rows = address, rows
        self._headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}", "Connection": "close"}
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self.failures: list[str] = []
        self.versions: Counter[int] = Counter()
        self.slowest_s = 0.0
        self._threads = [threading.Thread(target=self._ask_on, args=(number,)) for number in range(threads)]

    def ask(self, row: Mapping[str, Any]) -> int:
        """Ask for one row; return the version that answered."""
        connection = http.client.HTTPConnection(*self._address, timeout=_TIMEOUT_S)
        try:
            body = json.dumps({"dataframe_records": [row]})
            connection.request("POST", "/invocations", body, self._headers)
            answer = connection.getresponse()
            content = answer.read()
            if answer.status != http.HTTPStatus.OK:
                raise ValueError(f"status {answer.status}: {content[:200]!r}")
            (score,) = json.loads(content)["predictions"]
            if not 0 < float(score if not isinstance(score, list) else score[-1]) < 1:
                raise ValueError(f"expected a probability, found {score}")
            return int(answer.headers["X-Model-Version"])
        finally:
            connection.close()

    def start(self) -> None:
        """Begin to ask."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop asking."""
        self._ended.set()
        for thread in self._threads:
            thread.join()

    @property
    def answered(self) -> int:
        """How many requests were answered."""
        return self.versions.total()

    def _ask_on(self, first: int) -> None:
        number = first
        while not self._ended.is_set():
            number += 1
            began = time.monotonic()
            try:
                version = self.ask(self._rows[number % len(self._rows)])
            except (OSError, ValueError, http.client.HTTPException) as error:
                with self._lock:
                    self.failures.append(f"{datetime.now().astimezone():%X}: {error!r}")
            else:
                with self._lock:
                    self.versions[version] += 1
                    self.slowest_s = max(self.slowest_s, time.monotonic() - began)
            self._ended.wait(0.01)


class Facts:
    """The flow's facts, sent to its topics in the order in which they became known."""

    def __init__(self, flow: Flow, tables: Mapping[str, pa.Table], broker: Broker) -> None:
        self._flow, self._tables, self._broker = flow, tables, broker
        self._sent = dict.fromkeys(tables, 0)
        for kind in tables:
            broker.ensure(f"{flow.name}.{kind}", keep=True)
        self._producer = broker.producer(delivery_timeout_ms=_DELIVERED_MS)

    def send(self, until: datetime) -> int:
        """Send what is known by `until`, and a tick; wait until the broker has it all. Return how many facts."""
        sent = 0
        futures = []
        for kind, table in self._tables.items():
            known = pc.sum(pc.less_equal(table.column("known_at"), pa.scalar(until, _INSTANT))).as_py()
            names = ["event_time", "known_at", *self._flow.stream.facts[kind]]
            for fact in table.select(names).slice(self._sent[kind], known - self._sent[kind]).to_pylist():
                value = json.dumps(fact, default=datetime.isoformat).encode()
                futures.append(self._producer.send(f"{self._flow.name}.{kind}", value=value, key=b"fact", partition=0))
            sent += known - self._sent[kind]
            self._sent[kind] = known
            through = [("modelflow-through", until.isoformat().encode())]
            tick = self._producer.send(f"{self._flow.name}.{kind}", key=b"tick", headers=through, partition=0)
            futures.append(tick)
        for future in futures:
            future.get(timeout=_DELIVERED_MS / 1000)
        return sent

    def close(self) -> None:
        """Let go of the broker."""
        self._producer.close()

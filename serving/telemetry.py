"""What the sidecar counts, and how it is told to Prometheus.

Counting happens on the event loop alone, so it takes no lock; a few hundred nanoseconds a request. The follower and the
model are read when somebody asks.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping
from os import getpid
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from serving.board import Peers
from serving.challenger import Challenger
from serving.following import Following
from serving.log import PredictionLog

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"

_BUCKETS_S = (25e-6, 50e-6, 1e-4, 2e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class Latency:
    """A histogram of seconds."""

    __slots__ = ("counts", "total_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(_BUCKETS_S) + 1)
        self.total_s = 0.0

    def add(self, seconds: float) -> None:
        """Count one duration."""
        self.counts[bisect_left(_BUCKETS_S, seconds)] += 1
        self.total_s += seconds

    def quantile(self, share: float) -> float | None:
        """Return the upper bound of the bucket that holds a quantile; None before anything was counted."""
        total, wanted = 0, share * sum(self.counts)
        for bound, count in zip((*_BUCKETS_S, _BUCKETS_S[-1]), self.counts, strict=True):
            total += count
            if total and total >= wanted:
                return bound
        return None

    def buckets(self) -> list[tuple[str, float]]:
        """Return the cumulative counts as Prometheus wants them."""
        total, bounds = 0, []
        for bound, count in zip((*map(str, _BUCKETS_S), "+Inf"), self.counts, strict=True):
            total += count
            bounds.append((bound, float(total)))
        return bounds


class Counts:
    """What one worker has counted; counts can be put on a page and added up."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()
        self.errors: Counter[str] = Counter()
        self.rows = 0
        self.in_flight = self.queued = 0
        self.phases = {phase: Latency() for phase in ("parse", "score", "encode")}

    def page(self) -> dict[str, Any]:
        """Return the counts as JSON values."""
        return {
            "requests": [[path, status, count] for (path, status), count in self.requests.items()],
            "errors": self.errors,
            "rows": self.rows,
            "in_flight": self.in_flight,
            "queued": self.queued,
            "phases": {phase: [latency.counts, latency.total_s] for phase, latency in self.phases.items()},
        }

    def add(self, page: Mapping[str, Any], *, past: bool = False) -> None:
        """Add what a page says; of a worker that is gone only what it counted up."""
        for path, status, count in page["requests"]:
            self.requests[path, status] += count
        self.errors.update(page["errors"])
        self.rows += page["rows"]
        for phase, (counts, total_s) in page["phases"].items():
            latency = self.phases[phase]
            latency.counts = [one + other for one, other in zip(latency.counts, counts, strict=True)]
            latency.total_s += total_s
        if not past:
            self.in_flight += page["in_flight"]
            self.queued += page["queued"]


class Telemetry(Counts, Collector):
    """Counts what one worker does, and tells what it and its peers have done.

    Parameters
    ----------
    follower : Following
    peers : Peers, optional
        The other workers of this sidecar.
    log : PredictionLog, optional
        Whose rows are told; those of this worker alone.
    challenger : Challenger, optional
        The second version beside the served one.
    """

    def __init__(
        self,
        follower: Following,
        peers: Peers | None = None,
        log: PredictionLog | None = None,
        challenger: Challenger | None = None,
    ) -> None:
        super().__init__()
        self._challenger = challenger
        self._log = log
        self._follower = follower
        self._peers = peers
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        if peers is not None and (before := peers.own_page()) is not None:
            self.add(before["counts"], past=True)  # a counter must not fall because a worker was replaced

    def scored(self, rows: int, marks: tuple[float, float, float, float]) -> None:
        """Count a scored request by the instants at which its parts began, and the last one ended."""
        self.rows += rows
        started, parsed, scored, encoded = marks
        phases = self.phases
        phases["parse"].add(parsed - started)
        phases["score"].add(scored - parsed)
        phases["encode"].add(encoded - scored)

    def publish(self) -> None:
        """Let the other workers know."""
        if self._peers is not None:
            self._peers.write_page({**self.described(), "counts": self.page()})

    def described(self) -> dict[str, Any]:
        """Return who this worker is."""
        model = self._follower.current
        return {"pid": getpid(), "version": model.version if model else None, "state": self._follower.state}

    def workers(self) -> list[dict[str, Any]]:
        """Return who all workers are, as of a second ago."""
        others = self._peers.others() if self._peers is not None else ()
        return [self.described(), *({name: page[name] for name in self.described()} for page in others)]

    def traffic(self) -> dict[str, float | None]:
        """Return what all workers answered, and the bounds of the buckets that hold the scoring time's quantiles."""
        total = self._all()
        score = total.phases["score"]
        return {
            "requests": sum(total.requests.values()),
            "errors": sum(total.errors.values()),
            "rows": total.rows,
            "score_p50_s": score.quantile(0.5),
            "score_p99_s": score.quantile(0.99),
        }

    def _all(self) -> Counts:
        total = Counts()
        total.add(self.page())
        for page in self._peers.others() if self._peers is not None else ():
            total.add(page["counts"])
        return total

    def render(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics of this moment, those of all workers together."""
        total = self._all()
        requests = CounterMetricFamily("modelflow_requests", "Answers by path and status.", labels=["path", "status"])
        for (path, status), count in total.requests.items():
            requests.add_metric([path, str(status)], count)
        yield requests
        errors = CounterMetricFamily("modelflow_errors", "Refused or failed requests by class.", labels=["code"])
        for code, count in total.errors.items():
            errors.add_metric([code], count)
        yield errors
        yield CounterMetricFamily("modelflow_rows", "Rows scored.", value=total.rows)
        phases = HistogramMetricFamily("modelflow_phase_seconds", "Seconds by part of a request.", labels=["phase"])
        for phase, latency in total.phases.items():
            phases.add_metric([phase], latency.buckets(), latency.total_s)
        yield phases
        yield GaugeMetricFamily("modelflow_requests_in_flight", "Requests being answered.", value=total.in_flight)
        yield GaugeMetricFamily(
            "modelflow_queue", "Large requests waiting for their turn or on it.", value=total.queued
        )
        workers = GaugeMetricFamily("modelflow_workers", "Workers by the version they serve.", labels=["version"])
        for version, count in Counter(worker["version"] or 0 for worker in self.workers()).items():
            workers.add_metric([str(version)], count)
        yield workers
        if self._log is not None:
            logged = CounterMetricFamily("modelflow_log_rows", "Rows for the prediction log.", labels=["end"])
            logged.add_metric(["written"], self._log.written)
            logged.add_metric(["dropped"], self._log.dropped)
            yield logged
        if self._challenger is not None:
            model = self._follower.current
            beside = None if model is None else self._challenger.beside(model)
            yield GaugeMetricFamily(
                "modelflow_challenger_version",
                "The version beside the served one; 0: none.",
                value=beside.version if beside else 0,
            )
        yield from self._of_follower()

    def _of_follower(self) -> Iterator[Metric]:
        follower, model = self._follower, self._follower.current
        yield GaugeMetricFamily("modelflow_ready", "1 while a verified model is loaded.", value=follower.ready)
        yield GaugeMetricFamily(
            "modelflow_version", "The version served; 0: none.", value=model.version if model else 0
        )
        if model is not None:
            loaded = model.loaded_at.timestamp()
            yield GaugeMetricFamily("modelflow_loaded_at_seconds", "When the version was loaded.", value=loaded)
            through = model.trained_through
            if through is not None:
                yield GaugeMetricFamily(
                    "modelflow_trained_through_seconds", "Newest example learned.", value=through.timestamp()
                )
                yield GaugeMetricFamily(
                    "modelflow_freshness_seconds",
                    "From the newest example's label to its first answer: what the served version's way here took.",
                    value=loaded - through.timestamp(),
                )
                yield GaugeMetricFamily(
                    "modelflow_staleness_seconds", "Age of the newest example learned.", value=follower.staleness_s
                )
        yield GaugeMetricFamily("modelflow_registry_up", "1 if the registry answers.", value=follower.registry_answers)
        yield GaugeMetricFamily("modelflow_quarantined", "Versions in quarantine.", value=len(follower.quarantine))
        yield CounterMetricFamily("modelflow_swaps", "Changes of the served model.", value=follower.swaps)
        yield CounterMetricFamily("modelflow_failed_loads", "Versions not proved, by attempt.", value=follower.failures)
        yield CounterMetricFamily("modelflow_polls", "Looks at the registry.", value=follower.polls)

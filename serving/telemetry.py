"""The sidecar's Prometheus metrics, in a registry of their own."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from serving.follower import Follower

_BUCKETS_S = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0)


class Telemetry:
    """Counts what the sidecar answers, and reads the follower when asked."""

    content_type = CONTENT_TYPE_PLAIN_0_0_4

    def __init__(self, follower: Follower) -> None:
        self._registry = CollectorRegistry()
        self._latency = Histogram(
            "modelflow_prediction_seconds", "Parse, score and encode.", buckets=_BUCKETS_S, registry=self._registry
        )
        self._failures = Counter(
            "modelflow_prediction_failures", "Refused requests by error.", ["error"], registry=self._registry
        )
        for name, text, read in (
            ("modelflow_version", "The version served; 0 while none.", lambda: getattr(follower.current, "version", 0)),
            ("modelflow_ready", "1 when a verified model is loaded.", lambda: float(follower.current is not None)),
            ("modelflow_swaps", "Changes of the served version.", lambda: follower.status.swaps),
            ("modelflow_quarantined", "Versions in quarantine.", lambda: len(follower.status.quarantine)),
            ("modelflow_registry_up", "1 when the registry answers.", lambda: float(follower.status.registry_answers)),
        ):
            Gauge(name, text, registry=self._registry).set_function(read)

    def answered(self, seconds: float) -> None:
        """Count one answered request."""
        self._latency.observe(seconds)

    def failed(self, error: str) -> None:
        """Count one refused request."""
        self._failures.labels(error).inc()

    def render(self) -> bytes:
        """Return the exposition text."""
        return generate_latest(self._registry)

"""What a replica measures, in Prometheus' format: one registry a process, read at each scrape."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric

from mlops.errors import ModelFault

LATENCY_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class Metrics:
    """Counters and histograms; what has a state of its own is read when it is asked for."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        self.seconds = Histogram(
            "mlops_request_seconds",
            "Time from a complete request to its answer.",
            ("service", "variant"),
            buckets=LATENCY_S,
            registry=self.registry,
        )
        self.requests = Counter(
            "mlops_requests",
            "Requests by service and status.",
            ("service", "status"),
            registry=self.registry,
        )
        self.faults = Counter(
            "mlops_model_faults",
            "Answers that a version failed to give, by kind.",
            ("service", "model_id", "kind"),
            registry=self.registry,
        )
        self._children: dict[tuple[Any, ...], Any] = {}

    def answered(self, service: str, variant: str, status: int, seconds: float) -> None:
        """One request; label look-ups cost more than counting, so children are kept."""
        timed = self._children.get((service, variant))
        if timed is None:
            timed = self._children[service, variant] = self.seconds.labels(service, variant)
        timed.observe(seconds)
        counted = self._children.get((service, status))
        if counted is None:
            labelled = self.requests.labels(service, str(status))
            counted = self._children[service, status] = labelled
        counted.inc()

    def fault(self, service: str, fault: ModelFault) -> None:
        """One answer that a version failed to give."""
        self.faults.labels(service, fault.model_id, fault.kind).inc()

    def gauges(self, read: Callable[[], Iterator[tuple[str, str, dict[str, str], float]]]) -> None:
        """Have gauges read at each scrape: name, help, labels and value of each."""
        self.registry.register(_Read(read))

    def render(self) -> bytes:
        return generate_latest(self.registry)


class _Read:
    def __init__(
        self, read: Callable[[], Iterator[tuple[str, str, dict[str, str], float]]]
    ) -> None:
        self.read = read

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        families: dict[str, GaugeMetricFamily] = {}
        for name, text, labels, value in self.read():
            if name not in families:
                families[name] = GaugeMetricFamily(name, text, labels=list(labels))
            families[name].add_metric(list(labels.values()), value)
        return iter(families.values())

"""What a replica measures, in Prometheus' format: one registry a process, read at each scrape.

[[What has a state of its own, read at each scrape: queue, models, routes, staleness, spool.]]
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric

from mlops.errors import ModelFault

if TYPE_CHECKING:
    from mlops.serving.runtime import Runtime


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

    def count_request(self, service: str, variant: str, status: int, seconds: float) -> None:
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

    def count_fault(self, service: str, fault: ModelFault) -> None:
        """One answer that a version failed to give."""
        self.faults.labels(service, fault.model_id, fault.kind).inc()

    def add_gauges(
        self, read: Callable[[], Iterator[tuple[str, str, dict[str, str], float]]]
    ) -> None:
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


Gauge = tuple[str, str, dict[str, str], float]


def read_gauges(runtime: Runtime) -> Iterator[Gauge]:
    """Name, help, labels and value of each."""
    yield from _queue(runtime)
    yield from _models(runtime)
    yield from _routes(runtime)
    yield from _forecasts(runtime)
    yield from _disk(runtime)


def _queue(runtime: Runtime) -> Iterator[Gauge]:
    statistics = runtime.batcher.statistics()
    yield "mlops_queue_windows", "Windows that wait for a forecast.", {}, statistics.waiting
    yield "mlops_batches", "Batches forecast since the start.", {}, statistics.batches
    yield "mlops_batched_windows", "Windows in those batches.", {}, statistics.windows
    yield "mlops_shadow_dropped", "Mirrored windows dropped under load.", {}, statistics.dropped


def _models(runtime: Runtime) -> Iterator[Gauge]:
    for model_id, state in runtime.pool.states().items():
        labels = {"model_id": model_id, "state": str(state.state)}
        yield "mlops_loaded_bytes", "Size of each model held.", labels, state.bytes
        yield "mlops_model_inflight", "Requests at each model.", labels, state.inflight


def _routes(runtime: Runtime) -> Iterator[Gauge]:
    route_view = runtime.store_sync.route_view()
    age = time.monotonic() - route_view.taken_at
    yield "mlops_route_age_seconds", "Since the store was last read.", {}, age
    away = runtime.store_sync.store_away_since
    gone = 0.0 if away is None else time.monotonic() - away
    yield "mlops_store_away_seconds", "For how long the store has been away.", {}, gone
    for service, state in route_view.routes.items():
        route, labels = state.route, {"service": service}
        yield "mlops_route_generation", "Generation of the route.", labels, route.generation
        share = route.weight_bp / 10_000 if state.valid else 0.0
        yield "mlops_challenger_share", "Share of keys the challenger has.", labels, share


def _forecasts(runtime: Runtime) -> Iterator[Gauge]:
    for service in runtime.store_sync.route_view().routes:
        published = runtime.publisher.latest(service)
        late = 1.0 if published is None or not published.fresh else 0.0
        yield (
            "mlops_forecast_stale",
            "Whether the newest bar is too old.",
            {"service": service},
            late,
        )


def _disk(runtime: Runtime) -> Iterator[Gauge]:
    spool = runtime.spool
    yield "mlops_spool_bytes", "Forecasts that wait for the store.", {}, spool.waiting_bytes()
    yield "mlops_spool_refused", "Forecasts the full spool refused.", {}, spool.refused
    yield "mlops_spool_torn", "Lines a kill left half.", {}, spool.torn
    lost = runtime.traffic.lost
    yield "mlops_traffic_lost", "Hours of traffic lost while the store was away.", {}, lost
    dropped = runtime.request_log.dropped
    yield "mlops_request_log_dropped", "Lines the request log lost.", {}, dropped

"""What a replica measures, in Prometheus' text format.

Counters and histograms are counted as requests are answered; gauges are read at each scrape from
the parts whose state they show: queue, models, routes, forecasts, spool and logs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric

from mlops.errors import ModelFault
from mlops.serving.engine.batcher import Batcher
from mlops.serving.engine.model_pool import ModelPool
from mlops.serving.forecast_spool import ForecastSpool
from mlops.serving.newest_forecast import ForecastPublisher
from mlops.serving.request_counters import RequestCounters
from mlops.serving.request_log import RequestLog
from mlops.serving.store_sync import StoreSync

Gauge: TypeAlias = tuple[str, str, dict[str, str], float]
"""Name, help text, labels and value."""

LATENCY_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class Metrics:
    """The metrics of one process, in a registry of their own."""

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
        """Count one answered request and its seconds."""
        # A look-up by labels costs more than counting, so the labelled children are kept.
        histogram = self._children.get((service, variant))
        if histogram is None:
            histogram = self._children[service, variant] = self.seconds.labels(service, variant)
        histogram.observe(seconds)
        counter = self._children.get((service, status))
        if counter is None:
            counter = self.requests.labels(service, str(status))
            self._children[service, status] = counter
        counter.inc()

    def count_fault(self, service: str, fault: ModelFault) -> None:
        """Count one answer that a version failed to give."""
        self.faults.labels(service, fault.model_id, fault.kind).inc()

    def add_gauges(self, read: Callable[[], Iterator[Gauge]]) -> None:
        """Have ``read`` called at each scrape for gauges and their values."""
        self.registry.register(_GaugeCollector(read))

    def render(self) -> bytes:
        """All metrics as Prometheus scrapes them."""
        return generate_latest(self.registry)


class _GaugeCollector:
    def __init__(self, read: Callable[[], Iterator[Gauge]]) -> None:
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


def read_engine_gauges(batcher: Batcher, pool: ModelPool) -> Iterator[Gauge]:
    """The queue of windows, and the models held."""
    statistics = batcher.statistics()
    yield "mlops_queue_windows", "Windows that wait for a forecast.", {}, statistics.waiting
    yield "mlops_batches", "Batches forecast since the start.", {}, statistics.batches
    yield "mlops_batched_windows", "Windows in those batches.", {}, statistics.windows
    yield "mlops_shadow_dropped", "Mirrored windows dropped under load.", {}, statistics.dropped
    stalled = statistics.stalled
    yield "mlops_stalled_timeouts", "Windows timed out in a stalled process.", {}, stalled
    for model_id, model in pool.states().items():
        labels = {"model_id": model_id, "state": str(model.state)}
        yield "mlops_loaded_bytes", "Size of each model held.", labels, model.bytes
        yield "mlops_model_inflight", "Requests at each model.", labels, model.inflight


def read_route_gauges(store_sync: StoreSync, publisher: ForecastPublisher) -> Iterator[Gauge]:
    """The routes as last read, and the newest forecasts."""
    view, now = store_sync.route_view(), time.monotonic()
    away = store_sync.store_away_since
    away_s = 0.0 if away is None else now - away
    yield "mlops_route_age_seconds", "Since the store was last read.", {}, now - view.taken_at
    yield "mlops_store_away_seconds", "For how long the store has been away.", {}, away_s
    for service, state in view.routes.items():
        route, labels = state.route, {"service": service}
        share = route.weight_bp / 10_000 if state.valid else 0.0
        published = publisher.latest(service)
        stale = 1.0 if published is None or not published.fresh else 0.0
        yield "mlops_route_generation", "Generation of the route.", labels, route.generation
        yield "mlops_challenger_share", "Share of keys the challenger has.", labels, share
        yield "mlops_forecast_stale", "Whether the newest bar is too old.", labels, stale


def read_backlog_gauges(
    spool: ForecastSpool, counters: RequestCounters, request_log: RequestLog
) -> Iterator[Gauge]:
    """What waits to be written, and what was lost."""
    yield "mlops_spool_bytes", "Forecasts that wait for the store.", {}, spool.waiting_bytes()
    yield "mlops_spool_refused", "Forecasts the full spool refused.", {}, spool.refused
    yield "mlops_spool_torn", "Lines a kill left half.", {}, spool.torn
    yield "mlops_spool_bad", "Lines the store refuses, set aside.", {}, spool.bad
    yield "mlops_traffic_lost", "Hours of traffic lost while the store was away.", {}, counters.lost
    dropped = request_log.dropped
    yield "mlops_request_log_dropped", "Lines the request log lost.", {}, dropped

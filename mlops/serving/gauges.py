"""What has a state of its own, read at each scrape: queue, models, routes, staleness, spool."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlops.serving.runtime import Runtime

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
    for model_id, state in runtime.shelf.states().items():
        labels = {"model_id": model_id, "state": str(state.state)}
        yield "mlops_loaded_bytes", "Size of each model held.", labels, state.bytes
        yield "mlops_model_inflight", "Requests at each model.", labels, state.inflight


def _routes(runtime: Runtime) -> Iterator[Gauge]:
    sight = runtime.keeper.sight()
    age = time.monotonic() - sight.taken_at
    yield "mlops_route_age_seconds", "Since the store was last read.", {}, age
    away = runtime.keeper.store_away_since
    gone = 0.0 if away is None else time.monotonic() - away
    yield "mlops_store_away_seconds", "For how long the store has been away.", {}, gone
    for service, sighted in sight.routes.items():
        route, labels = sighted.route, {"service": service}
        yield "mlops_route_generation", "Generation of the route.", labels, route.generation
        share = route.weight_bp / 10_000 if sighted.valid else 0.0
        yield "mlops_challenger_share", "Share of keys the challenger has.", labels, share


def _forecasts(runtime: Runtime) -> Iterator[Gauge]:
    for service in runtime.keeper.sight().routes:
        published = runtime.newest.of(service)
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

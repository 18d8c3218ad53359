"""Live figures that are not of the forecasts: latency, throughput, errors, completeness, drift.

A figure that is not on record is left out; none is estimated from another one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby

from mlops.monitoring.data_quality import BarCounts
from mlops.monitoring.drift.report import DriftReport, Family
from mlops.stats.comparison import share_interval
from mlops.store import ModelVersion, Phase, Store, get_route, list_rollouts
from mlops.store.engine import Connection
from mlops.store.monitor_runs import last_check
from mlops.store.request_counts import TrafficRow, read_traffic, sum_traffic
from mlops.store.rollouts import was_promoted
from mlops.store.sql import store_time

HOUR = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class LiveMeasure:
    """One figure of a window; None stands for what is not known.

    Attributes:
        low, high: The interval of the value.
        baseline: The value of the baseline on the same bars or in the same hours.
        at_promotion: The value at the promotion of the version.
    """

    name: str
    value: float
    low: float | None
    high: float | None
    baseline: float | None
    at_promotion: float | None


def measure_system(
    store: Store, version: ModelVersion, *, now: datetime, window_hours: float, is_live: bool = True
) -> tuple[LiveMeasure, ...]:
    """Throughput, latency and errors of the requests to a version, in whole hours.

    The figures at promotion are those of its rollout; those of the baseline are there where the
    baseline answered requests too.

    Args:
        now: Market time, at which the window ends.
        is_live: Whether market time is the time of the day; else the window ends at the
            database's time, because the requests came then.
    """
    rollout = _find_rollout_span(store, version)
    route = get_route(store, version.service)
    with store.read() as connection:
        moment = now if is_live else store_time(connection)
        this_hour = _floor_to_hour(moment)
        since = min(_floor_to_hour(moment - timedelta(hours=window_hours)) + HOUR, this_hour)
        own, baseline, before = (
            _read_traffic(connection, version, model_id, span)
            for model_id, span in (
                (version.model_id, (since, moment)),
                (None if route is None else route.baseline, (since, moment)),
                (version.model_id, rollout),
            )
        )
    requests = sum_traffic(own)
    intervals: dict[str, tuple[float | None, float | None]] = {
        "error_rate": share_interval(requests.failed, requests.requests)
    }
    of_baseline, at_promotion = _figures_of(baseline, (since, moment)), _figures_of(before, rollout)
    return tuple(
        LiveMeasure(
            name,
            value,
            *intervals.get(name, (None, None)),
            of_baseline.get(name),
            at_promotion.get(name),
        )
        for name, value in _figures_of(own, (since, moment), none_is_zero=True).items()
    )


def measure_data_quality(
    store: Store, version: ModelVersion, *, now: datetime, window_hours: float
) -> tuple[LiveMeasure, ...]:
    """Completeness and drift of the data, by the newest look in the window."""
    row = last_check(store, version.service, version.model_id)
    if row is None or not now - timedelta(hours=window_hours) <= row.at <= now:
        return ()
    report = DriftReport.from_dict(row.report)
    figures = {
        "feature_drift": report.score_of(Family.FEATURES),
        "target_drift": report.score_of(Family.TARGET),
    }
    if row.bars is not None:
        figures["data_completeness"] = BarCounts.from_dict(row.bars).completeness
    return tuple(
        LiveMeasure(name, value, None, None, None, None)
        for name, value in figures.items()
        if not math.isnan(value)
    )


_Span = tuple[datetime, datetime]


def _find_rollout_span(store: Store, version: ModelVersion) -> _Span | None:
    """The span of the last rollout that brought the version live."""
    for row in list_rollouts(store, service=version.service):
        ended = row.to_version == version.model_id and row.phase is Phase.DONE
        if ended and was_promoted(store, row.id):
            return _floor_to_hour(row.requested_at), row.ended_at or row.since
    return None


def _read_traffic(
    connection: Connection, version: ModelVersion, model_id: str | None, span: _Span | None
) -> tuple[TrafficRow, ...]:
    if model_id is None or span is None:
        return ()
    since, until = span
    return read_traffic(
        connection, since=since, until=until, service=version.service, model_id=model_id
    )


def _figures_of(
    rows: Sequence[TrafficRow], span: _Span | None, *, none_is_zero: bool = False
) -> dict[str, float]:
    """Figures by name; latencies and errors are left out where there were no requests.

    Args:
        none_is_zero: Whether no rows mean a throughput of 0, or that nothing is known.
    """
    if span is None or not (rows or none_is_zero):
        return {}
    traffic, seconds = sum_traffic(rows), max((span[1] - span[0]).total_seconds(), 1.0)
    by_hour = groupby(rows, key=lambda row: row.hour)
    busiest = max((sum_traffic(tuple(hour)).requests for _, hour in by_hour), default=0)
    figures = {
        "throughput_per_second": traffic.requests / seconds,
        "throughput_busiest_hour": busiest / HOUR.total_seconds(),
    }
    for name, share in (("latency_p50_ms", 0.5), ("latency_p99_ms", 0.99)):
        latency = traffic.quantile_s(share)
        if latency is not None:
            figures[name] = latency * 1e3
    if traffic.requests:
        figures["error_rate"] = traffic.failed / traffic.requests
    return figures


def _floor_to_hour(moment: datetime) -> datetime:
    return moment.replace(minute=0, second=0, microsecond=0)

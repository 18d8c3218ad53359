"""The live figures beside the forecasts themselves: the system that answers, the data it reads.

What is not on record has no figure: nothing here is estimated from something else.

[[One live figure, in the form that all of them have.]]
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby

from mlops.data.load import LOCAL_VENUES
from mlops.monitoring.data_quality import BarCounts
from mlops.monitoring.drift.report import DriftReport, Family
from mlops.service import Service
from mlops.stats.comparison import share_interval
from mlops.store import ModelVersion, Phase, Store, get_route
from mlops.store.engine import Connection
from mlops.store.monitor_runs import last_check
from mlops.store.request_counts import TrafficRow, read_traffic, total
from mlops.store.rollouts import list_rollouts
from mlops.store.sql import store_time


@dataclass(frozen=True, slots=True)
class LiveMeasure:
    """One metric on the window: its value and interval, the baseline's value on the same bars,
    or in the same hours, and what it was at promotion; None where nobody knows."""

    name: str
    value: float
    low: float | None
    high: float | None
    baseline: float | None
    at_promotion: float | None


HOUR = timedelta(hours=1)


def measure_system(
    store: Store, version: ModelVersion, *, now: datetime, window_hours: float
) -> tuple[LiveMeasure, ...]:
    """How fast and how often the version answered replicas' requests, in whole hours.

    Beside it what its rollout saw, and the baseline where it was asked as well. Where bars are
    replayed, market time says nothing about requests: there the window ends at this moment.
    """
    rollout = _rollout_hours(store, version)
    route = get_route(store, version.service)
    with store.read() as connection:
        replayed = Service.parse(version.service).venue in LOCAL_VENUES
        moment = store_time(connection) if replayed else now
        since = min(_hour_of(moment - timedelta(hours=window_hours)) + HOUR, _hour_of(moment))
        own, baseline, before = (
            _asked(connection, version, model_id, hours)
            for model_id, hours in (
                (version.model_id, (since, moment)),
                (None if route is None else route.baseline, (since, moment)),
                (version.model_id, rollout),
            )
        )
    beside = _figures(baseline, (since, moment)), _figures(before, rollout)
    return tuple(
        LiveMeasure(name, value, *_interval(name, own), *(one.get(name) for one in beside))
        for name, value in _figures(own, (since, moment), none_is_zero=True).items()
    )


def measure_data_quality(
    store: Store, version: ModelVersion, *, now: datetime, window_hours: float
) -> tuple[LiveMeasure, ...]:
    """How complete the bars were and how far they drifted, by the newest look in the window."""
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


# Parts -------------------------------------------------------------------------------------------

_Hours = tuple[datetime, datetime]


def _rollout_hours(store: Store, version: ModelVersion) -> _Hours | None:
    """From when to when its last rollout that went through lasted."""
    for row in list_rollouts(store, service=version.service):
        if row.to_version == version.model_id and row.phase is Phase.DONE:
            return _hour_of(row.requested_at), row.ended_at or row.since
    return None


def _asked(
    connection: Connection, version: ModelVersion, model_id: str | None, hours: _Hours | None
) -> tuple[TrafficRow, ...]:
    if model_id is None or hours is None:
        return ()
    since, until = hours
    return read_traffic(
        connection, since=since, until=until, service=version.service, model_id=model_id
    )


def _figures(
    rows: Sequence[TrafficRow], hours: _Hours | None, *, none_is_zero: bool = False
) -> dict[str, float]:
    """By name; of latencies and errors nothing where nothing was asked."""
    if hours is None or not (rows or none_is_zero):
        return {}
    asked, seconds = total(rows), max((hours[1] - hours[0]).total_seconds(), 1.0)
    by_hour = groupby(rows, key=lambda row: row.hour)
    busiest = max((total(tuple(of_one)).requests for _, of_one in by_hour), default=0)
    found = {
        "throughput_per_second": asked.requests / seconds,
        "throughput_busiest_hour": busiest / HOUR.total_seconds(),
    }
    for name, share in (("latency_p50_ms", 0.5), ("latency_p99_ms", 0.99)):
        latency = asked.quantile_s(share)
        if latency is not None:
            found[name] = latency * 1e3
    if asked.requests:
        found["error_rate"] = asked.failed / asked.requests
    return found


def _interval(name: str, rows: Sequence[TrafficRow]) -> tuple[float | None, float | None]:
    asked = total(rows)
    return share_interval(asked.failed, asked.requests) if name == "error_rate" else (None, None)


def _hour_of(moment: datetime) -> datetime:
    return moment.replace(minute=0, second=0, microsecond=0)

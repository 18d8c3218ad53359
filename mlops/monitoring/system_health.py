"""Is the system behind a service in trouble? Pure answers from what the store and the bars show.

Each subject is judged by itself and has three answers: trouble, quiet, and neither, which leaves
an alert as it is. What is counted (errors, slow answers) is trouble where the count makes it
sure, and quiet at half the limit; what is seen (bars, replicas) is quiet where it is not seen,
for as long as the finding says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Any

from mlops.data.quality import NewestBar
from mlops.service import Service
from mlops.settings import Settings
from mlops.stats.comparison import is_surely_above
from mlops.store.alerts import Severity
from mlops.store.replicas import Replica, ReplicaState
from mlops.store.request_counts import EDGES_S, Traffic
from mlops.store.routes import Route

ALPHA = 1e-3
"""Chance that one look takes a share at the limit for one above it."""

SLOW_SHARE = 0.01
"""At a p99 above the limit more than this share of the requests took longer."""

CLEARLY_BELOW = 0.5
"""Quiet is at most this part of what is trouble."""

MOST = 0.5
"""With more failures than this, it is grave."""

QUIET_FOR = timedelta(minutes=10)


class Subject(StrEnum):
    """What of a service may be in trouble; alerts of one service differ by it."""

    ERROR_RATE = "error_rate"
    LATENCY = "latency"
    STALE_DATA = "stale_data"
    REPLICAS = "replicas"
    LOADING = "loading"


class HealthState(StrEnum):
    """What was found of a subject."""

    TROUBLE = "trouble"
    NEITHER = "neither"
    QUIET = "quiet"


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemLimits:
    """From where on it is trouble: share of requests, p99 in ms, age of the newest bar in bars."""

    error_rate: float = 0.05
    latency_ms: float = 2500.0
    max_age_bars: float = 2.0


def read_limits(settings: Settings) -> SystemLimits:
    """The limits that the settings name."""
    return SystemLimits(
        error_rate=settings.alert_error_rate,
        latency_ms=settings.latency_limit_ms,
        max_age_bars=settings.forecast_max_age_bars,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSnapshot:
    """What is known of a service at one moment.

    ``this_hour`` and ``two_hours`` are what its champion was asked in the hour under way, and in
    that and the one before. ``newest`` is None where nothing feeds its bars.
    """

    route: Route
    this_hour: Traffic = field(default_factory=Traffic)
    two_hours: Traffic = field(default_factory=Traffic)
    replicas: tuple[Replica, ...] = ()
    newest_bar: NewestBar | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What was found of one subject.

    An alert ends once it was ``quiet_for`` so long; ``at_once`` is False for what may be seen for
    a moment while a process restarts.
    """

    service: str
    subject: Subject
    state: HealthState
    title: str
    text: str
    severity: Severity = Severity.WARNING
    detail: Mapping[str, Any] = field(default_factory=dict)
    quiet_for: timedelta = QUIET_FOR
    at_once: bool = True


def judge_system(seen: ServiceSnapshot, limits: SystemLimits) -> tuple[Finding, ...]:
    """What is found of each subject that something is known of."""
    found = (rule(seen, limits) for rule in _RULES)
    return tuple(one for one in found if one is not None)


def _errors(seen: ServiceSnapshot, limits: SystemLimits) -> Finding:
    champion, limit = seen.route.champion, limits.error_rate
    judged, state = _counted(seen, lambda traffic: traffic.failed, _requests, limit)
    rate = judged.failed / judged.requests if judged.requests else 0.0
    text = (
        f"{judged.failed:,} of {judged.requests:,} requests lately ({rate:.1%}) were not answered "
        f"by {champion}: {judged.faults:,} by its own faults, {judged.turned_away:,} because it "
        f"had no turn. The limit (ALERT_ERROR_RATE) is {limit:.1%}; what another loaded version "
        "could answer, it did."
    )
    grave = is_surely_above(MOST, count=judged.failed, trials=judged.requests, alpha=ALPHA)
    return Finding(
        service=seen.route.service,
        subject=Subject.ERROR_RATE,
        state=state,
        title=f"{champion} fails on too many requests",
        text=text,
        severity=Severity.CRITICAL if grave else Severity.WARNING,
        detail=_figures(judged) | {"model_id": champion, "limit": limit},
    )


def _latency(seen: ServiceSnapshot, limits: SystemLimits) -> Finding:
    # What took longer than the last edge is not told apart.
    champion, limit_s = seen.route.champion, min(limits.latency_ms / 1e3, EDGES_S[-1])
    judged, state = _counted(
        seen,
        lambda traffic: traffic.slower_than(limit_s),
        lambda traffic: traffic.timed,
        SLOW_SHARE,
    )
    figures = _figures(judged)
    text = (
        f"of {judged.timed:,} requests to {champion} lately "
        f"{judged.slower_than(limit_s):,} took longer than {limits.latency_ms:,g} ms, which 99 "
        "in 100 should not (ALERT_LATENCY_MS); half took at most "
        f"{figures['p50_ms'] or 0.0:,.1f} ms, 99 in 100 at most {figures['p99_ms'] or 0.0:,.1f} ms"
    )
    return Finding(
        service=seen.route.service,
        subject=Subject.LATENCY,
        state=state,
        title=f"{champion} answers slowly",
        text=text,
        detail=figures | {"model_id": champion, "limit_ms": limits.latency_ms},
    )


def _stale(seen: ServiceSnapshot, limits: SystemLimits) -> Finding | None:
    newest = seen.newest_bar
    if newest is None:
        return None
    service, bars = Service.parse(seen.route.service), limits.max_age_bars
    if newest.closed_at is None:
        text = "no bar of its market has come yet"
    else:
        text = (
            f"the newest complete bar closed at {newest.closed_at:%Y-%m-%d %H:%M} UTC, and it is "
            f"{newest.now:%Y-%m-%d %H:%M}; no forecast is made from a bar older than {bars:g} bars "
            "(FORECAST_MAX_AGE_BARS)"
        )
    stale = newest.is_stale(service, max_age_bars=bars)
    return Finding(
        service=seen.route.service,
        subject=Subject.STALE_DATA,
        state=HealthState.TROUBLE if stale else HealthState.QUIET,
        title=f"{service.symbol} on {service.venue} has no new bars",
        text=f"{text}. Check the feed" if stale else text,
        detail={"closed_at": None if newest.closed_at is None else newest.closed_at.isoformat()},
        # A feed that brings a bar now and then is not well yet.
        quiet_for=max(bars * service.timeframe.step, QUIET_FOR),
        at_once=False,
    )


def _replicas(seen: ServiceSnapshot, _: SystemLimits) -> Finding:
    serving = _serving(seen)
    answering = [one for one in serving if any(one.holds(name) for name in _wanted(seen.route))]
    text = (
        "no replica is live" if not serving else f"none of {len(serving)} replicas holds a version"
    )
    return Finding(
        service=seen.route.service,
        subject=Subject.REPLICAS,
        state=HealthState.QUIET if answering else HealthState.TROUBLE,
        title=f"Nothing answers for {seen.route.service}",
        text=f"{len(answering)} replicas answer" if answering else text,
        severity=Severity.CRITICAL,
        detail={"live": len(serving), "answering": len(answering)},
        at_once=False,
    )


def _loading(seen: ServiceSnapshot, _: SystemLimits) -> Finding:
    """Outside a rollout nobody else would say so: a replica goes on with another version."""
    failed = {
        one.id: f"{name} ({one.models[name].error})"
        for one in _serving(seen)
        for name in _wanted(seen.route)
        if one.lost(name)
    }
    said = "; ".join(f"{replica} cannot load {what}" for replica, what in sorted(failed.items()))
    return Finding(
        service=seen.route.service,
        subject=Subject.LOADING,
        state=HealthState.TROUBLE if failed else HealthState.QUIET,
        title=f"A version of {seen.route.service} does not load everywhere",
        text=f"{said}. It tries again every minute, and answers from what it holds"
        if failed
        else "all replicas hold what they should",
        detail={"failed": failed},
        at_once=False,
    )


_RULES: tuple[Callable[[ServiceSnapshot, SystemLimits], Finding | None], ...] = (
    _errors,
    _latency,
    _stale,
    _replicas,
    _loading,
)


# Parts -------------------------------------------------------------------------------------------


def _counted(
    seen: ServiceSnapshot,
    count: Callable[[Traffic], int],
    trials: Callable[[Traffic], int],
    limit: float,
) -> tuple[Traffic, HealthState]:
    """Trouble where the hour under way shows it, or both; quiet where both are well below."""
    for judged in (seen.this_hour, seen.two_hours):
        if is_surely_above(limit, count=count(judged), trials=trials(judged), alpha=ALPHA):
            return judged, HealthState.TROUBLE
    both = seen.two_hours
    quiet = count(both) <= CLEARLY_BELOW * limit * trials(both)
    return both, HealthState.QUIET if quiet else HealthState.NEITHER


def _requests(traffic: Traffic) -> int:
    return traffic.requests


def _figures(traffic: Traffic) -> dict[str, Any]:
    p50, p99 = traffic.quantile_s(0.5), traffic.quantile_s(0.99)
    return {
        "requests": traffic.requests,
        "faults": traffic.faults,
        "turned_away": traffic.turned_away,
        "p50_ms": None if p50 is None else p50 * 1e3,
        "p99_ms": None if p99 is None else p99 * 1e3,
    }


def _serving(seen: ServiceSnapshot) -> list[Replica]:
    return [one for one in seen.replicas if one.state is not ReplicaState.DRAINING]


def _wanted(route: Route) -> tuple[str, ...]:
    names = (route.champion, route.previous_champion, route.baseline)
    return tuple(dict.fromkeys(name for name in names if name is not None))

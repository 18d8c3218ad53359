"""Judges whether the system behind a service is healthy. Pure functions of a snapshot.

    subject     in trouble                                   quiet
    error_rate  failures are surely above the limit          at most half the limit
    latency     surely over 1 % of answers take longer       at most half of that
    stale_data  the newest bar is too old                    it is not
    replicas    no live replica holds a version              a replica does
    loading     a replica cannot load a version              all hold their versions

Each subject is judged by itself. Between trouble and quiet the state is "neither", which leaves an
alert as it is. "Surely" is the exact binomial test of `is_surely_above`, at level `ALPHA`.
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
from mlops.store import Replica, Route
from mlops.store.alerts import Severity
from mlops.store.replicas import HeldModel, LoadCause, ReplicaState
from mlops.store.request_counts import EDGES_S, Traffic

ALPHA = 1e-3
"""Chance that one check takes a share at the limit for a share above it."""

SLOW_SHARE = 0.01
"""Where the p99 is above the limit, more than this share of the requests took longer."""

CLEARLY_BELOW = 0.5
"""A counted subject is quiet at this part of the share that is trouble, or below."""

CRITICAL_ERROR_RATE = 0.5
"""A share of failures surely above this makes the alert critical."""

QUIET_FOR = timedelta(minutes=10)


class Subject(StrEnum):
    """The part of the system that is judged; each has an alert of its own."""

    ERROR_RATE = "error_rate"
    LATENCY = "latency"
    STALE_DATA = "stale_data"
    REPLICAS = "replicas"
    LOADING = "loading"


class HealthState(StrEnum):
    """The judgement of a subject; NEITHER is between the limits of the other two."""

    TROUBLE = "trouble"
    NEITHER = "neither"
    QUIET = "quiet"


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemLimits:
    """The limits beyond which a subject is in trouble.

    Attributes:
        error_rate: Share of the requests that the champion did not answer.
        latency_ms: The 99th percentile of the times to answer.
        max_age_bars: Age of the newest bar, in bars of the service.
    """

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
    """The state of a service at one moment.

    Attributes:
        this_hour: Requests to its champion in the hour that has begun.
        two_hours: Requests to its champion in that hour and the one before.
        newest_bar: None where no feed brings its bars.
    """

    route: Route
    this_hour: Traffic = field(default_factory=Traffic)
    two_hours: Traffic = field(default_factory=Traffic)
    replicas: tuple[Replica, ...] = ()
    newest_bar: NewestBar | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The judgement of one subject of a service.

    Attributes:
        title: The title of the alert, should there be one.
        text: Its text, and the text of its end.
        quiet_for: The alert ends once the subject was not in trouble for so long.
        at_once: False where a restart may cause the trouble for a moment, so that a second check
            has to confirm it.
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


def judge_system(snapshot: ServiceSnapshot, limits: SystemLimits) -> tuple[Finding, ...]:
    """Judge each subject; stale data only where a feed brings the bars of the service."""
    findings = (judge(snapshot, limits) for judge in _JUDGES)
    return tuple(finding for finding in findings if finding is not None)


def _judge_error_rate(snapshot: ServiceSnapshot, limits: SystemLimits) -> Finding:
    champion, limit = snapshot.route.champion, limits.error_rate
    judged, state = _judge_share(
        snapshot, lambda traffic: traffic.failed, lambda traffic: traffic.requests, limit
    )
    rate = judged.failed / judged.requests if judged.requests else 0.0
    text = (
        f"{judged.failed:,} of {judged.requests:,} requests lately ({rate:.1%}) were not answered "
        f"by {champion}: {judged.faults:,} by its own faults, {judged.turned_away:,} because it "
        f"had no turn. The limit (ALERT_ERROR_RATE) is {limit:.1%}; what another loaded version "
        "could answer, it did."
    )
    critical = is_surely_above(
        CRITICAL_ERROR_RATE, count=judged.failed, trials=judged.requests, alpha=ALPHA
    )
    return Finding(
        service=snapshot.route.service,
        subject=Subject.ERROR_RATE,
        state=state,
        title=f"{champion} fails on too many requests",
        text=text,
        severity=Severity.CRITICAL if critical else Severity.WARNING,
        detail=_figures_of(judged) | {"model_id": champion, "limit": limit},
    )


def _judge_latency(snapshot: ServiceSnapshot, limits: SystemLimits) -> Finding:
    # Requests beyond the last edge of the counters are one bin, so no larger limit can be judged.
    champion, limit_s = snapshot.route.champion, min(limits.latency_ms / 1e3, EDGES_S[-1])
    judged, state = _judge_share(
        snapshot,
        lambda traffic: traffic.slower_than(limit_s),
        lambda traffic: traffic.timed,
        SLOW_SHARE,
    )
    figures = _figures_of(judged)
    text = (
        f"of {judged.timed:,} requests to {champion} lately "
        f"{judged.slower_than(limit_s):,} took longer than {limits.latency_ms:,g} ms, which 99 "
        "in 100 should not (ALERT_LATENCY_MS); half took at most "
        f"{figures['p50_ms'] or 0.0:,.1f} ms, 99 in 100 at most {figures['p99_ms'] or 0.0:,.1f} ms"
    )
    return Finding(
        service=snapshot.route.service,
        subject=Subject.LATENCY,
        state=state,
        title=f"{champion} answers slowly",
        text=text,
        detail=figures | {"model_id": champion, "limit_ms": limits.latency_ms},
    )


def _judge_stale_data(snapshot: ServiceSnapshot, limits: SystemLimits) -> Finding | None:
    newest = snapshot.newest_bar
    if newest is None:
        return None
    service, bars = Service.parse(snapshot.route.service), limits.max_age_bars
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
        service=snapshot.route.service,
        subject=Subject.STALE_DATA,
        state=HealthState.TROUBLE if stale else HealthState.QUIET,
        title=f"{service.symbol} on {service.venue} has no new bars",
        text=f"{text}. Check the feed" if stale else text,
        detail={"closed_at": None if newest.closed_at is None else newest.closed_at.isoformat()},
        # A feed that brings a bar now and then is not healthy yet.
        quiet_for=max(bars * service.timeframe.step, QUIET_FOR),
        at_once=False,
    )


def _judge_replicas(snapshot: ServiceSnapshot, _: SystemLimits) -> Finding:
    serving = _serving_replicas(snapshot)
    versions = _versions_of(snapshot.route)
    answering = [replica for replica in serving if any(map(replica.holds, versions))]
    text = (
        "no replica is live" if not serving else f"none of {len(serving)} replicas holds a version"
    )
    return Finding(
        service=snapshot.route.service,
        subject=Subject.REPLICAS,
        state=HealthState.QUIET if answering else HealthState.TROUBLE,
        title=f"Nothing answers for {snapshot.route.service}",
        text=f"{len(answering)} replicas answer" if answering else text,
        severity=Severity.CRITICAL,
        detail={"live": len(serving), "answering": len(answering)},
        at_once=False,
    )


def _judge_loading(snapshot: ServiceSnapshot, _: SystemLimits) -> Finding:
    """Judge whether all replicas loaded the versions of the route.

    Outside a rollout nothing else reports a failure, because the replica answers with another
    version.
    """
    failed = {
        replica.id: _explain_failed_load(replica.models[model_id])
        for replica in _serving_replicas(snapshot)
        for model_id in _versions_of(snapshot.route)
        if replica.failed_to_load(model_id)
    }
    failures = "; ".join(f"{name} cannot load {what}" for name, what in sorted(failed.items()))
    return Finding(
        service=snapshot.route.service,
        subject=Subject.LOADING,
        state=HealthState.TROUBLE if failed else HealthState.QUIET,
        title=f"A version of {snapshot.route.service} does not load everywhere",
        text=f"{failures}. It tries again within 30 s, and answers from what it holds"
        if failed
        else "all replicas hold what they should",
        detail={"failed": failed},
        quiet_for=timedelta(0),
        at_once=False,
    )


def _explain_failed_load(model: HeldModel) -> str:
    """The model, the error, and whether the version or the replica is its cause."""
    causes = {
        LoadCause.VERSION: "its files are wrong",
        LoadCause.REPLICA: "the version is not at fault",
    }
    cause = f"; {causes[LoadCause(model.cause)]}" if model.cause else ""
    return f"{model.model_id} ({model.error}{cause})"


_JUDGES: tuple[Callable[[ServiceSnapshot, SystemLimits], Finding | None], ...] = (
    _judge_error_rate,
    _judge_latency,
    _judge_stale_data,
    _judge_replicas,
    _judge_loading,
)


# Shared by the judges ---------------------------------------------------------------------------


def _judge_share(
    snapshot: ServiceSnapshot,
    count: Callable[[Traffic], int],
    trials: Callable[[Traffic], int],
    limit: float,
) -> tuple[Traffic, HealthState]:
    """Judge a share of the requests, ``count`` of ``trials``, against its limit.

    It is in trouble where this hour alone shows it, or this hour and the one before together, and
    quiet where both together are well below the limit.
    """
    for judged in (snapshot.this_hour, snapshot.two_hours):
        if is_surely_above(limit, count=count(judged), trials=trials(judged), alpha=ALPHA):
            return judged, HealthState.TROUBLE
    both = snapshot.two_hours
    quiet = count(both) <= CLEARLY_BELOW * limit * trials(both)
    return both, HealthState.QUIET if quiet else HealthState.NEITHER


def _figures_of(traffic: Traffic) -> dict[str, Any]:
    p50, p99 = traffic.quantile_s(0.5), traffic.quantile_s(0.99)
    return {
        "requests": traffic.requests,
        "faults": traffic.faults,
        "turned_away": traffic.turned_away,
        "p50_ms": None if p50 is None else p50 * 1e3,
        "p99_ms": None if p99 is None else p99 * 1e3,
    }


def _serving_replicas(snapshot: ServiceSnapshot) -> list[Replica]:
    return [replica for replica in snapshot.replicas if replica.state is not ReplicaState.DRAINING]


def _versions_of(route: Route) -> tuple[str, ...]:
    """The versions of a route that may answer requests."""
    model_ids = (route.champion, route.previous_champion, route.baseline)
    return tuple(dict.fromkeys(model_id for model_id in model_ids if model_id is not None))

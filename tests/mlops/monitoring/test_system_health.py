"""Trouble is said where it is sure, quiet where it is clearly over, and nothing in between."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from mlops.data.calendar import calendar_for, load_calendar
from mlops.data.quality import NewestBar
from mlops.monitoring.system_health import (
    Finding,
    HealthState,
    ServiceSnapshot,
    Subject,
    SystemLimits,
    judge_system,
)
from mlops.service import Service
from mlops.store.alerts import Severity
from mlops.store.replicas import HeldModel, LoadCause, Replica, ReplicaState
from mlops.store.request_counts import BUCKETS, EDGES_S, Traffic
from mlops.store.routes import Route

AT = datetime(2025, 1, 6, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
SERVICE = "binance.btc-usdt.1h.volatility.24"
ALWAYS = load_calendar("24/7")
ROUTE = Route(SERVICE, 3, "champ", "before", "base", AT, AT)
LIMITS = SystemLimits(error_rate=0.05, latency_ms=2500.0, max_age_bars=2.0)


def traffic(fast: int = 0, slow: int = 0, **counts: int) -> Traffic:
    """So many requests of a millisecond and of five seconds."""
    latencies = [0] * BUCKETS
    for seconds, count in ((0.001, fast), (5.0, slow)):
        latencies[next(n for n, edge in enumerate(EDGES_S) if seconds <= edge)] += count
    asked = fast + slow + counts.get("turned_away", 0)
    return Traffic(requests=asked, latencies=tuple(latencies), **counts)


def found(subject: Subject, limits: SystemLimits = LIMITS, **seen: object) -> Finding:
    judged = judge_system(ServiceSnapshot(**{"route": ROUTE} | seen), limits)  # type: ignore[arg-type]
    return next(one for one in judged if one.subject is subject)


def of_both(now: Traffic, before: Traffic = Traffic()) -> dict[str, Traffic]:  # noqa: B008
    return {"this_hour": now, "two_hours": now + before}


@pytest.mark.parametrize(
    ("asked", "failed", "word"),
    [
        (0, 0, HealthState.QUIET),
        (1, 1, HealthState.NEITHER),
        (2, 2, HealthState.NEITHER),
        (3, 3, HealthState.TROUBLE),
        (100, 5, HealthState.NEITHER),
        (100, 11, HealthState.NEITHER),
        (100, 14, HealthState.TROUBLE),
        (100_000, 5_000, HealthState.NEITHER),
        (100_000, 5_300, HealthState.TROUBLE),
        (100_000, 2_501, HealthState.NEITHER),
        (100_000, 2_500, HealthState.QUIET),
    ],
)
def test_errors_are_trouble_where_the_count_makes_it_sure(
    asked: int, failed: int, word: HealthState
) -> None:
    both = of_both(traffic(fast=asked, faults=failed))
    assert found(Subject.ERROR_RATE, **both).state is word


def test_an_hour_that_just_went_bad_is_seen_beside_a_good_one() -> None:
    both = of_both(traffic(fast=100, faults=90), traffic(fast=100_000))
    bad = found(Subject.ERROR_RATE, **both)
    assert bad.state is HealthState.TROUBLE
    assert "90 of 100 requests" in bad.text


def test_an_hour_that_was_bad_is_not_over_while_it_is_one_of_two() -> None:
    both = of_both(traffic(fast=1000), traffic(fast=1000, faults=200))
    assert found(Subject.ERROR_RATE, **both).state is HealthState.TROUBLE


def test_requests_turned_away_are_errors_too() -> None:
    bad = found(Subject.ERROR_RATE, **of_both(traffic(fast=50, turned_away=50)))
    assert bad.state is HealthState.TROUBLE
    assert "50 because it had no turn" in bad.text


def test_failures_of_more_than_half_are_critical() -> None:
    some, most = (traffic(fast=1000, faults=n) for n in (200, 900))
    assert found(Subject.ERROR_RATE, **of_both(some)).severity is Severity.WARNING
    assert found(Subject.ERROR_RATE, **of_both(most)).severity is Severity.CRITICAL


@pytest.mark.parametrize(
    ("fast", "slow", "word"),
    [
        (0, 0, HealthState.QUIET),
        (0, 1, HealthState.NEITHER),
        (0, 2, HealthState.TROUBLE),
        (98, 2, HealthState.NEITHER),
        (90, 10, HealthState.TROUBLE),
        (9_900, 100, HealthState.NEITHER),
        (9_950, 50, HealthState.QUIET),
    ],
)
def test_slow_is_surely_more_than_one_in_a_hundred_beyond_the_limit(
    fast: int, slow: int, word: HealthState
) -> None:
    assert found(Subject.LATENCY, **of_both(traffic(fast, slow))).state is word


def test_limits_are_the_ones_given() -> None:
    asked = of_both(traffic(fast=900, slow=100, faults=100))
    lax = SystemLimits(error_rate=0.5, latency_ms=9_000.0)
    for subject in (Subject.ERROR_RATE, Subject.LATENCY):
        assert found(subject, **asked).state is HealthState.TROUBLE
        assert found(subject, lax, **asked).state is not HealthState.TROUBLE


def test_a_latency_limit_beyond_the_last_edge_still_counts() -> None:
    latencies = (*[0] * (BUCKETS - 1), 10)
    asked = of_both(Traffic(requests=10, latencies=latencies))
    limits = SystemLimits(latency_ms=30_000.0)
    assert found(Subject.LATENCY, limits, **asked).state is HealthState.TROUBLE


@pytest.mark.parametrize(
    ("symbol", "closed", "now", "stale"),
    [
        ("BTC/USDT", "2025-01-06 10:00", "2025-01-06 12:00", False),
        ("BTC/USDT", "2025-01-06 10:00", "2025-01-06 12:01", True),
        # A currency market closes on Friday at 17:00 in New York and opens on Sunday.
        ("EUR/USD", "2025-01-03 22:00", "2025-01-05 12:30", False),
        ("EUR/USD", "2025-01-03 22:00", "2025-01-05 23:30", False),
        ("EUR/USD", "2025-01-03 22:00", "2025-01-06 00:30", True),
        # Stocks trade from 14:30 to 21:00 in winter; their short last bar is no bar to wait for.
        ("AAPL", "2025-01-03 20:30", "2025-01-06 16:30", False),
        ("AAPL", "2025-01-03 20:30", "2025-01-06 16:31", True),
        ("AAPL", "2025-01-03 17:30", "2025-01-03 19:31", True),
    ],
)
def test_bars_are_stale_where_the_market_has_traded_since(
    symbol: str, closed: str, now: str, stale: bool
) -> None:
    moments = (datetime.fromisoformat(one).replace(tzinfo=UTC) for one in (closed, now))
    venue = {"EUR/USD": "sample", "AAPL": "xnys"}.get(symbol, "binance")
    newest = NewestBar(*moments, calendar_for(venue, symbol))
    service = Service.of(
        venue=venue, symbol=symbol, timeframe="1h", target="volatility", horizon=24
    )
    assert newest.is_stale(service, max_age_bars=2.0) == stale


def test_stale_bars_are_trouble_and_bars_that_nothing_feeds_are_not_judged() -> None:
    late = found(Subject.STALE_DATA, newest_bar=NewestBar(AT - 5 * HOUR, AT, ALWAYS))
    assert late.state is HealthState.TROUBLE
    assert "2025-01-06 07:00 UTC" in late.text
    assert (
        found(Subject.STALE_DATA, newest_bar=NewestBar(None, AT, ALWAYS)).state
        is HealthState.TROUBLE
    )
    assert (
        found(Subject.STALE_DATA, newest_bar=NewestBar(AT, AT, ALWAYS)).state is HealthState.QUIET
    )
    lax = SystemLimits(max_age_bars=9.0)
    assert (
        found(Subject.STALE_DATA, lax, newest_bar=NewestBar(AT - 5 * HOUR, AT, ALWAYS)).state
        is HealthState.QUIET
    )
    assert Subject.STALE_DATA not in {
        one.subject for one in judge_system(ServiceSnapshot(route=ROUTE), lax)
    }


def replica(name: str, state: ReplicaState = ReplicaState.READY, **models: str) -> Replica:
    held = {
        one: HeldModel(one, word, error="no", cause=LoadCause.VERSION)
        for one, word in models.items()
    }
    return Replica(name, "life", "host:1", state, models=held)


@pytest.mark.parametrize(
    ("replicas", "word"),
    [
        ((), HealthState.TROUBLE),
        ((replica("a", base="ready"),), HealthState.QUIET),
        ((replica("a", before="ready"), replica("b")), HealthState.QUIET),
        ((replica("a", champ="loading"),), HealthState.TROUBLE),
        ((replica("a", other="ready"),), HealthState.TROUBLE),
        ((replica("a", ReplicaState.DRAINING, champ="ready"),), HealthState.TROUBLE),
    ],
)
def test_a_service_without_an_answering_replica_is_in_trouble(
    replicas: tuple[Replica, ...], word: HealthState
) -> None:
    one = found(Subject.REPLICAS, replicas=replicas)
    assert (one.state, one.at_once) == (word, False)


def test_a_version_that_one_replica_cannot_load_is_told_with_the_reason() -> None:
    well, ill = replica("a", champ="ready"), replica("b", champ="failed", base="ready")
    assert found(Subject.LOADING, replicas=(well,)).state is HealthState.QUIET
    one = found(Subject.LOADING, replicas=(well, ill))
    assert one.state is HealthState.TROUBLE
    assert "b cannot load champ (no; its files are wrong)" in one.text
    assert one.quiet_for == timedelta(0)
    challenger = replica("b", champ="ready", other="failed")
    assert found(Subject.LOADING, replicas=(well, challenger)).state is HealthState.QUIET

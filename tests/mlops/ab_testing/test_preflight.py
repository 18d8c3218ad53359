"""A preflight says when a test may decide and which gain it sees, from bars before the test."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from mlops.ab_testing.loss_variance import variance_of_record
from mlops.ab_testing.pair_reading import Arms
from mlops.ab_testing.pairs import Pairs
from mlops.ab_testing.preflight import bar_after, hours_until_due, next_open, plan_test, span_of
from mlops.arrays import naive_utc
from mlops.data.calendar import load_calendar
from mlops.data.market import Market
from mlops.data.recent_bars import KnownBars
from mlops.data.simulator import simulate_bars
from mlops.service import Service
from mlops.stats.confidence_sequence import DelayedStart
from tests.mlops.ab_testing.stage import HOUR, START, VOLATILITY

DAILY = replace(VOLATILITY, horizon=24)


def arms(
    service: Service = VOLATILITY, *, calendar: str = "24/7", fitted: datetime | None = None
) -> Arms:
    return Arms(
        service=service,
        calendar=load_calendar(calendar),
        champion_id="champion",
        challenger_id="challenger",
        fitted_until=fitted,
    )


def past(bars: int, gain: float = 0.0, *, horizon: int = 1, noise: float = 0.1) -> Pairs:
    """Pairs before the test, of losses near 1."""
    rng = np.random.default_rng(7)
    champion = 1.0 + 0.2 * rng.normal(size=bars)
    closed = naive_utc(START, "us") - np.arange(bars)[::-1] * np.timedelta64(1, "h")
    return Pairs(
        horizon=horizon,
        closed_at=closed,
        champion_loss=champion,
        challenger_loss=champion * (1.0 - gain) + noise * rng.normal(size=bars),
    )


def test_forty_eight_hours_at_a_horizon_of_a_day_cannot_decide() -> None:
    plan, record = plan_test(
        arms(DAILY), past(20_000, horizon=24), since_bar=START, hours=48, alpha=0.05
    )
    assert record is not None
    assert (plan.planned_pairs, plan.needed_pairs, plan.can_decide) == (24, 480, False)
    assert plan.needed_hours == 480 + 24
    assert plan.until_bar == START + 23 * HOUR
    assert "48 hours bring 24 pairs; a verdict needs 480, which takes 504 hours." in plan.text


def test_the_hours_needed_are_enough_and_one_less_is_not() -> None:
    for service in (VOLATILITY, DAILY):
        known = past(20_000, horizon=service.horizon)
        needed = plan_test(arms(service), known, since_bar=START, hours=48, alpha=0.05)[0]
        for hours, enough in ((needed.needed_hours, True), (needed.needed_hours - 1, False)):
            plan, _ = plan_test(arms(service), known, since_bar=START, hours=hours, alpha=0.05)
            assert plan.can_decide is enough


def test_a_duration_shorter_than_the_horizon_brings_no_pair() -> None:
    plan, _ = plan_test(arms(DAILY), past(10, horizon=24), since_bar=START, hours=12, alpha=0.05)
    assert (plan.planned_pairs, plan.until_bar) == (0, START)


def test_without_ten_blocks_ten_blocks_of_the_test_are_needed_and_no_gain_is_known() -> None:
    plan, record = plan_test(arms(), past(3000), since_bar=START, hours=48, alpha=0.05)
    assert record is None
    assert (plan.needed_pairs, plan.blocks) == (20 * 168, 8)
    assert (plan.gain_seen, plan.half_width, plan.past_gain) == (None, None, None)
    assert "without ten nobody knows" in plan.text


def test_the_gain_seen_is_the_one_of_the_boundary_and_the_pairs_own_past() -> None:
    known = past(26 * 336, 0.03)
    plan, record = plan_test(arms(), known, since_bar=START, hours=2881, alpha=0.05)
    assert record is not None
    assert (record.blocks, plan.planned_pairs) == (26, 2880)
    spread = math.sqrt(variance_of_record(record) / 2880) / known.champion_loss.mean()
    z = DelayedStart(100, 0.05).z(2880)
    assert plan.half_width == pytest.approx(z * spread)
    assert plan.gain_seen == pytest.approx(plan.half_width * (z + 0.8416212) / z)
    assert plan.past_gain == pytest.approx(0.03, abs=0.005)
    assert plan.past_gain_hours is not None
    longer = plan_test(arms(), known, since_bar=START, hours=plan.past_gain_hours, alpha=0.05)[0]
    assert longer.gain_seen <= plan.past_gain


def test_a_gain_that_a_year_does_not_show_is_said_so() -> None:
    known = past(26 * 336, 0.04, noise=2.0)
    plan, _ = plan_test(arms(), known, since_bar=START, hours=2881, alpha=0.05)
    assert 0.0 < plan.past_gain < plan.gain_seen
    assert plan.past_gain_hours is None
    assert "not seen within a year" in plan.text


def test_a_past_without_gain_is_said_so() -> None:
    known = past(26 * 336, -0.05)
    plan, _ = plan_test(arms(), known, since_bar=START, hours=2881, alpha=0.05)
    assert plan.past_gain < 0.0
    assert "gains nothing" in plan.text


def test_bars_that_an_arm_was_fitted_on_lengthen_a_test() -> None:
    known = past(20_000)
    fitted = START + 10 * HOUR
    plan, _ = plan_test(arms(fitted=fitted), known, since_bar=START, hours=101, alpha=0.05)
    assert plan.planned_pairs == 91
    assert plan.needed_hours == 110
    longer, _ = plan_test(arms(fitted=fitted), known, since_bar=START, hours=110, alpha=0.05)
    assert longer.planned_pairs == 100


def test_a_weekend_takes_market_hours_and_brings_no_pair() -> None:
    euro = replace(VOLATILITY, symbol="EUR/USD")
    week = plan_test(
        arms(euro, calendar="FX"), past(10), since_bar=START, hours=7 * 24, alpha=0.05
    )[0]
    assert week.planned_pairs == 7 * 24 - 48 - 1
    assert week.needed_pairs == 10 * 336
    assert week.needed_hours > 28 * 7 * 24 - 48


def test_the_least_duration_lies_within_the_duration() -> None:
    span = span_of(arms(), START, hours=48, min_hours=24)
    assert span.min_until_bar == START + 22 * HOUR
    assert span.until_bar == START + 46 * HOUR
    short = span_of(arms(), START, hours=12, min_hours=24)
    assert short.min_until_bar == short.until_bar


def test_the_last_bar_is_due_when_the_duration_is_over() -> None:
    for service in (VOLATILITY, DAILY):
        span = span_of(arms(service), START, hours=100, min_hours=24)
        assert hours_until_due(arms(service), START, span.until_bar) == 100


def test_a_bar_after_a_weekend_is_mondays() -> None:
    euro = arms(replace(VOLATILITY, symbol="EUR/USD"), calendar="FX")
    friday = datetime(2024, 1, 5, 21, tzinfo=UTC)
    assert bar_after(euro, friday, 1) == datetime(2024, 1, 7, 22, tzinfo=UTC)


def known_bars(last: str, now: str, calendar: str = "24/7") -> KnownBars:
    index = pd.date_range(end=pd.Timestamp(last, tz="UTC"), periods=5, freq="1h")
    market = replace(Market.of(VOLATILITY), calendar=load_calendar(calendar))
    moment = pd.Timestamp(now, tz="UTC").to_pydatetime()
    return KnownBars(simulate_bars(5, seed=1).set_axis(index), moment, "bars", market)


@pytest.mark.parametrize(
    ("last", "now", "calendar", "opens"),
    [
        ("2024-01-01 09:00", "2024-01-01 10:00", "24/7", "2024-01-01 10:00"),
        ("2024-01-01 09:00", "2024-01-01 10:59", "24/7", "2024-01-01 10:00"),
        # The feed is two bars late.
        ("2024-01-01 09:00", "2024-01-01 12:10", "24/7", "2024-01-01 12:00"),
        ("2024-01-01 09:30", "2024-01-01 10:40", "24/7", "2024-01-01 10:30"),
        ("2024-01-05 21:00", "2024-01-06 12:00", "FX", "2024-01-07 22:00"),
    ],
)
def test_a_test_begins_at_the_next_bar_of_the_markets_own_clock(
    last: str, now: str, calendar: str, opens: str
) -> None:
    found = next_open(VOLATILITY, known_bars(last, now, calendar))
    assert found == pd.Timestamp(opens, tz="UTC")


def test_a_preflight_is_json() -> None:
    plan, _ = plan_test(arms(), past(20_000, 0.03), since_bar=START, hours=3000, alpha=0.05)
    read = json.loads(json.dumps(plan.to_dict(), allow_nan=False))
    assert read["can_decide"] is True
    assert read["since_bar"] == "2024-01-01T00:00:00+00:00"
    assert read["gain_seen"] == pytest.approx(plan.gain_seen)
    assert timedelta(hours=read["needed_hours"]) == timedelta(hours=101)

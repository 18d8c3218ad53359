"""Every rule as shipped on real bars: quiet months, and the break of 14 November 2018."""

from __future__ import annotations

import numpy as np
import pytest

from mlops.monitoring.drift.report import first_state, fit_reference, judge_hourly
from tests.mlops.monitoring.sample import (
    BREAK,
    CONFIG,
    MONTH,
    REFERENCE,
    ROLES,
    WINDOW,
    columns,
    disjoint,
    first_alarm,
    quiet_starts,
)

SYMBOLS = ("BTC/USD", "ETH/USD")
DAYS = (1, 2, 3, 7, 14, 21)
NEEDED = {"BTC/USD": 14, "ETH/USD": 21}
ALIGNMENTS = range(1, WINDOW + 1)


def quiet_months(symbol, every):
    """Share of quiet months that end in a retraining, printed by rule."""
    starts = quiet_starts(symbol)
    met = [first_alarm(symbol, start, MONTH) for start in starts[::every]]
    by_rule = {rule: np.mean([np.isfinite(one[rule]) for one in met]) for rule in met[0]}
    share = np.mean([np.isfinite(min(one.values())) for one in met])
    print(f"{symbol}: {len(starts)} quiet months, {disjoint(starts)} apart: {share:.3f}", by_rule)
    return share


def days_to_the_break(symbol, alignments):
    """Days from the break to the first alarm, for watches begun up to a week before it.

    An alarm before the break, which is none of it, counts as never.
    """
    at = columns(symbol).index.searchsorted(BREAK)
    found = []
    for ahead in alignments:
        met = min(first_alarm(symbol, at - ahead, ahead + 21 * 24).values())
        found.append((met - ahead) / 24 if met > ahead else np.inf)
    shares = {day: float(np.mean(np.array(found) <= day)) for day in DAYS}
    print(f"{symbol}: share of {len(found)} alignments that find the break within days:", shares)
    return shares


def judge_quiet(symbol, every):
    apart = disjoint(quiet_starts(symbol))
    limit = 0.05 + 2 * np.sqrt(0.05 * 0.95 / apart)
    assert quiet_months(symbol, every) <= limit


@pytest.mark.parametrize("symbol", SYMBOLS)
def test_few_quiet_months_end_in_a_retraining(symbol):
    judge_quiet(symbol, every=6)


@pytest.mark.parametrize("symbol", SYMBOLS)
def test_the_break_is_found_within_days(symbol):
    assert days_to_the_break(symbol, ALIGNMENTS[::14])[NEEDED[symbol]] >= 0.9


@pytest.mark.slow
@pytest.mark.parametrize("symbol", SYMBOLS)
def test_few_of_all_quiet_months_end_in_a_retraining(symbol):
    judge_quiet(symbol, every=1)


@pytest.mark.slow
@pytest.mark.parametrize("symbol", SYMBOLS)
def test_the_break_is_found_from_every_alignment(symbol):
    assert days_to_the_break(symbol, ALIGNMENTS)[NEEDED[symbol]] >= 0.9


def test_a_watch_hour_by_hour_alarms_when_all_bars_at_once_do():
    symbol, ahead = "BTC/USD", 5
    at = columns(symbol).index.searchsorted(BREAK)
    expected = min(first_alarm(symbol, at - ahead, 100).values())
    frame = columns(symbol).iloc[at - ahead - REFERENCE :]
    reference = fit_reference(frame[:REFERENCE], ROLES, window_bars=WINDOW)
    state = first_state(reference)
    for bars in range(1, 101):
        report, state = judge_hourly(reference, frame[: REFERENCE + bars], state, CONFIG)
        if report.recommendation.asks_for_retraining:
            break
    assert bars == expected

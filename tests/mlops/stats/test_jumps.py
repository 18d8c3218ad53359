"""Jumps: rare in a quiet month whatever the series remembers, and met within a day."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from mlops.stats.jumps import BARS, BEFORE, RECENT, fit_jumps, jump_p_values, measure_jumps
from mlops.stats.window_null import NumericNull
from tests.mlops.monitoring.series import autoregressive, market

REFERENCE, MONTH = 5000, 720
LEVEL = 1 / 30


def test_a_jump_is_the_last_day_less_the_month_before():
    x = np.random.default_rng(0).standard_normal(BARS + 5)
    expected = x[-RECENT:].mean() - x[-BARS:-RECENT].mean()
    assert BARS == RECENT + BEFORE
    assert measure_jumps(x).shape == (6,)
    assert_allclose(measure_jumps(x)[-1], expected)


@pytest.mark.parametrize("bars", [0, 100, BARS, BARS + 4 * MONTH - 2])
def test_a_reference_of_too_few_months_has_no_null(bars):
    assert fit_jumps(np.zeros(bars), span=MONTH) is None


def test_a_constant_reference_does_not_alarm_at_an_equal_series():
    null = fit_jumps(np.zeros(REFERENCE), span=MONTH)
    assert jump_p_values(null, np.zeros(1))[0] > 0.5
    assert jump_p_values(null, np.array([3.0]))[0] < LEVEL


def alarms(x, rise=0.0):
    """Whether any of a month's hourly looks alarms, and how far into the month the first does."""
    null = NumericNull(x[:REFERENCE])
    fitted = fit_jumps(null.scores, span=MONTH)
    later = x.copy()
    later[REFERENCE:] += rise
    looks = measure_jumps(null.ordered.normal_scores(later))[-MONTH:]
    met = np.flatnonzero(jump_p_values(fitted, looks) < LEVEL)
    return met[0] + 1 if met.size else np.inf


def months(paths, seed):
    rng = np.random.default_rng(seed)
    bars = REFERENCE + MONTH
    return {
        **market(paths, bars, rng),
        "AR.9": autoregressive(0.9, paths, bars, rng),
        "AR.98": autoregressive(0.98, paths, bars, rng),
    }


def test_a_month_without_a_jump_rarely_alarms():
    found = [np.isfinite(alarms(x)) for rows in months(20, 1).values() for x in rows]
    # The features of a path share its shocks: of 160 no more than 60 count as drawn apart.
    assert np.mean(found) <= LEVEL + 3 * np.sqrt(LEVEL * (1 - LEVEL) / 60)


@pytest.mark.slow
def test_a_month_without_a_jump_alarms_at_the_stated_rate():
    rates = []
    for name, rows in months(300, 2).items():
        rates.append(np.mean([np.isfinite(alarms(x)) for x in rows]))
        print(name, rates[-1])
        assert rates[-1] <= LEVEL + 3 * np.sqrt(LEVEL * (1 - LEVEL) / 300)
    assert np.mean(rates) <= LEVEL + 2 * np.sqrt(LEVEL * (1 - LEVEL) / 900)


def test_a_jump_is_detected_within_two_days():
    rows = months(20, 3)["ret"]
    found = np.mean([alarms(x, rise=2.0 * x.std()) <= 48 for x in rows])
    assert found >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / 20)

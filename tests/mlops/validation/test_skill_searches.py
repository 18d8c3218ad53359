"""What G2 lets through of searches among worthless and among good strategies.

Every search fits ridge strategies on lagged returns and momentum, refitted forward, on
returns with GARCH volatility and Student tails, without costs, as a tuner would.
"""

import numpy as np
import pytest
from scipy.signal import lfilter

from mlops.service import Target
from mlops.stats.selection import best_of_trials
from mlops.stats.trading import net_returns, sharpe_per_bar
from mlops.validation.skill import trial_gains

FIRST_FIT, REFIT_EVERY, HOURS_PER_YEAR = 1000, 250, 8760
STRATEGIES = [
    (lags, window, memory)
    for lags in (0, 3)
    for window in (4, 12, 36, 108, 324)
    for memory in (400, 100_000)
]


def garch_returns(n, rng):
    """GARCH(1,1) with standardised t5 shocks, about .5 % a bar."""
    shocks = rng.standard_t(5, n) / np.sqrt(5 / 3)
    variance, returns = 0.005**2, np.empty(n)
    for i in range(n):
        returns[i] = np.sqrt(variance) * shocks[i]
        variance = 0.005**2 * 0.02 + 0.90 * variance + 0.08 * returns[i] ** 2
    return returns


def strategy_inputs(returns, *, lags, window):
    """Inputs known at each close: the last returns and one momentum."""
    past = [np.concatenate([np.zeros(k), returns[: len(returns) - k]]) for k in range(lags)]
    momentum = lfilter(np.ones(window) / np.sqrt(window), [1.0], returns)
    return np.stack([*past, momentum], axis=1)


def ridge_forward(inputs, target, memory):
    """Forecasts of rows after the first fit, each from a fit on the ``memory`` rows before."""
    forecasts = []
    for start in range(FIRST_FIT, len(target), REFIT_EVERY):
        fit = slice(max(0, start - 1 - memory), start - 1)
        square = inputs[fit].T @ inputs[fit]
        ridge = square + 0.1 * np.diag(np.diag(square))
        weights = np.linalg.solve(ridge, inputs[fit].T @ target[fit])
        forecasts.append(inputs[start : start + REFIT_EVERY] @ weights)
    return np.concatenate(forecasts)


def search(seed, n):
    """Returns of n walk-forward rows of a random walk, and 20 strategies' forecasts of them."""
    bars = garch_returns(n + FIRST_FIT + 1, np.random.default_rng(seed))
    known, following = bars[:-1], bars[1:]
    trials = {
        f"{lags} lags, {window} bars, {memory} rows": ridge_forward(
            strategy_inputs(known, lags=lags, window=window), following, memory
        )
        for lags, window, memory in STRATEGIES
    }
    return following[FIRST_FIT:], trials


def judged(seed, n, record, *, planted=None, reps):
    """Whether G2's test passes the search, and the best annual Sharpe ratio it shows."""
    returns, trials = search(seed, n)
    if planted:
        trials["planted"] = right_with_frequency(planted, returns, np.random.default_rng(seed))
    rows = record(returns, np.zeros(n), target=Target.RETURN)
    gains = trial_gains(rows, trials, fee_bps=0.0)
    net = (net_returns(rows.of(f).positions(), returns, fee_bps=0.0) for f in trials.values())
    sharpe = max(sharpe_per_bar(series) for series in net) * np.sqrt(HOURS_PER_YEAR)
    return best_of_trials(gains, reps=reps).consistent < 0.05, sharpe > 1.0


def right_with_frequency(share, returns, rng):
    """Forecasts whose sign is right on exactly that share of the bars."""
    right = rng.permutation(returns.size) < share * returns.size
    return np.where(right, 1.0, -1.0) * np.sign(returns)


def rates(seeds, n, record, **how):
    """Shares of searches that G2 and `Sharpe > 1` let through."""
    return np.mean([judged(seed, n, record, **how) for seed in seeds], axis=0)


def test_worthless_searches_pass_a_sharpe_ratio_but_not_the_gate(record):
    """24 searches at .05: six or more pass by chance once in a thousand times."""
    gate, sharpe = rates(range(24), 2500, record, reps=300)
    assert gate <= 5 / 24
    assert sharpe >= 0.7


def test_a_strategy_right_on_55_percent_passes_the_gate(record):
    """8 searches; at a power of .95 fewer than 6 pass once in a hundred and seventy times."""
    assert rates(range(8), 5000, record, planted=0.55, reps=300)[0] >= 6 / 8


@pytest.mark.slow
def test_a_hundred_worthless_searches_pass_about_five_times(record):
    """100 at .05 with a Monte-Carlo error of 2.2: 12 is three errors above."""
    gate, sharpe = rates(range(100), 2500, record, reps=1000)
    assert gate <= 0.12
    assert sharpe >= 0.80


@pytest.mark.slow
def test_most_good_searches_pass(record):
    """60 searches: the Monte-Carlo error of a power of .95 is .03."""
    assert rates(range(60), 5000, record, planted=0.55, reps=1000)[0] >= 0.85

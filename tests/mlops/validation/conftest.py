"""Records of forecasts and evidence, made to order."""

import numpy as np
import pytest

from mlops.service import Target
from mlops.validation.evidence import Evidence, Integrity
from mlops.validation.forecasts import Forecasts

SOUND = Integrity(gap_bars=24, ordered=True, feature_schema_matches=True, causality_proven=True)


def make_record(y, forecast, *, target, horizon=1, persistence=None, returns=None, start=0):
    """A record on consecutive hours; the baseline is the persistence."""
    n = len(y)
    naive = np.zeros(n) if persistence is None else persistence
    hours = (start + np.arange(n)) * np.timedelta64(1, "h")
    return Forecasts(
        target=target,
        horizon=horizon,
        made_at=np.datetime64("2020-01-01", "ns") + hours,
        y=y,
        forecast=forecast,
        persistence=naive,
        baseline=naive,
        next_return=y if returns is None else returns,
        fold=np.arange(n) // 500,
    )


@pytest.fixture(scope="session")
def record():
    return make_record


def returns_and_signal(n, r2, rng):
    """Hourly returns of .5 % volatility and the part of them that can be known."""
    signal = 0.005 * np.sqrt(r2) * rng.standard_normal(n)
    return signal + 0.005 * np.sqrt(1 - r2) * rng.standard_normal(n), signal


@pytest.fixture(scope="session")
def return_evidence():
    """Evidence for a return forecaster chosen among trials of which it alone knows something."""

    def make(*, seed=0, r2=0.02, n=4000, n_holdout=1500, n_kept=6, fee_bps=1.0, **changes):
        rng = np.random.default_rng(seed)
        returns, signal = returns_and_signal(n + n_holdout, r2, rng)
        noise = 0.0005 * rng.standard_normal((n_kept, n + n_holdout))
        noise[0] += signal
        trials = {f"trial {i}": forecast[:n] for i, forecast in enumerate(noise)}
        made = {
            "walk_forward": make_record(returns[:n], noise[0, :n], target=Target.RETURN),
            "holdout": make_record(returns[n:], noise[0, n:], target=Target.RETURN, start=n + 1),
            "candidate": "lstm_BTC_20241205_120000",
            "winner": "trial 0",
            "trials": trials,
            "n_trials": n_kept,
            "integrity": SOUND,
            "bars_per_year": 8760.0,
            "fee_bps": fee_bps,
        }
        return Evidence(**made | changes)

    return make


@pytest.fixture(scope="session")
def volatility_evidence():
    """Evidence for volatility forecasts: 24-bar means, better than their persistence."""

    def make(*, seed=0, n=3000, n_holdout=1200, error=0.2, n_kept=3, **changes):
        rng = np.random.default_rng(seed)
        total, horizon = n + n_holdout, 24
        path = np.cumsum(0.1 * rng.standard_normal(total + horizon)) * 0.2
        level = path + rng.standard_normal(path.size) - 5.0
        mean = np.convolve(level, np.ones(horizon) / horizon, "valid")
        y, persistence = mean[1 : total + 1], np.roll(mean, horizon - 1)[1 : total + 1]
        errors = error * rng.standard_normal((n_kept, total))
        forecasts = y + errors
        returns = 0.005 * rng.standard_normal(total)

        def part(forecast, rows, start):
            return make_record(
                y[rows],
                forecast[rows],
                target=Target.VOLATILITY,
                horizon=horizon,
                persistence=persistence[rows],
                returns=returns[rows],
                start=start,
            )

        early, late = slice(0, n), slice(n, None)
        made = {
            "walk_forward": part(forecasts[0], early, 0),
            "holdout": part(forecasts[0], late, n + horizon),
            "candidate": "lstm_BTC_20241205_120000",
            "winner": "trial 0",
            "trials": {f"trial {i}": f[early] for i, f in enumerate(forecasts)},
            "n_trials": n_kept,
            "integrity": SOUND,
            "bars_per_year": 8760.0,
            "fee_bps": 1.0,
        }
        return Evidence(**made | changes)

    return make

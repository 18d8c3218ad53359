"""The laboratory market keeps its word: what it plants is there, what it hides is hidden.

Monte-Carlo tolerances are four standard errors at the stated number of bars.
"""

from datetime import timedelta

import numpy as np
import pytest

from mlops.data.bars import validate_bars
from mlops.data.calendar import load_calendar
from mlops.data.simulator import Form, Market, SimulatorSource, simulate, simulate_bars
from mlops.errors import SourceError
from mlops.service import Timeframe

N = 100_000
HOUR = Timeframe("1h")


def log_returns(frame):
    return np.log(frame["close"] / frame["open"]).to_numpy()


def r2(design, y):
    design = np.column_stack([np.ones(len(y)), design])
    residual = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
    return 1.0 - residual.var() / y.var()


def observed(frame):
    """What any model sees of a bar: its return and its volume, on plain scales."""
    past = log_returns(frame)[:-1]
    volume = np.log(frame["volume"].to_numpy())[:-1]
    return past / 0.005, (volume - volume.mean()) / volume.std()


@pytest.mark.parametrize("form", Form)
@pytest.mark.parametrize("share", [0.02, 0.1])
def test_the_stated_share_of_the_next_return_is_predictable(form, share):
    """R2 of the truth over 100,000 bars: standard error about 2 sqrt(R2 / n)."""
    bars = simulate(Market(r2=share, form=form), N, seed=11)
    z = (log_returns(bars.frame)[1:]) / bars.volatility[:-1]
    truth = (bars.expected_return / bars.volatility)[:-1]
    skill = 1.0 - np.mean((z - truth) ** 2) / np.mean(z**2)
    assert skill == pytest.approx(share, abs=8 * np.sqrt(share / N))


def test_an_interaction_is_invisible_to_a_linear_model_and_visible_in_the_product():
    """Noise alone gives two regressors an R2 of 2/n = 0.00002; twenty times that is signal."""
    frame = simulate_bars(N, seed=12, r2=0.02, form="interaction")
    past, volume = observed(frame)
    following = log_returns(frame)[1:]
    product = np.clip(past, -1, 1) * np.clip(volume, -1, 1)
    assert r2(np.column_stack([past, volume]), following) < 4e-4
    assert r2(product[:, None], following) > 0.012


def test_linear_predictability_is_visible_to_a_linear_model():
    frame = simulate_bars(N, seed=13, r2=0.02)
    assert r2(np.column_stack(observed(frame)), log_returns(frame)[1:]) > 0.015


def test_returns_without_predictability_are_a_martingale_difference():
    """Autocorrelations stay within four robust standard errors of zero at many lags."""
    r = log_returns(simulate_bars(N, seed=14))
    for lag in (1, 2, 3, 6, 12, 24):
        product = r[lag:] * r[:-lag]
        assert abs(product.mean()) < 4 * product.std() / np.sqrt(len(product))


def test_bars_have_clustered_volatility_fat_tails_and_honest_ranges():
    frame = simulate_bars(N, seed=15)
    r = log_returns(frame)
    size = np.abs(r)
    parkinson = np.log(frame["high"] / frame["low"]) ** 2 / (4 * np.log(2))
    assert np.corrcoef(size[24:], size[:-24])[0, 1] > 0.04
    assert np.mean(r**4) / np.mean(r**2) ** 2 > 5
    assert np.sqrt(np.mean(r**2)) == pytest.approx(0.005, rel=0.05)
    assert np.sqrt(parkinson.mean() / np.mean(r**2)) == pytest.approx(1.0, abs=0.03)


def test_simulated_bars_validate_without_a_hole():
    frame = simulate_bars(2000, seed=16)
    now = frame.index[-1] + timedelta(days=1)
    report = validate_bars(frame, timeframe=HOUR, calendar=load_calendar("24/7"), now=now)
    assert report.rows_out == 2000
    assert report.holes == ()


def test_volatility_is_multiplied_from_the_break_on():
    calm = simulate_bars(4000, seed=17)
    broken = simulate_bars(4000, seed=17, break_at=3000, break_scale=4.0)
    ratio = log_returns(broken) / log_returns(calm)
    assert np.allclose(ratio[:3000], 1.0)
    assert np.allclose(ratio[3000:], 4.0)


def test_predictability_can_end_at_the_break():
    bars = simulate(Market(r2=0.1, break_at=500, break_scale=1.0, break_r2=0.0), 1000, seed=18)
    assert np.all(bars.expected_return[:499] != 0)
    assert np.all(bars.expected_return[499:] == 0)


@pytest.mark.parametrize("form", Form)
def test_a_longer_history_begins_with_the_shorter_one(form):
    short = simulate_bars(500, seed=19, r2=0.05, form=form)
    longer = simulate_bars(900, seed=19, r2=0.05, form=form)
    assert short.equals(longer.iloc[:500].asfreq(short.index.freq))


def test_the_seed_decides_the_bars():
    assert simulate_bars(50, seed=1).equals(simulate_bars(50, seed=1))
    assert not simulate_bars(50, seed=1).equals(simulate_bars(50, seed=2))


def test_the_source_gives_the_same_bar_whatever_period_is_asked_for():
    source = SimulatorSource(bars=300)
    history = source.fetch("BTC/USD", HOUR)
    start, end = history.index[100], history.index[200]
    part = source.fetch("BTC/USD", HOUR, start=start, end=end)
    assert part.equals(history.iloc[100:200])


def test_symbols_have_histories_of_their_own_and_the_label_says_simulated():
    source = SimulatorSource(bars=50)
    assert not source.fetch("BTC/USD", HOUR).equals(source.fetch("ETH/USD", HOUR))
    assert source.venue == "simulator"
    assert "not market data" in source.label("BTC/USD")


def test_a_period_outside_the_laboratory_is_refused():
    source = SimulatorSource(bars=50)
    with pytest.raises(SourceError, match="has no bars from"):
        source.fetch("BTC/USD", HOUR, end=source.start)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"r2": 1.0}, "r2 is 1.0"),
        ({"volatility": 0.0}, "volatility is 0.0"),
        ({"break_scale": -1.0}, "break_scale is -1.0"),
        ({"form": "cubic"}, "not one of linear, interaction"),
        ({"n": 0}, "at least one"),
    ],
)
def test_a_market_with_impossible_numbers_is_refused(options, why):
    with pytest.raises(SourceError, match=why):
        simulate_bars(**{"n": 10, "seed": 0, **options})

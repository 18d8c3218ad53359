"""Each indicator means what it says, has no units, and stays finite on odd bars."""

import numpy as np
import pandas as pd
import pytest

from mlops.errors import FeatureError
from mlops.features.bar_arrays import BarArrays
from mlops.features.indicators import (
    INDICATORS,
    find_indicator,
    log_range,
    macd,
    realised_volatility,
    register_indicator,
    rsi,
    unregister_indicator,
    volume_surprise,
    warm_up,
)
from mlops.features.spec import FeatureSpec, compute_features

EVERY = FeatureSpec(tuple(INDICATORS))


def every_feature(frame):
    """All features past their common warm-up."""
    return compute_features(BarArrays.of(frame), EVERY)[EVERY.warm_up :]


def test_platform_names_are_log_ratios_around_the_close(frame):
    o, h, low, c = (frame[name].to_numpy() for name in ("open", "high", "low", "close"))
    spec = FeatureSpec(("open", "high", "low", "close"))
    made = compute_features(BarArrays.of(frame), spec)[1:]
    expected = np.log(
        np.column_stack([o[1:] / c[:-1], h[1:] / c[1:], low[1:] / c[1:], c[1:] / c[:-1]])
    )
    np.testing.assert_allclose(made, expected, atol=1e-8)


def test_log_range_is_parkinsons_log_volatility(frame):
    ratio = np.log(frame["high"] / frame["low"]).to_numpy()
    expected = 0.5 * np.log(np.maximum(ratio**2 / (4 * np.log(2)), 1e-10))
    np.testing.assert_allclose(log_range(BarArrays.of(frame)), expected)


def test_rsi_is_wilders_rescaled_to_minus_one_and_one(frame):
    """On log changes; 50 is 0. The quiet term moves it by under one per cent here."""
    change = BarArrays.of(frame).change
    mean = {"alpha": 1 / 14, "adjust": False}
    gain = pd.Series(np.maximum(change, 0)).ewm(**mean).mean()
    loss = pd.Series(np.maximum(-change, 0)).ewm(**mean).mean()
    wilder = 100 - 100 / (1 + gain / loss)
    expected = (wilder / 50 - 1).to_numpy()[400:]
    np.testing.assert_allclose(rsi(BarArrays.of(frame))[400:], expected, atol=0.01)


def test_macd_is_the_gap_of_two_means_over_price(frame):
    """Log prices make it equal to MACD over price up to the square of the moves."""
    close = frame["close"]
    fast, slow = (close.ewm(span=span, adjust=False).mean() for span in (12, 26))
    expected = ((fast - slow) / close).to_numpy()[300:]
    np.testing.assert_allclose(macd(BarArrays.of(frame))[300:], expected, atol=3e-3)


def test_realised_volatility_is_the_log_of_the_root_mean_square(frame):
    change = BarArrays.of(frame).change
    expected = np.log(np.sqrt(np.mean(change[77:101] ** 2)))
    assert realised_volatility(BarArrays.of(frame), 24)[100] == pytest.approx(expected)


def test_hours_and_weeks_come_round():
    index = pd.date_range("2024-01-01", periods=24 * 14, freq="1h", tz="UTC", name="open_time")
    frame = pd.DataFrame(1.0, index=index, columns=["open", "high", "low", "close", "volume"])
    names = ("hour_sin", "hour_cos", "week_sin", "week_cos")
    made = compute_features(BarArrays.of(frame), FeatureSpec(names))
    np.testing.assert_allclose(made[0], [0, 1, 0, 1], atol=1e-7)
    np.testing.assert_allclose(made[6, :2], [1, 0], atol=1e-7)
    np.testing.assert_allclose(made[84, 2:], [0, -1], atol=1e-7)
    np.testing.assert_allclose(made[:168], made[168:], atol=1e-7)


@pytest.mark.parametrize(("price", "volume"), [(1e-6, 1.0), (1e5, 1.0), (1.0, 1e-6), (1.0, 1e9)])
def test_features_have_no_units_of_price_or_volume(frame, price, volume):
    scaled = frame * [price, price, price, price, volume]
    np.testing.assert_allclose(every_feature(scaled), every_feature(frame), atol=2e-6)


def flat(frame):
    frame.loc[:, ["open", "high", "low", "close"]] = 100.0


def untraded(frame):
    frame["volume"] = 0.0


def bad_print(frame):
    frame.iloc[700, :4] *= 1e5


def seldom_traded(frame):
    frame.loc[frame.index.hour < 23, "volume"] = 0.0


@pytest.mark.parametrize("spoil", [flat, untraded, bad_print, seldom_traded])
def test_odd_bars_leave_every_feature_finite(frame, spoil):
    odd = frame.copy()
    spoil(odd)
    assert np.isfinite(every_feature(odd)).all()


def test_flat_and_untraded_bars_are_neutral(frame):
    odd = frame.copy()
    flat(odd)
    untraded(odd)
    bars = BarArrays.of(odd)
    assert not rsi(bars).any()
    assert not macd(bars).any()
    assert not volume_surprise(bars)[23:].any()


def test_no_volume_exceeds_the_stated_bounds(frame):
    odd = frame.copy()
    odd.iloc[500, 4], odd.iloc[501, 4] = 1e12, 0.0
    surprise = volume_surprise(BarArrays.of(odd))[23:]
    assert surprise.min() >= -4.7
    assert surprise.max() <= 3.2


@pytest.mark.parametrize("name", sorted(INDICATORS))
def test_a_feature_is_missing_at_most_during_its_warm_up(frame, name):
    made = compute_features(BarArrays.of(frame), FeatureSpec((name,)))[:, 0]
    assert np.isfinite(made[warm_up(name) :]).all()


@pytest.mark.parametrize(
    ("name", "bars"),
    [("close", 1), ("high", 0), ("volume", 23), ("volatility_24", 24), ("har_168", 167)],
)
def test_a_span_warms_up_by_counting(name, bars):
    assert warm_up(name) == bars


@pytest.mark.parametrize("name", ["rsi", "macd"])
def test_a_recursive_feature_needs_its_warm_up_and_no_more_than_that(name):
    """The worst history, a tenfold step just before the window, then silence.

    One bar before the warm-up ends the bound may still be met (it is a bound), but a
    quarter earlier the disturbance shows.
    """
    step = np.zeros(600)
    step[:10] = np.log(10.0)
    price = np.exp(np.cumsum(step) - 23)
    index = pd.date_range("2024-01-01", periods=600, freq="1h", tz="UTC", name="open_time")
    columns = dict.fromkeys(("open", "high", "low", "close"), price)
    frame = pd.DataFrame({**columns, "volume": 1.0}, index=index)
    indicator = find_indicator(name)
    full = np.asarray(indicator.compute(BarArrays.of(frame)))[10:]
    short = np.asarray(indicator.compute(BarArrays.of(frame.iloc[10:])))
    gap = np.abs(full - short)
    assert gap[indicator.warm_up :].max() < 1e-6
    assert gap[: indicator.warm_up * 3 // 4].min() > 1e-6


def test_a_registered_feature_is_computed_like_the_others(frame, plant):
    plant("body", lambda bars: np.log(bars.close / bars.open))
    made = compute_features(BarArrays.of(frame), FeatureSpec(("close", "body")))
    np.testing.assert_allclose(made[1:, 0], made[1:, 1], atol=1e-7)


def test_a_feature_must_return_one_value_a_bar(frame, plant):
    plant("short", lambda bars: bars.close[:5])
    with pytest.raises(FeatureError, match=r"'short' returned shape \(5,\)"):
        compute_features(BarArrays.of(frame), FeatureSpec(("short",)))


def test_names_are_not_taken_twice_and_built_in_ones_stay():
    with pytest.raises(FeatureError, match="exists already"):
        register_indicator("rsi", lambda bars: bars.close, warm_up=0)
    with pytest.raises(FeatureError, match="built in"):
        unregister_indicator("rsi")
    with pytest.raises(FeatureError, match="counts bars from 0"):
        register_indicator("new", lambda bars: bars.close, warm_up=-1)


def test_an_unknown_feature_is_refused_with_the_known_ones():
    with pytest.raises(FeatureError, match=r"'vwap' is unknown; known are close, .*volume_ratio"):
        FeatureSpec(("close", "vwap"))

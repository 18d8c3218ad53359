"""For any history: the past is not rewritten, the future not read, and live equals batch."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops.data.calendar import load_calendar
from mlops.data.simulator import Market, simulate
from mlops.features.bar_arrays import BarArrays
from mlops.features.dataset import Dataset
from mlops.features.indicators import INDICATORS
from mlops.features.spec import FeatureSpec, compute_features
from mlops.features.targets import TargetSpec, build_target, next_bar_returns
from mlops.service import Target, Timeframe

EVERY = FeatureSpec(tuple(INDICATORS))
HOUR = Timeframe("1h")
TARGET = TargetSpec(Target.VOLATILITY, 24)
N = EVERY.warm_up + 400
PARITY = 1e-6


@st.composite
def histories(draw):
    """Bars of any price and volume scale, with a bad print, a flat stretch and holes."""
    frame = simulate(
        Market(volatility=draw(st.sampled_from([1e-5, 5e-3, 0.05]))),
        N,
        seed=draw(st.integers(0, 10**6)),
    ).frame
    frame.iloc[:, :4] *= draw(st.sampled_from([1e-10, 1e-4, 1.0, 10.0]))
    frame["volume"] *= draw(st.sampled_from([1e-6, 1.0, 1e6]))
    if draw(st.booleans()):
        frame.iloc[draw(st.integers(0, N - 1)), :4] *= draw(st.sampled_from([1e-4, 1e4]))
    flat = draw(st.integers(0, N - 1))
    length = draw(st.sampled_from([0, 5, 300]))
    frame.iloc[flat : flat + length, :4] = frame.iloc[flat, 3]
    frame.iloc[flat : flat + length, 4] = 0.0
    gone = draw(st.sets(st.integers(1, N - 2), max_size=5))
    return frame.drop(frame.index[sorted(gone)])


def features(frame):
    return Dataset(frame, timeframe=HOUR, target=TARGET).matrix(EVERY)


@given(frame=histories(), cut=st.integers(1, 390))
@settings(max_examples=40, deadline=None)
def test_features_do_not_change_when_later_bars_arrive(frame, cut):
    whole = features(frame)[:-cut]
    np.testing.assert_array_equal(whole, features(frame.iloc[:-cut]))


@given(frame=histories(), cut=st.integers(1, 390), factor=st.sampled_from([1e-3, 0.9, 1e3]))
@settings(max_examples=40, deadline=None)
def test_features_do_not_change_when_later_bars_differ(frame, cut, factor):
    other = frame.copy()
    other.iloc[-cut:] *= factor
    np.testing.assert_array_equal(features(frame)[:-cut], features(other)[:-cut])


@given(frame=histories(), rows=st.integers(1, 60))
@settings(max_examples=60, deadline=None)
def test_a_live_window_equals_the_batch(frame, rows):
    """Live sees the warm-up and the window only, and starts after a bad print or in mid-hole."""
    live = features(frame.iloc[-(EVERY.warm_up + rows) :])[-rows:]
    batch = features(frame)[-rows:]
    assert np.abs(live - batch).max() <= PARITY


@given(frame=histories())
@settings(max_examples=40, deadline=None)
def test_features_are_finite_past_their_warm_up(frame):
    assert np.isfinite(features(frame)[EVERY.warm_up :]).all()


@st.composite
def hostile_bars(draw):
    """Any finite bars, which the rules of bars allow or do not: prices and volumes jump."""
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    exponent = draw(st.sampled_from([6, 29, 300, 323]))
    close = 10.0 ** rng.uniform(-exponent, min(exponent, 308), N)
    if draw(st.booleans()):
        close[::2], close[1::2] = close.min(), close.max()
    opened = np.concatenate([close[:1], close[:-1]])
    wide = draw(st.sampled_from([1.0, 1e6, 1e200]))
    with np.errstate(over="ignore", under="ignore"):
        high = np.minimum(np.maximum(opened, close) * wide, np.finfo(float).max)
        low = np.maximum(np.minimum(opened, close) / wide, 5e-324)
    volume = draw(st.sampled_from([0.0, 5e-324, 1.0, 1e305, np.finfo(float).max]))
    volumes = np.where(rng.uniform(size=N) < draw(st.sampled_from([0.0, 0.5, 1.0])), volume, 1.0)
    holes = rng.uniform(size=N) < draw(st.sampled_from([0.0, 0.01]))
    times = np.datetime64("2024-01-01T00", "ns") + np.arange(N) * np.timedelta64(1, "h")
    return BarArrays(opened, high, low, close, volumes, times, holes)


@pytest.mark.parametrize("name", INDICATORS)
@given(bars=hostile_bars())
@settings(max_examples=15, deadline=None)
def test_no_finite_bar_makes_a_feature_overflow(name, bars):
    spec = FeatureSpec((name,))
    assert np.isfinite(compute_features(bars, spec)[spec.warm_up :]).all()


@pytest.mark.parametrize("kind", Target)
@given(bars=hostile_bars())
@settings(max_examples=15, deadline=None)
def test_no_finite_bar_makes_a_label_overflow(kind, bars):
    labels = build_target(bars, TargetSpec(kind, 24), step=HOUR.step)
    assert labels.valid.any()
    assert np.isfinite(labels.y[labels.valid]).all()
    assert not np.isinf(next_bar_returns(bars)).any()


@given(frame=histories(), cut=st.integers(1, 390))
@settings(max_examples=40, deadline=None)
def test_a_known_label_is_never_revised(frame, cut):
    before = Dataset(frame.iloc[:-cut], timeframe=HOUR, target=TARGET).labels
    after = Dataset(frame, timeframe=HOUR, target=TARGET).labels
    known = np.flatnonzero(before.valid)
    np.testing.assert_array_equal(before.y[known], after.y[known])
    np.testing.assert_array_equal(before.known_at[known], after.known_at[known])


@given(seed=st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
def test_a_weekend_is_no_hole_for_a_market_that_closes(seed):
    index = load_calendar("FX").expected_opens(
        pd.Timestamp("2024-01-01", tz="UTC"), pd.Timestamp("2024-02-01", tz="UTC"), HOUR
    )
    frame = simulate(Market(), len(index), seed=seed).frame.set_axis(index, axis=0)
    data = Dataset(frame, timeframe=HOUR, target=TARGET, calendar=load_calendar("FX"))
    assert not data.holes.any()
    expected = compute_features(BarArrays.of(frame), EVERY)
    np.testing.assert_array_equal(data.matrix(EVERY), expected)

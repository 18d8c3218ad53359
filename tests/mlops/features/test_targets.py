"""Labels say what is forecast, when it is known, and what a naive forecaster would say."""

from datetime import timedelta

import numpy as np
import pytest

from mlops.errors import FeatureError
from mlops.features.bar_arrays import BarArrays
from mlops.features.indicators import log_range
from mlops.features.targets import TargetSpec, build_target, next_bar_returns
from mlops.service import Target

HOUR = timedelta(hours=1)


def labels(frame, kind, horizon, holes=None):
    bars = BarArrays.of(frame, holes)
    return bars, build_target(bars, TargetSpec(kind, horizon), step=HOUR)


def test_volatility_is_the_mean_log_range_ahead_and_its_persistence_the_mean_behind(frame):
    bars, made = labels(frame, Target.VOLATILITY, 24)
    size = log_range(bars)
    assert made.y[500] == pytest.approx(size[501:525].mean())
    assert made.persistence[500] == pytest.approx(size[477:501].mean())


def test_return_is_the_log_return_over_the_horizon_and_persistence_says_zero(frame):
    bars, made = labels(frame, Target.RETURN, 3)
    assert made.y[10] == pytest.approx(np.log(bars.close[13] / bars.close[10]))
    assert not made.persistence.any()


def test_price_is_the_future_close_and_persistence_the_last(frame):
    bars, made = labels(frame, Target.PRICE, 3)
    assert made.y[10] == bars.close[13]
    assert np.array_equal(made.persistence, bars.close)


def test_direction_is_one_for_up_and_its_persistence_the_rate_of_known_labels(frame):
    bars, made = labels(frame, Target.DIRECTION, 3)
    rises = bars.close[3:] > bars.close[:-3]
    assert np.array_equal(made.y[:-3], rises)
    # The label of row 497 is completed by bar 500, so the last 168 known are rows 330 to 497.
    assert made.persistence[500] == pytest.approx((rises[330:498].sum() + 1) / 170)


@pytest.mark.parametrize("kind", Target)
def test_a_label_is_known_at_the_close_of_its_last_bar(frame, kind):
    _, made = labels(frame, kind, 6)
    opened = frame.index.tz_localize(None).to_numpy()
    assert made.made_at[100] == opened[101]
    assert made.known_at[100] == opened[107]


@pytest.mark.parametrize("kind", Target)
def test_the_last_bars_have_no_label_yet_but_a_naive_forecast(frame, kind):
    _, made = labels(frame, kind, 6)
    assert np.isnan(made.y[-6:]).all()
    assert np.isnat(made.known_at[-6:]).all()
    assert np.isfinite(made.persistence[-6:]).all()
    assert not made.valid[-6:].any()
    assert made.valid[-7]


@pytest.mark.parametrize("kind", Target)
def test_a_label_whose_horizon_crosses_a_hole_does_not_exist(holed, kind):
    _, made = labels(*(holed[0], kind, 6, holed[1]))
    assert np.flatnonzero(np.isnan(made.y[:-6])).tolist() == list(range(794, 800))


@pytest.mark.parametrize("kind", Target)
def test_the_warm_up_counts_the_bars_before_the_first_naive_forecast(frame, kind):
    _, made = labels(frame, kind, 6)
    spec = TargetSpec(kind, 6)
    assert np.flatnonzero(np.isfinite(made.persistence))[0] == spec.warm_up


@pytest.mark.parametrize("kind", Target)
@pytest.mark.parametrize("n", [0, 1, 6, 7])
def test_hardly_any_bars_give_hardly_any_labels(frame, kind, n):
    _, made = labels(frame.iloc[:n], kind, 6)
    assert np.isfinite(made.y).sum() == max(0, n - 6)


def test_next_bar_returns_are_simple_and_skip_holes(holed):
    kept, holes = holed
    bars = BarArrays.of(kept, holes)
    returns = next_bar_returns(bars)
    assert returns[10] == pytest.approx(bars.close[11] / bars.close[10] - 1)
    assert np.flatnonzero(np.isnan(returns)).tolist() == [799, len(bars) - 1]


def test_a_target_by_its_name_is_the_target():
    assert TargetSpec("volatility", np.int64(24)) == TargetSpec(Target.VOLATILITY, 24)
    assert TargetSpec("volatility", 24).warm_up == 23
    assert TargetSpec("direction", 24.0).horizon == 24


@pytest.mark.parametrize(
    ("kind", "horizon", "said"),
    [
        ("vol", 1, "target 'vol' is not one of volatility, return"),
        (None, 1, "target None is not one of"),
        ("return", 1.5, "horizon 1.5 is not a whole number"),
        ("return", True, "horizon True is not a whole number"),
        ("return", None, "horizon None is not a whole number"),
    ],
)
def test_what_is_no_target_is_refused(kind, horizon, said):
    with pytest.raises(FeatureError, match=said):
        TargetSpec(kind, horizon)


def test_a_horizon_below_one_bar_is_refused():
    with pytest.raises(FeatureError, match="below 1 bar"):
        TargetSpec(Target.RETURN, 0)

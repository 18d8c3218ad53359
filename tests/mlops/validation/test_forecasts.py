"""Records of forecasts: what they refuse, and how a forecast becomes a position."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from mlops.errors import GateError
from mlops.service import Target

Y = np.array([0.1, -0.2, 0.3])


def test_a_record_of_unequal_arrays_is_refused(record):
    with pytest.raises(GateError, match="one length"):
        record(Y, Y[:2], target=Target.RETURN)


def test_rows_out_of_order_are_refused(record):
    rows = record(Y, Y, target=Target.RETURN)
    with pytest.raises(GateError, match="ascending"):
        replace(rows, made_at=rows.made_at[::-1])


def test_an_outcome_that_is_not_finite_is_refused(record):
    with pytest.raises(GateError, match="y holds 1 values"):
        record(np.array([0.1, np.nan, 0.2]), Y, target=Target.RETURN)


def test_a_price_without_a_last_price_is_refused(record):
    with pytest.raises(GateError, match="last price"):
        record(Y, Y, target=Target.PRICE)


def test_missing_forecasts_are_left_out_but_not_refused(record):
    rows = record(Y, np.array([1.0, np.nan, 2.0]), target=Target.RETURN).finite()
    assert_array_equal(rows.y, [0.1, 0.3])


def test_a_record_without_any_forecast_cannot_be_measured(record):
    rows = record(Y, np.full(3, np.nan), target=Target.RETURN)
    assert rows.finite_or_none() is None
    with pytest.raises(GateError, match="none of 3"):
        rows.finite()


@pytest.mark.parametrize(
    ("target", "persistence", "forecast", "edge"),
    [
        (Target.RETURN, None, 0.01, 0.01),
        (Target.PRICE, 100.0, 101.0, 0.01),
        (Target.DIRECTION, 0.5, 0.6, 0.1),
        (Target.VOLATILITY, -5.0, -4.5, 0.5),
    ],
)
def test_each_target_has_its_edge(record, target, persistence, forecast, edge):
    naive = None if persistence is None else np.full(3, persistence)
    rows = record(np.abs(Y), np.full(3, forecast), target=target, persistence=naive)
    assert_allclose(rows.edge(), edge)


def test_a_volatility_position_shrinks_with_the_volatility_forecast(record):
    persistence = np.full(3, -5.0)
    forecast = np.array([-5.0, -5.0 + np.log(2), -6.0])
    rows = record(Y, forecast, target=Target.VOLATILITY, persistence=persistence)
    assert_allclose(rows.positions(), [1.0, 0.5, 1.0])


def test_volatility_positions_read_no_future(record):
    rng = np.random.default_rng(0)
    y, naive, forecast = rng.standard_normal((3, 60))
    rows = record(y, forecast, target=Target.VOLATILITY, persistence=naive)
    later = replace(rows, persistence=np.concatenate([naive[:30], naive[30:] + 9]))
    assert_array_equal(rows.positions()[:30], later.positions()[:30])


def test_losses_of_prices_are_compared_in_units_of_known_volatility(record):
    """The same relative errors at a tenfold price weigh the same."""
    rng = np.random.default_rng(1)
    last = np.exp(np.cumsum(0.01 * rng.standard_normal(200)))
    y, forecast = last * 1.01, last * 1.02

    def losses(scale):
        return record(
            scale * y,
            scale * forecast,
            target=Target.PRICE,
            persistence=scale * last,
            returns=np.full(200, 0.01),
        ).comparable_losses()

    assert_allclose(losses(10), losses(1))
    assert_allclose(losses(1)[20:], 1.0)
    assert np.isnan(losses(1)[:20]).all()


def test_a_record_goes_on_where_an_earlier_one_ended(record):
    earlier = record(Y, Y, target=Target.RETURN)
    later = record(2 * Y, 3 * Y, target=Target.RETURN, start=10)
    whole = later.after(earlier)
    assert_array_equal(whole.y, [*Y, *2 * Y])
    assert_array_equal(whole.forecast, [*Y, *3 * Y])
    assert_array_equal(whole.fold, [0, 0, 0, 1, 1, 1])
    assert whole.made_at[3] == later.made_at[0]


def test_a_record_is_not_continued_by_rows_it_holds_or_of_another_target(record):
    earlier = record(Y, Y, target=Target.RETURN)
    with pytest.raises(GateError, match="ascending"):
        record(Y, Y, target=Target.RETURN, start=2).after(earlier)
    with pytest.raises(GateError, match="return, 1 bars ahead, cannot be continued by one of"):
        record(Y, Y, target=Target.VOLATILITY, start=9).after(earlier)

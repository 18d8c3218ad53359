"""Every bad input is refused with column and row."""

import numpy as np
import pandas as pd
import pytest

from mlops.data.cleaning import clean_bars
from mlops.errors import BarsError
from mlops.service import Timeframe
from tests.mlops.data.conftest import make_bars

NOW = pd.Timestamp("2024-02-01", tz="UTC")
N = 30


def refused(raw: pd.DataFrame, **arguments) -> BarsError:
    with pytest.raises(BarsError) as caught:
        clean_bars(raw, timeframe=Timeframe("1h"), now=NOW, **arguments)
    return caught.value


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("open", np.nan, "no number (NaN)"),
        ("close", np.inf, "an infinite value"),
        ("low", -1.0, "a price that is not positive"),
        ("close", 0.0, "a price that is not positive"),
        ("volume", -1.0, "a negative volume"),
        ("volume", np.nan, "no number (NaN)"),
        ("high", 1.0, "high below low"),
        ("high", "abc", "text where a number belongs"),
        ("close", "1,5", "pass decimal=','"),
        ("open", "", "text where a number belongs"),
        ("open", None, "no number (NaN)"),
    ],
)
def test_a_bad_value_is_refused_with_column_and_row(column, value, message):
    raw = make_bars(N).astype(object)
    raw.iloc[17, raw.columns.get_loc(column)] = value

    error = refused(raw)

    assert message in str(error)
    assert "in row 17 (counted from 0)" in str(error)
    assert (error.column, error.rows) == (column, (17,))


@pytest.mark.parametrize(
    ("column", "factor", "message"),
    [("high", 0.9999, "high below open or close"), ("low", 1.0001, "low above open or close")],
)
def test_open_and_close_lie_between_low_and_high(column, factor, message):
    raw = make_bars(N)
    raw.loc[raw.index[9], ["open", "high", "low", "close"]] = [100.0, 101.0, 99.0, 100.5]
    raw.loc[raw.index[9], column] = (100.5 if column == "high" else 100.0) * factor

    error = refused(raw)
    assert message in str(error)
    assert error.rows == (9,)


def test_rounding_is_no_violation():
    raw = make_bars(N)
    raw["high"] = raw[["open", "close"]].max(axis=1) * (1 - 1e-12)

    assert len(clean_bars(raw, timeframe=Timeframe("1h"), now=NOW).frame) == N


def test_rows_are_those_of_the_input_even_where_it_is_out_of_order():
    raw = make_bars(N)[::-1]
    raw.iloc[4, 0] = np.nan

    assert refused(raw).rows == (4,)


@pytest.mark.parametrize("column", ["open", "high", "low", "close", "volume"])
def test_a_missing_column_is_named_beside_what_was_got(column):
    error = refused(make_bars(N).drop(columns=column))

    assert error.column == column
    assert f"column {column!r} is missing; got " in str(error)


def test_a_doubled_column_is_refused():
    raw = make_bars(N)
    raw["Close"] = raw["close"]

    assert "occurs 2 times" in str(refused(raw))


def test_an_empty_table_is_refused():
    assert "no rows" in str(refused(make_bars(N)[:0]))


def test_no_time_is_refused():
    assert "no time column" in str(refused(make_bars(N).reset_index(drop=True)))


def test_a_time_column_that_is_not_there_is_refused():
    assert "time column 'when' is missing" in str(refused(make_bars(N), time_column="when"))


def test_a_column_of_dates_is_not_numbers():
    raw = make_bars(N)
    raw["close"] = raw.index

    error = refused(raw)
    assert "not numbers" in str(error)
    assert error.column == "close"


def test_a_stamp_within_a_minute_is_refused():
    raw = make_bars(N)
    raw.index = raw.index.where(raw.index != raw.index[3], raw.index[3] + pd.Timedelta("45s"))

    error = refused(raw.reset_index(names="time"), stamps="open")
    assert "overlaps" in str(error) or "whole minute" in str(error)
    assert error.column == "time"


def test_a_wrong_convention_is_refused():
    assert "neither 'open' nor 'close'" in str(refused(make_bars(N), stamps="middle"))

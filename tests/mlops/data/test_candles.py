"""An invalid candle of an exchange is left out and named; the bars around it are kept."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from mlops.data.candles import Candles, describe_invalid, screen_candles
from mlops.data.cleaning import clean_bars
from mlops.service import Timeframe
from tests.mlops.data.conftest import make_bars

HOUR = Timeframe("1h")
N = 100
ROW = 40

Change = Callable[[pd.DataFrame], None]


def screen(page: pd.DataFrame, timeframe: str = "1h", **arguments: pd.Timestamp) -> Candles:
    now = pd.Timestamp("2030-01-01", tz="UTC")
    return screen_candles(page, timeframe=Timeframe(timeframe), **{"now": now, **arguments})


def with_cell(column: str, cell: str | float | None) -> pd.DataFrame:
    page = make_bars(N).astype(object)
    page.iloc[ROW, list(page.columns).index(column)] = cell
    return page


def with_open(page: pd.DataFrame, row: int, opened: pd.Timestamp) -> pd.DataFrame:
    opens = pd.Series(page.index)
    opens[row] = opened
    return page.set_index(pd.DatetimeIndex(opens, name="open_time"))


@pytest.mark.parametrize(
    ("column", "cell", "what"),
    [
        ("open", 0.0, "open: a price that is not positive"),
        ("low", -1.0, "low: a price that is not positive"),
        ("close", None, "close: no finite number"),
        ("close", float("nan"), "close: no finite number"),
        ("high", float("inf"), "high: no finite number"),
        ("open", "", "open: no finite number"),
        ("open", "n/a", "open: no finite number"),
        ("volume", None, "volume: no finite number"),
        ("volume", -3.0, "volume: a negative volume"),
        ("volume", 1e306, "volume: a volume above 1e+305"),
        ("high", 1.0, "high: high below low"),
        ("low", 100.4, "low: low above open or close"),
        ("close", 1e31, "high: high below open or close"),
        ("low", 1e-31, "low: a price outside 1e-30 to 1e+30"),
        ("low", 1e-11, "high: a high more than 1e+12 times the low"),
    ],
)
def test_a_candle_that_breaks_a_rule_is_left_out_and_named(
    column: str, cell: str | float | None, what: str
) -> None:
    page = with_cell(column, cell)
    if column == "low" and cell == 100.4:
        page.iloc[ROW, :4] = [100.0, 101.0, 100.4, 100.5]

    candles = screen(page)

    assert candles.invalid == {page.index[ROW]: what}
    assert list(candles.sound.index) == [at for at in page.index if at != page.index[ROW]]
    assert candles.holds_bars
    clean_bars(candles.sound, timeframe=HOUR, now=pd.Timestamp("2030-01-01", tz="UTC"))


def test_right_bars_come_through_unchanged() -> None:
    page = make_bars(N)

    candles = screen(page)

    pd.testing.assert_frame_equal(candles.sound, page, check_freq=False)
    assert (candles.invalid, candles.repeated, candles.holds_bars) == ({}, 0, True)


@pytest.mark.parametrize("minutes", [1, 17, 30, 59])
def test_an_open_between_two_bars_is_none(minutes: int) -> None:
    page = make_bars(N)
    wrong = page.index[ROW] + pd.Timedelta(minutes=minutes)

    assert screen(with_open(page, ROW, wrong)).invalid == {
        wrong: "the open lies between those of two bars"
    }


def test_seconds_beside_a_whole_minute_are_no_fault() -> None:
    page = make_bars(N)
    late = page.index[ROW] + pd.Timedelta(milliseconds=900)

    assert not screen(with_open(page, ROW, late)).invalid


@pytest.mark.parametrize("bars", [1, 2])
def test_the_opens_of_stored_bars_tell_which_of_few_rows_is_wrong(bars: int) -> None:
    page = make_bars(bars)
    wrong = page.index[-1] + pd.Timedelta(minutes=30)

    candles = screen(with_open(page, bars - 1, wrong), known_open=page.index[0])

    assert list(candles.invalid) == [wrong]


def test_days_that_begin_at_another_hour_or_move_with_a_local_clock_are_bars() -> None:
    local = pd.date_range("2024-02-01", periods=90, freq="D", tz="Europe/Berlin")
    page = make_bars(90).set_index(local.tz_convert("UTC").rename("open_time"))

    assert not screen(page, "1d").invalid


def test_an_open_in_the_future_is_no_bar_and_the_bar_being_formed_is_left_alone() -> None:
    page = make_bars(N)
    now = page.index[-1] + pd.Timedelta(minutes=30)
    page.iloc[-1, 0] = np.nan
    page = with_open(page, ROW, pd.Timestamp("2200-01-01", tz="UTC"))

    candles = screen(page, now=now)

    assert candles.invalid == {pd.Timestamp("2200-01-01", tz="UTC"): "the open lies in the future"}
    assert candles.sound.index[-1] == now - pd.Timedelta(minutes=30)


def test_bars_that_opened_while_a_long_fetch_went_on_are_no_fault() -> None:
    page = make_bars(N)

    assert not screen(page, now=page.index[-6]).invalid


def test_of_two_readings_of_a_bar_the_later_one_is_kept() -> None:
    page = make_bars(N)
    earlier = page.iloc[[ROW]].copy()
    earlier["volume"] /= 2
    earlier["close"] = earlier["open"]

    candles = screen(pd.concat([page, earlier, page.iloc[[3]]]))

    assert (candles.invalid, candles.repeated) == ({}, 2)
    pd.testing.assert_frame_equal(candles.sound, page, check_freq=False)


def test_rows_of_one_open_that_contradict_each_other_are_both_left_out() -> None:
    page = make_bars(N)
    other = page.iloc[[ROW]] * 2

    candles = screen(pd.concat([page, other]))

    assert candles.invalid == {page.index[ROW]: "rows of this open contradict each other"}
    assert page.index[ROW] not in candles.sound.index


def test_a_broken_row_does_not_take_the_right_row_of_its_open_along() -> None:
    page = make_bars(N)
    broken = page.iloc[[ROW]] * 0

    candles = screen(pd.concat([broken, page]))

    assert (candles.invalid, candles.repeated) == ({}, 1)
    pd.testing.assert_frame_equal(candles.sound, page, check_freq=False)


def test_prices_that_no_market_has_beside_the_others_are_left_out() -> None:
    page = make_bars(N)
    page.iloc[ROW, :4] *= 1e15

    assert screen(page).invalid == {page.index[ROW]: "prices of another market"}


@pytest.mark.parametrize(
    ("broken", "holds_bars"),
    [
        (range(3), True),
        (range(30, 80), True),
        (range(51, 100), True),
        (range(60), True),
        (range(40, 100), True),
        ([*range(30), *range(60, 100)], False),
        (range(100), False),
    ],
)
def test_a_page_is_refused_that_is_mostly_invalid_from_end_to_end(
    broken: list[int], holds_bars: bool
) -> None:
    page = make_bars(N)
    page.iloc[list(broken)] = 0.0

    assert screen(page).holds_bars == holds_bars


def test_three_invalid_candles_alone_say_nothing_about_the_venue() -> None:
    assert screen(make_bars(3) * 0).holds_bars
    assert not screen(make_bars(4) * 0).holds_bars


def test_many_invalid_candles_are_told_shortly() -> None:
    page = make_bars(N)
    page.iloc[10:30, 4] = np.nan

    told = describe_invalid(screen(page).invalid)

    assert told.startswith("2024-01-01 10:00 UTC (volume: no finite number), 2024-01-01 11:00 UTC")
    assert told.endswith("and 10 more")

"""Calendars know closed hours from holes, and how many bars make a year."""

import pickle

import numpy as np
import pandas as pd
import pytest

from mlops.data.calendar import calendar_for, hole_before, load_calendar, missing_before
from mlops.errors import BarsError
from mlops.service import Timeframe


def frame_at(*stamps: str) -> pd.DataFrame:
    return pd.DataFrame(index=pd.DatetimeIndex(stamps, tz="UTC", name="open_time"))


# Fridays and Mondays around the start of summer time in New York (2024-03-10), and a holiday.
GAPS = [
    ("24/7", "1h", "2024-03-08 21:00", "2024-03-08 22:00", 0),
    ("24/7", "1h", "2024-03-08 21:00", "2024-03-08 23:00", 1),
    ("24/7", "1h", "2024-03-08 21:30", "2024-03-09 00:30", 2),
    ("FX", "1h", "2024-03-01 21:00", "2024-03-03 22:00", 0),
    ("FX", "1h", "2024-03-08 21:00", "2024-03-10 21:00", 0),
    ("FX", "1h", "2024-03-08 20:00", "2024-03-10 22:00", 2),
    ("FX", "1d", "2024-03-08 00:00", "2024-03-11 00:00", 0),
    ("FX", "1d", "2024-03-07 00:00", "2024-03-11 00:00", 1),
    ("24/5", "1h", "2024-03-08 23:00", "2024-03-11 00:00", 0),
    ("24/5", "1h", "2024-03-08 22:00", "2024-03-11 00:00", 1),
    ("XNYS", "1h", "2024-03-08 20:30", "2024-03-11 13:30", 0),
    ("XNYS", "1h", "2024-03-08 19:30", "2024-03-11 13:30", 0),
    ("XNYS", "1h", "2024-03-08 18:30", "2024-03-11 13:30", 1),
    ("XNYS", "1d", "2024-03-08 00:00", "2024-03-11 00:00", 0),
    ("XNYS", "1d", "2024-03-08 14:30", "2024-03-11 13:30", 0),
    ("XNYS", "1d", "2024-03-28 00:00", "2024-04-01 00:00", 0),
    ("XNYS", "1d", "2024-03-27 00:00", "2024-04-01 00:00", 1),
    # A session that is missing as a whole has seven hours, the last of them short.
    ("XNYS", "1h", "2024-03-12 19:30", "2024-03-14 13:30", 7),
    ("XNYS", "4h", "2024-03-12 17:30", "2024-03-13 13:30", 0),
    ("XNYS", "4h", "2024-03-12 13:30", "2024-03-13 13:30", 1),
    ("XNYS", "4h", "2024-03-12 17:30", "2024-03-14 13:30", 2),
    # Hours by the full hour; after Thanksgiving trading ends at 13:00.
    ("XNYS", "1h", "2024-03-12 19:00", "2024-03-13 13:00", 0),
    ("XNYS", "1h", "2024-11-29 17:00", "2024-12-02 14:00", 0),
    # Days by midnight in New York, over the change to summer time, and weeks.
    ("XNYS", "1d", "2024-03-08 05:00", "2024-03-11 04:00", 0),
    ("XNYS", "1d", "2024-03-07 05:00", "2024-03-11 04:00", 1),
    ("XNYS", "7d", "2024-03-04 00:00", "2024-03-11 00:00", 0),
    ("XNYS", "7d", "2024-03-04 00:00", "2024-03-25 00:00", 2),
    # Days by date, of sessions that open the evening before by UTC.
    ("XASX", "1d", "2024-03-08 00:00", "2024-03-11 00:00", 0),
    ("XASX", "1d", "2024-03-07 00:00", "2024-03-11 00:00", 1),
    ("CMES", "1d", "2024-03-08 00:00", "2024-03-11 00:00", 0),
    ("CMES", "1d", "2024-03-07 23:00", "2024-03-10 22:00", 0),
    # The daily halt, and lunch.
    ("CMES", "1h", "2024-03-12 20:00", "2024-03-12 22:00", 0),
    ("CMES", "1h", "2024-03-12 19:00", "2024-03-12 22:00", 1),
    ("XTKS", "5m", "2024-03-12 02:25", "2024-03-12 03:30", 0),
    ("XTKS", "5m", "2024-03-12 02:20", "2024-03-12 03:30", 1),
    ("XHKG", "1h", "2024-03-12 03:00", "2024-03-12 05:00", 0),
    ("XNYS-EXT", "1h", "2024-03-12 23:00", "2024-03-13 08:00", 0),
    ("XNYS-EXT", "1h", "2024-11-29 21:00", "2024-12-02 09:00", 0),
]


@pytest.mark.parametrize(("name", "timeframe", "first", "second", "missing"), GAPS)
def test_closed_hours_are_no_hole(name, timeframe, first, second, missing):
    frame, step, calendar = frame_at(first, second), Timeframe(timeframe), load_calendar(name)

    assert list(missing_before(frame.index, step, calendar)) == [0, missing]
    assert list(hole_before(frame, step, calendar)) == [False, missing > 0]


@pytest.mark.parametrize(
    ("name", "timeframe", "bars"),
    [
        ("24/7", "1h", 8_760),
        ("24/7", "1m", 525_600),
        ("24/7", "1d", 365),
        ("FX", "1h", 8_760 * 5 / 7),
        ("24/5", "1d", 261),
        ("XNYS", "1d", 252),
        ("XNYS", "1h", 252 * 7),
        ("XNYS", "4h", 251 * 2),
        ("XNYS", "7d", 52.2),
        ("24/7", "7d", 52.1),
        ("FX", "7d", 52.2),
        ("XTKS", "1h", 244 * 6),
        ("CMES", "1h", 256.5 * 23),
        ("XNYS-EXT", "1h", 252 * 16),
        ("XSAU", "1d", 249),
    ],
)
def test_a_year_has_the_bars_of_its_sessions(name, timeframe, bars):
    counted = load_calendar(name).bars_per_year(Timeframe(timeframe))

    assert counted == pytest.approx(bars, rel=0.005)


@pytest.mark.parametrize("start", ["2024-03-25", "2024-03-21 05:00", "2024-03-19"])
def test_weeks_of_a_market_that_never_closes_open_on_monday(start):
    begin, end = pd.Timestamp(start, tz="UTC"), pd.Timestamp("2024-04-09", tz="UTC")

    expected = load_calendar("24/7").expected_opens(begin, end, Timeframe("1w"))

    assert list(expected) == [pd.Timestamp(f"2024-{day}", tz="UTC") for day in
                              ("03-25", "04-01", "04-08")]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "timeframe", "opens"),
    [
        ("24/7", "1h", 168),
        ("24/7", "4h", 42),
        ("FX", "1h", 120),
        ("24/5", "1h", 120),
        ("XNYS", "1h", 28),
        ("XNYS", "1d", 4),
    ],
)
def test_expected_opens_of_the_week_of_good_friday(name, timeframe, opens):
    start, end = pd.Timestamp("2024-03-25", tz="UTC"), pd.Timestamp("2024-04-01", tz="UTC")

    expected = load_calendar(name).expected_opens(start, end, Timeframe(timeframe))

    assert len(expected) == opens
    assert expected.is_monotonic_increasing
    assert (expected >= start).all()
    assert (expected < end).all()


@pytest.mark.parametrize(
    ("venue", "symbol", "name"),
    [
        ("sample", "BTC/USD", "24/7"),
        ("sample", "EUR/USD", "FX"),
        ("file", "USD/JPY", "FX"),
        ("kraken", "EUR/USD", "24/7"),
        ("binance", "BTC/USDT:USDT", "24/7"),
        ("xnys", "AAPL/USD", "XNYS"),
        ("gate", "BTC/USDT", "24/7"),
        ("file", "XAU/USD", "FX"),
        ("file", "EURUSD", "FX"),
        ("file", "AAPL", "24/7"),
        ("file", "BRK.B", "24/7"),
        ("file", "ESZ24", "24/7"),
        ("file", "^GSPC", "24/7"),
        ("cmes", "ESZ24", "CMES"),
        ("okx", "BTC/USDT:USDT-241227", "24/7"),
    ],
)
def test_a_symbol_keeps_the_calendar_of_its_market(venue, symbol, name):
    assert calendar_for(venue, symbol).name == name


def test_an_unknown_calendar_is_refused():
    with pytest.raises(BarsError, match=r"'mars' is not known; use 24/7, FX or a code"):
        load_calendar("mars")


@pytest.mark.parametrize("name", ["24/7", "FX", "XNYS", "XNYS-EXT"])
def test_a_calendar_can_be_pickled(name):
    assert pickle.loads(pickle.dumps(load_calendar(name))) == load_calendar(name)


def test_years_before_a_calendar_are_refused_with_its_first_day():
    start, end = pd.Timestamp("1990-01-01", tz="UTC"), pd.Timestamp("1990-06-01", tz="UTC")
    with pytest.raises(BarsError, match=r"XTKS begins on 1997-01-01.*calendar=, such as '24/5'"):
        load_calendar("XTKS").expected_opens(start, end, Timeframe("1d"))


def test_years_that_no_calendar_reaches_are_refused():
    start, end = pd.Timestamp("2261-12-01", tz="UTC"), pd.Timestamp("2262-01-01", tz="UTC")
    with pytest.raises(BarsError, match=r"XNYS does not reach the years 2261 to 2262"):
        load_calendar("XNYS").expected_opens(start, end, Timeframe("1d"))


def test_past_the_years_whose_holidays_are_known_each_weekday_is_a_session():
    start, end = pd.Timestamp("2051-03-06", tz="UTC"), pd.Timestamp("2051-03-20", tz="UTC")

    opens = load_calendar("XSHG").expected_opens(start, end, Timeframe("1d"))

    assert len(opens) == 10
    assert set(opens.weekday) == {0, 1, 2, 3, 4}
    assert set(opens.strftime("%H:%M")) == {"01:30"}


@pytest.mark.parametrize(
    ("name", "timeframe", "opened", "outside"),
    [
        ("24/7", "1h", "2024-03-09 10:00", False),
        ("XNYS", "1h", "2024-03-12 13:00", False),
        ("XNYS", "1h", "2024-03-12 12:00", True),
        ("XNYS", "1h", "2024-03-12 20:00", False),
        ("XNYS", "1h", "2024-03-12 21:00", True),
        ("XNYS", "1h", "2024-03-29 15:00", True),
        ("XNYS", "1d", "2024-03-29 00:00", True),
        ("XNYS", "1d", "2024-03-28 04:00", False),
        ("XTKS", "5m", "2024-03-12 03:00", False),
        ("FX", "1d", "2024-03-10 00:00", False),
        ("FX", "1d", "2024-03-09 00:00", True),
        ("FX", "1h", "2024-03-09 00:00", True),
    ],
)
def test_a_bar_lies_outside_when_the_market_is_closed_while_it_lasts(
    name, timeframe, opened, outside
):
    found = load_calendar(name).find_outside(
        np.array([opened], "datetime64[ns]"), Timeframe(timeframe)
    )
    assert list(found) == [outside]


def test_two_bars_are_needed_for_a_hole():
    one, none = frame_at("2024-03-08"), frame_at()

    assert list(hole_before(one, Timeframe("1h"), load_calendar("FX"))) == [False]
    assert list(hole_before(none, Timeframe("1h"), load_calendar("FX"))) == []


def test_a_gap_while_the_market_is_closed_counts_no_missing_bar():
    frame = frame_at("2024-03-09 10:00", "2024-03-09 15:00")

    assert list(hole_before(frame, Timeframe("1h"), load_calendar("XNYS"))) == [False, False]


@pytest.mark.parametrize("timeframe", ["1d", "12h", "6h", "4h"])
@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe"])
def test_a_clock_change_is_no_hole_and_hides_none(timeframe, zone):
    local = pd.date_range("2023-01-01", "2024-12-31", freq=timeframe.replace("d", "D"))
    opened = local.tz_localize(zone, ambiguous=True, nonexistent="shift_forward")
    there = np.random.default_rng(1).random(len(opened)) > 0.3

    missing = missing_before(
        opened.tz_convert("UTC")[there], Timeframe(timeframe), load_calendar("24/7")
    )

    assert missing[1:].tolist() == (np.diff(np.flatnonzero(there)) - 1).tolist()


# A Friday; the hours of New York were UTC - 5, and Monday the 15th was a holiday.
COMING = [
    ("24/7", "1h", "2024-01-12 21:00", 24, "2024-01-13 21:00"),
    ("24/7", "4h", "2024-01-12 21:17", 3, "2024-01-13 09:17"),
    ("FX", "1h", "2024-01-12 22:00", 1, "2024-01-14 23:00"),
    ("FX", "1d", "2024-01-13 00:00", 2, "2024-01-17 00:00"),
    ("FX", "1d", "2024-01-12 22:00", 2, "2024-01-16 22:00"),
    ("XNYS", "1h", "2024-01-12 15:30", 0, "2024-01-12 15:30"),
    ("XNYS", "1h", "2024-01-12 15:30", 5, "2024-01-12 20:30"),
    ("XNYS", "1h", "2024-01-12 15:30", 6, "2024-01-12 21:30"),
    ("XNYS", "1h", "2024-01-12 15:30", 7, "2024-01-16 15:30"),
    # After the last, short bar of the session: three sessions of seven bars, and three bars.
    ("XNYS", "1h", "2024-01-12 21:30", 24, "2024-01-19 17:30"),
    # Hours by the full hour, the first of which is short.
    ("XNYS", "1h", "2024-01-12 15:00", 6, "2024-01-12 21:00"),
    ("XNYS", "1h", "2024-01-12 21:00", 1, "2024-01-16 15:00"),
    ("XNYS", "4h", "2024-01-12 18:30", 1, "2024-01-12 22:30"),
    ("XNYS", "4h", "2024-01-12 22:30", 1, "2024-01-16 18:30"),
    # Days by date, by midnight in New York and by the open.
    ("XNYS", "1d", "2024-01-13 00:00", 1, "2024-01-17 00:00"),
    ("XNYS", "1d", "2024-01-13 05:00", 1, "2024-01-17 05:00"),
    ("XNYS", "1d", "2024-01-13 14:30", 5, "2024-01-23 14:30"),
    ("XNYS", "7d", "2024-01-15 00:00", 2, "2024-01-29 00:00"),
    # Lunch begins within a bar of an hour, and within one of four.
    ("XTKS", "1h", "2024-01-12 03:00", 1, "2024-01-12 04:30"),
    ("XTKS", "4h", "2024-01-12 04:00", 1, "2024-01-12 07:30"),
    ("XTKS", "1d", "2024-01-12 15:00", 1, "2024-01-15 15:00"),
    ("CMES", "1h", "2024-01-12 22:00", 1, "2024-01-15 00:00"),
    # Past the holidays that are known, each weekday is a session.
    ("XSHG", "1h", "2098-06-06 07:00", 1, "2098-06-09 02:30"),
    ("XNYS", "1d", "2098-06-07 00:00", 1, "2098-06-10 00:00"),
]


@pytest.mark.parametrize(("name", "timeframe", "closed", "bars", "expected"), COMING)
def test_the_close_of_a_coming_bar_leaves_out_closed_hours(
    name: str, timeframe: str, closed: str, bars: int, expected: str
) -> None:
    at = pd.Timestamp(closed, tz="UTC")
    coming = load_calendar(name).close_after(at, bars, Timeframe(timeframe))
    assert f"{coming:%Y-%m-%d %H:%M}" == expected


def test_a_short_bar_that_some_sources_lack_is_left_out_on_demand() -> None:
    at, hour = pd.Timestamp("2024-01-12 20:30", tz="UTC"), Timeframe("1h")
    ends = [
        load_calendar("XNYS").close_after(at, 1, hour, skip_short=skip) for skip in (False, True)
    ]
    assert [f"{end:%d %H:%M}" for end in ends] == ["12 21:30", "16 15:30"]


@pytest.mark.parametrize("name", ["24/7", "FX", "XNYS", "XTKS", "CMES"])
@pytest.mark.parametrize("timeframe", ["5m", "1h", "4h", "1d"])
def test_each_expected_bar_closes_as_many_bars_after_the_first_as_it_is_further_on(
    name: str, timeframe: str
) -> None:
    step, calendar = Timeframe(timeframe), load_calendar(name)
    start = pd.Timestamp("2023-11-06", tz="UTC")
    opens = calendar.expected_opens(start, start + pd.Timedelta(days=60), step)
    for bars in (1, 7, len(opens) - 1):
        closes = calendar.close_after(opens[0] + step.step, bars, step)
        assert closes == opens[bars] + step.step

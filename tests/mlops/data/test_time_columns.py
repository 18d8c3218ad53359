"""The time of bars is found in a column, two columns or the index, and its end of the bar told."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from mlops.data.cleaning import clean_bars
from mlops.errors import BarsError
from mlops.service import Timeframe
from tests.mlops.data.conftest import make_bars

NOW = pd.Timestamp("2024-06-01", tz="UTC")
HOURS = make_bars(60)


def opens_of(raw: pd.DataFrame, timeframe: str = "1h", **arguments) -> pd.DatetimeIndex:
    arguments = {"timezone": "UTC", **arguments}
    frame = clean_bars(raw, timeframe=Timeframe(timeframe), now=NOW, **arguments).frame
    return pd.DatetimeIndex(frame.index)


def refused(raw: pd.DataFrame, timeframe: str = "1h", **arguments) -> str:
    with pytest.raises(BarsError) as caught:
        opens_of(raw, timeframe, **arguments)
    return str(caught.value)


def with_columns(**columns) -> pd.DataFrame:
    return HOURS.reset_index(drop=True).assign(**columns)


class TestIndex:
    """Times in the index are found whatever its type."""

    @pytest.mark.parametrize(
        "index",
        [
            HOURS.index.astype("timestamp[us, UTC][pyarrow]"),
            HOURS.index.tz_localize(None).astype("timestamp[ms][pyarrow]"),
            HOURS.index.strftime("%Y-%m-%d %H:%M"),
            pd.Index(HOURS.index.strftime("%Y-%m-%dT%H:%MZ"), dtype="string[pyarrow]"),
            HOURS.index.tz_localize(None).to_period("h"),
            pd.Index(HOURS.index.tz_convert("Asia/Kolkata").to_pydatetime(), dtype=object),
            pd.Index(HOURS.index.as_unit("ms").asi8, name="timestamp"),
            pd.MultiIndex.from_product([["BTC"], HOURS.index]),
        ],
        ids=lambda index: str(index.dtype),
    )
    def test_times_of_any_type_are_found(self, index):
        assert list(opens_of(HOURS.set_axis(index))) == list(HOURS.index)

    def test_days_of_arrow_are_found(self):
        days = make_bars(30, freq="1D")
        index = pd.Index(pd.arrays.ArrowExtensionArray(pa.array(days.index.date)))
        assert list(opens_of(days.set_axis(index), "1d")) == list(days.index)

    def test_an_index_is_named_as_a_column_is(self):
        raw = HOURS.rename_axis("when").assign(date="2024-01-01")
        assert list(opens_of(raw, time_column="When")) == list(HOURS.index)

    @pytest.mark.parametrize("index", [range(60), np.arange(60.0), ["row"] * 60])
    def test_row_numbers_and_labels_are_no_times(self, index):
        message = refused(HOURS.set_axis(pd.Index(index)))
        assert "no time column; got open, high" in message

    def test_an_index_of_two_symbols_is_refused(self):
        both = pd.concat({"BTC": HOURS, "ETH": HOURS}, names=["symbol", "date"])
        assert "the index has 2 values of 'symbol': BTC, ETH" in refused(both)


class TestDateAndClock:
    """A date and a time of day in two columns are one time once the caller names both."""

    @pytest.mark.parametrize(
        ("date_form", "clock_form"),
        [
            ("%Y-%m-%d", "%H:%M"),
            ("%Y.%m.%d", "%H:%M:%S"),
            ("%Y%m%d", "%H%M%S"),
            ("%Y%m%d", "%H%M"),
            ("%Y/%m/%d", "%I:%M %p"),
            ("%Y-%m-%d", "%H"),
        ],
    )
    def test_text(self, date_form, clock_form):
        raw = with_columns(
            Date=HOURS.index.strftime(date_form), Time=HOURS.index.strftime(clock_form)
        )
        assert list(opens_of(raw, time_column="Date+Time")) == list(HOURS.index)

    @pytest.mark.parametrize("factor", [1, 100, 10_000])
    def test_numbers_that_lost_their_leading_zeros(self, factor):
        days = HOURS.index.strftime("%Y%m%d").astype(int)
        raw = with_columns(date=days, time=HOURS.index.hour * factor)
        assert list(opens_of(raw, time_column="date+time")) == list(HOURS.index)

    def test_objects(self):
        for days, clocks in (
            (HOURS.index.date, HOURS.index.time),
            (HOURS.index.normalize().tz_localize(None), HOURS.index.hour * pd.Timedelta("1h")),
            (pd.array(HOURS.index.date, dtype="date32[pyarrow]"), HOURS.index.hour),
        ):
            raw = with_columns(date=days, hour=clocks)
            assert list(opens_of(raw, time_column="Date+Hour")) == list(HOURS.index)

    def test_names_in_angle_brackets(self):
        raw = with_columns(
            **{"<DATE>": HOURS.index.strftime("%Y.%m.%d"), "<TIME>": HOURS.index.strftime("%H:%M")}
        ).rename(columns=lambda name: name if "<" in name else f"<{name.upper()}>")
        assert "pass time_column='date+time'" in refused(raw)
        for names in ("date+time", "<DATE>+<TIME>"):
            assert list(opens_of(raw, time_column=names)) == list(HOURS.index)

    def test_the_form_is_that_of_both(self):
        raw = with_columns(
            day=HOURS.index.strftime("%d %b %Y"), clock=HOURS.index.strftime("%H%M").astype(int)
        )
        opens = opens_of(raw, time_column="day+clock", time_format="%d %b %Y %H%M")
        assert list(opens) == list(HOURS.index)

    def test_closes_have_their_name_in_one_of_the_two(self):
        closes = HOURS.index + timedelta(hours=1)
        raw = with_columns(date=closes.strftime("%Y-%m-%d"), close_time=closes.strftime("%H:%M"))
        assert "pass time_column='date+close_time'" in refused(raw)
        assert "pass stamps='close'" in refused(raw, time_column="date+close_time")
        opens = opens_of(raw, time_column="date+close_time", stamps="close")
        assert list(opens) == list(HOURS.index)

    def test_a_column_of_both_names_is_that_column(self):
        raw = with_columns(**{"date+time": HOURS.index, "date": "?", "time": "?"})
        assert list(opens_of(raw, time_column="Date+Time")) == list(HOURS.index)

    @pytest.mark.parametrize("clock", ["time", "Hour", "close_time", "Clock", "<TIME>", "candle"])
    def test_a_clock_beside_the_date_is_not_passed_over(self, clock):
        raw = with_columns(Date=HOURS.index.strftime("%Y-%m-%d"))
        raw[clock] = HOURS.index.hour if clock == "Hour" else HOURS.index.strftime("%H:%M")
        name = clock.lower().strip("<>")
        assert f"pass time_column='date+{name}' to join them" in refused(raw)

    @pytest.mark.parametrize("form", ["%H%M%S", "%H%M", "%H"])
    @pytest.mark.parametrize("kind", [str, int])
    def test_a_clock_of_digits_is_not_passed_over_either(self, form, kind):
        clocks = [kind(text) for text in HOURS.index.strftime(form)]
        raw = with_columns(date=HOURS.index.strftime("%Y%m%d").astype(kind), time=clocks)
        assert "pass time_column='date+time' to join them" in refused(raw)
        assert list(opens_of(raw, time_column="Date+Time")) == list(HOURS.index)

    def test_other_digits_beside_a_date_are_no_clock(self):
        days = make_bars(30, freq="1D")
        raw = days.reset_index(drop=True).assign(Date=days.index.strftime("%Y-%m-%d"))
        assert len(opens_of(raw.assign(timeframe="1440", trades=7), "1d")) == 30

    def test_days_alone_may_be_meant(self):
        days = make_bars(30, freq="1D")
        raw = days.reset_index(drop=True).assign(Date=days.index.strftime("%Y-%m-%d"), Time="16:00")
        assert "time_column='date' for dates alone" in refused(raw, "1d")
        assert list(opens_of(raw, "1d", time_column="Date")) == list(days.index)

    @pytest.mark.parametrize(
        ("days", "clocks", "message"),
        [
            ("2024-01-01", "25:00", "'2024-01-01 25:00' is no date"),
            ("2024-01-01", None, "column 'time': no value in rows 0"),
            (HOURS.index, "01:00", "has a time of day already in rows 1"),
        ],
    )
    def test_what_cannot_be_joined_is_refused(self, days, clocks, message):
        raw = with_columns(date=days, time=clocks)
        assert message in refused(raw, time_column="date+time")

    def test_a_missing_part_is_named(self):
        message = refused(with_columns(date="2024-01-01"), time_column="Date+Time")
        assert "time column 'time' is missing; got open, high" in message


class TestEndOfBar:
    """A stamp just before a whole minute ends a bar; it never opens one."""

    @pytest.mark.parametrize(
        ("timeframe", "early"),
        [
            ("1h", timedelta(seconds=1)),
            ("1h", timedelta(milliseconds=1)),
            ("1h", timedelta(microseconds=1)),
            ("1d", timedelta(seconds=1)),
            ("1d", timedelta(milliseconds=1)),
            ("1m", timedelta(milliseconds=1)),
            ("1m", timedelta(seconds=1)),
            ("4h", timedelta(seconds=1)),
        ],
    )
    @pytest.mark.parametrize("zone", ["UTC", "America/New_York"])
    def test_last_moments_are_closes(self, timeframe, early, zone):
        step = Timeframe(timeframe).step
        bars = make_bars(30, freq=step)
        closes = (bars.index + step - early).tz_convert(zone).tz_localize(None)
        for raw in (
            bars.set_axis(closes),
            bars.reset_index(drop=True).assign(date=closes.astype(str)),
            bars.set_axis(closes.rename("open_time")),
        ):
            message = refused(raw, timeframe, timezone=zone)
            assert "is the last moment of a bar and not its open in rows 0, 1" in message
            assert message.endswith("pass stamps='close'")
            opens = opens_of(raw, timeframe, timezone=zone, stamps="close")
            assert list(opens) == list(bars.index)

    def test_a_few_among_opens_are_no_closes_of_the_file(self):
        index = HOURS.index.to_list()
        index[7] -= timedelta(milliseconds=100)
        message = refused(HOURS.set_axis(pd.DatetimeIndex(index)))
        assert "in row 7 (counted from 0); the other rows are stamped at whole minutes" in message

    @pytest.mark.parametrize("late", [timedelta(seconds=1), timedelta(milliseconds=137)])
    @pytest.mark.parametrize("stamps", ["open", "close"])
    def test_a_little_after_the_minute_is_the_minute(self, late, stamps):
        shift = timedelta(hours=1) if stamps == "close" else timedelta(0)
        raw = HOURS.set_axis((HOURS.index + shift + late).rename("time"))
        assert list(opens_of(raw, stamps=stamps)) == list(HOURS.index)

    def test_nanoseconds_as_floats_end_no_bar(self):
        raw = with_columns(timestamp=HOURS.index.as_unit("ns").asi8.astype(float))
        assert list(opens_of(raw)) == list(HOURS.index)

    @pytest.mark.parametrize("name", ["open_time", "Open Time", "openTime", "time_open"])
    def test_a_column_of_opens_is_not_taken_for_closes(self, name):
        message = refused(with_columns(**{name: HOURS.index}), stamps="close", time_column=name)
        assert "holds opens but stamps='close'; pass stamps='open'" in message

    @pytest.mark.parametrize("name", ["close_time", "Close time", "closeTime", "time_close"])
    def test_a_column_of_closes_is_not_taken_for_opens(self, name):
        message = refused(with_columns(**{name: HOURS.index}), time_column=name)
        assert "holds closes but stamps='open'; pass stamps='close'" in message


def test_the_form_is_that_of_the_date_and_the_unit_that_of_unix_time():
    raw = with_columns(
        unix=HOURS.index.as_unit("s").asi8, date=HOURS.index.strftime("%d %b %Y %H:%M")
    )
    assert list(opens_of(raw, time_format="%d %b %Y %H:%M")) == list(HOURS.index)
    assert "column 'date': '01 Jan 2024 00:00' is no date" in refused(raw, time_format="s")


def test_a_time_column_of_two_spellings_is_refused():
    raw = with_columns(Date=HOURS.index, date=HOURS.index)
    assert "column 'date' occurs 2 times" in refused(raw)


class TestHelperColumns:
    """A date beside an index of times that name their zone is a helper, made of the index."""

    @pytest.mark.parametrize("name", [None, "Datetime", "t"])
    @pytest.mark.parametrize("time_column", [None, "index"])
    def test_the_index_goes_before_a_helper_of_dates(self, name, time_column):
        raw = HOURS.rename_axis(name).assign(date=HOURS.index.date, hour=HOURS.index.hour)
        wanted = name if time_column and name else time_column
        assert list(opens_of(raw, time_column=wanted)) == list(HOURS.index)

    def test_a_nameless_index_without_a_zone_can_be_named(self):
        raw = HOURS.tz_localize(None).rename_axis(None).assign(date=HOURS.index.date)
        assert list(opens_of(raw, time_column="index")) == list(HOURS.index)


def test_of_two_columns_one_bar_apart_the_later_one_is_told_to_hold_closes():
    closes = HOURS.index + timedelta(hours=1)
    raw = with_columns(unix=closes.as_unit("s").asi8, date=HOURS.index)
    said = refused(raw)
    assert "pass time_column='date', or time_column='unix' with stamps='close'" in said
    for arguments in ({"time_column": "date"}, {"time_column": "unix", "stamps": "close"}):
        assert list(opens_of(raw, **arguments)) == list(HOURS.index)


def test_of_two_columns_that_disagree_both_are_named():
    unix = (HOURS.index + timedelta(hours=5)).as_unit("s").asi8
    said = refused(with_columns(unix=unix, date=HOURS.index))
    assert "pass time_column='unix' or time_column='date', whichever holds the opens" in said

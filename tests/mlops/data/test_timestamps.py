"""Every way a vendor writes time is parsed explicitly or refused with its rows."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops.data.timestamps import parse_stamps
from mlops.errors import BarsError

NOW = pd.Timestamp("2024-06-01", tz="UTC")


def parse(values, **arguments) -> list[str]:
    arguments = {"timezone": None, **arguments}
    stamps = parse_stamps(pd.Series(values, name="time"), now=NOW, **arguments)
    return [str(stamp) for stamp in stamps.tz_localize(None)]


@pytest.mark.parametrize(
    "text",
    [
        "2024-01-02T15:00:00Z",
        "2024-01-02 15:00:00+00:00",
        "2024-01-02T16:00+0100",
        "2024-01-02 03:00 PM UTC",
        "2024-01-02 03-PM Z",
        "2024/1/2 15:00:00.000 UTC",
        " \t2024-01-02  15:00   Z \n",
    ],
)
def test_a_stamp_with_a_zone_needs_no_argument(text):
    assert parse([text]) == ["2024-01-02 15:00:00"]


@pytest.mark.parametrize(
    ("text", "dayfirst"),
    [
        ("2024-01-02 15:00", None),
        ("2024-01-02 3:00 pm", None),
        ("02.01.2024 15:00:00.000", True),
        ("02/01/2024 3:00 PM", True),
        ("01/02/2024 15:00", False),
    ],
)
def test_a_naive_stamp_is_read_in_the_zone_that_is_named(text, dayfirst):
    assert parse([text], timezone="UTC", dayfirst=dayfirst) == ["2024-01-02 15:00:00"]


def test_midnight_and_noon_of_the_12_hour_clock():
    texts = ["2024-01-02 12-AM", "2024-01-02 01-AM", "2024-01-02 12-PM", "2024-01-02 11-PM"]

    hours = [stamp[11:13] for stamp in parse(texts, timezone="UTC")]
    assert hours == ["00", "01", "12", "23"]


def test_two_formats_in_one_column_are_both_read():
    texts = ["2024-01-02 12-AM", "2024-01-02 13:00:00", "03.01.2024 14:00"]

    days = parse(texts, timezone="UTC", dayfirst=True)
    assert days == ["2024-01-02 00:00:00", "2024-01-02 13:00:00", "2024-01-03 14:00:00"]


@pytest.mark.parametrize(
    ("values", "arguments", "message", "rows"),
    [
        (["2024-01-02 15:00"], {}, "name no zone; pass timezone", ()),
        (["2024-01-02 15:00"], {"timezone": "Mars/Base"}, "'Mars/Base' is not known", ()),
        (["2024-01-02 1:00Z", "03/04/2024 1:00Z"], {}, "day-first or month-first", (1,)),
        (["13/14/2024 1:00Z"], {"dayfirst": True}, "is no date", (0,)),
        (["2024-02-30 1:00Z"], {}, "is no date", (0,)),
        (["2024-01-02 24:00Z"], {}, "is no date", (0,)),
        (["2024-01-02 1:60Z"], {}, "is no date", (0,)),
        (["2024-01-02 0:30 AM Z"], {}, "is no date", (0,)),
        (["2024-01-02 15:30 PM Z"], {}, "is no date", (0,)),
        (["2024-01-02 1:00Z", "yesterday"], {}, "'yesterday' is no date", (1,)),
        (["1/2/24 1:00Z"], {}, "is no date", (0,)),
        (["2024-01-02 1:00Z", "2024-01-02 2:00"], {}, "no zone where other rows", (1,)),
        (["2024-01-02 1:00Z", "1704153600"], {}, "numbers and dates mixed", (1,)),
        (["2024-01-02 1:00Z", None], {}, "no time in row 1", (1,)),
        ([1704153600, 20240102], {}, "is no Unix time between 2009 and tomorrow", (1,)),
        ([1704153600.0, float("nan")], {}, "no time in row 1", (1,)),
        (["2008-12-31 23:00Z"], {}, "outside 2009 to tomorrow", (0,)),
        (["2024-06-03 00:00Z"], {}, "outside 2009 to tomorrow", (0,)),
        ([1717372800], {}, "is no Unix time between 2009 and tomorrow", (0,)),
    ],
)
def test_stamps_that_cannot_be_parsed_are_refused_with_their_rows(values, arguments, message, rows):
    with pytest.raises(BarsError, match=message) as caught:
        parse(values, **arguments)

    assert caught.value.column in ("time", None)
    assert caught.value.rows == rows


def test_space_within_a_stamp_costs_in_proportion_to_its_length():
    """With the square of its length these spaces would take an hour."""
    with pytest.raises(BarsError, match="is no date"):
        parse(["2024-01-02" + " " * 500_000 + "x"])


def test_many_bad_rows_are_counted_and_the_first_named():
    with pytest.raises(BarsError, match=r"rows 0, 1, 2, 3, 4 and 15 more \(counted from 0\)"):
        parse(["?"] * 20, timezone="UTC")


@pytest.mark.parametrize("written", [int, float, str])
def test_the_unit_of_unix_time_is_found_row_by_row(written):
    second = 1704153600
    values = [written(second * factor) for factor in (1, 10**3, 10**6)]

    assert parse(values) == ["2024-01-02 00:00:00"] * 3


def test_nanoseconds_survive_as_text_and_number():
    assert parse([1704153600 * 10**9]) == parse([str(1704153600 * 10**9)])


@given(
    seconds=st.lists(st.integers(1230768000, 1717200000), min_size=1, max_size=20),
    unit=st.lists(st.sampled_from([1, 10**3, 10**6, 10**9]), min_size=20, max_size=20),
)
def test_any_mixture_of_units_gives_the_same_stamps(seconds, unit):
    mixed = [second * factor for second, factor in zip(seconds, unit, strict=False)]

    stamps = parse_stamps(pd.Series(mixed, name="t", dtype="int64"), now=NOW, timezone=None)
    assert list(stamps.asi8 // 10**9) == seconds


class TestSummerTime:
    """Berlin: 2023-03-26 has no 02:00, 2023-10-29 has 02:00 twice."""

    ZONE = "Europe/Berlin"

    def local_day(self, day: str) -> tuple[pd.DatetimeIndex, list[str]]:
        hours = pd.date_range(day, periods=30, freq="h", tz="UTC")
        return hours, [f"{hour:%Y-%m-%d %H:%M}" for hour in hours.tz_convert(self.ZONE)]

    @pytest.mark.parametrize("day", ["2023-03-25 12:00", "2023-10-28 12:00"])
    @pytest.mark.parametrize("newest_first", [False, True])
    def test_no_hour_is_lost_or_doubled(self, day, newest_first):
        hours, local = self.local_day(day)
        order = slice(None, None, -1 if newest_first else 1)

        stamps = parse_stamps(pd.Series(local[order], name="t"), now=NOW, timezone=self.ZONE)

        assert list(stamps) == list(hours[order])

    def test_an_hour_that_does_not_exist_is_refused(self):
        with pytest.raises(BarsError, match=r"does not exist in Europe/Berlin") as caught:
            parse(["2023-03-26 01:00", "2023-03-26 02:00"], timezone=self.ZONE)
        assert caught.value.rows == (1,)

    def test_half_of_a_doubled_hour_is_refused(self):
        with pytest.raises(BarsError, match=r"happened twice in Europe/Berlin") as caught:
            parse(["2023-10-29 01:00", "2023-10-29 02:00"], timezone=self.ZONE)
        assert caught.value.rows == (1,)


def test_stamps_that_are_times_already_keep_their_moment():
    naive = pd.date_range("2024-01-02", periods=2, freq="h")
    aware = naive.tz_localize("America/New_York")

    assert parse(naive, timezone="America/New_York") == parse(aware)
    assert parse(aware)[0] == "2024-01-02 05:00:00"


def test_a_naive_time_object_needs_a_zone_too():
    with pytest.raises(BarsError, match="name no zone"):
        parse(pd.date_range("2024-01-02", periods=2, freq="h"))


def test_float_seconds_keep_their_fraction():
    assert parse(np.array([1704153600.25])) == ["2024-01-02 00:00:00.250000"]

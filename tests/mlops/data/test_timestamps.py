"""Every way a vendor writes time is parsed explicitly or refused with its rows."""

from datetime import UTC, date, datetime, time
from decimal import Decimal
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
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
        "2024-01-02 15:00:00+00",
        "2024-01-02 10:00-05",
        "2024-01-02 20:30:00+0530",
        "2024-01-02T20:30:00.000+05:30",
        "2024-01-02 15:00 GMT",
        "2024-01-02 16:00 UTC+1",
        "2024-01-02 20:30 GMT+0530",
        "2024-01-02t15:00:00z",
        "2024-01-02 10:00:00\u221205:00",
        "2024-01-02 3:00\u202fPM UTC",
        "20240102T150000Z",
        "20240102T150000.000Z",
        "20240102T1500Z",
        "20240102T15Z",
        "20240102 160000+0100",
        "20240102 16:00:00+01",
        "2024-01-02T16:00+01:00[Europe/Berlin]",
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
        ("20240102 1500", None),
        ("202401021500", None),
        ("20240102150000", None),
        (202401021500, None),
        (20240102150000.0, None),
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
        (["1799-12-31 23:00Z"], {}, "outside 1800 to tomorrow", (0,)),
        (["2024-01-02 1:00Z", "9999-12-31 23:59:59Z"], {}, "is no date of 1800 to 2200", (1,)),
        (["2024-01-02 1:00Z", "1000-01-01 0:00Z"], {}, "is no date of 1800 to 2200", (1,)),
        (["02012024 0000", "25012024 0000"], {"timezone": "UTC"}, "is no date in", (0, 1)),
        (["2024-06-03 00:00Z"], {}, "outside 1800 to tomorrow", (0,)),
        (["2024-01-02 1:00-05", "2024-01-02-05"], {}, "is no date", (1,)),
        (["2024-01-02 1:00+16:00"], {}, "is no date", (0,)),
        (["2024-01-02 1:00+01:60"], {}, "is no date", (0,)),
        (["2024-01-02 1:00+1"], {}, "a zone is Z, UTC, GMT or an offset such as", (0,)),
        (["2024-01-02 1:00 EST"], {}, "time_format='%Y-%m-%d %H:%M EST'", (0,)),
        (["20241302"], {"timezone": "UTC"}, "is no date", (0,)),
        ([20240102, 20241302], {"timezone": "UTC"}, "'20241302' is no date", (1,)),
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


@pytest.mark.parametrize("day", [20240102, 20240102.0, "20240102", np.int32(20240102)])
def test_a_day_written_as_one_number_is_a_date(day):
    assert parse([day], timezone="America/New_York") == ["2024-01-02 05:00:00"]


@pytest.mark.parametrize("text", ["2007-01-02T15:00Z", "1928-01-03 00:00Z", "1800-01-01 00:00Z"])
def test_dates_reach_back_as_far_as_markets_do(text):
    assert parse([text])[0][:16] == text[:16].replace("T", " ")


class TestTimeFormat:
    """A form that the caller names is kept to; the unit of Unix time may be named as well."""

    @pytest.mark.parametrize(
        ("text", "time_format", "timezone"),
        [
            ("02 Jan 2024 15:00", "%d %b %Y %H:%M", "UTC"),
            ("Jan 2, 2024 3:00 PM", "%b %d, %Y %I:%M %p", "UTC"),
            ("Tuesday, 2 January 2024 15h", "%A, %d %B %Y %Hh", "UTC"),
            ("2/1/24 15:00", "%d/%m/%y %H:%M", "UTC"),
            ("2024-01-02 10:00 EST", "%Y-%m-%d %H:%M EST", "America/New_York"),
            ("2024-01-02 10:00 -0500", "%Y-%m-%d %H:%M %z", None),
            ("Tue, 02 Jan 2024 15:00:00 GMT", "%a, %d %b %Y %H:%M:%S %Z", None),
            (20240102150000, "%Y%m%d%H%M%S", "UTC"),
            (240102150000.0, "%y%m%d%H%M%S", "UTC"),
        ],
    )
    def test_text_is_read_in_the_form_that_is_named(self, text, time_format, timezone):
        stamps = parse([text], time_format=time_format, timezone=timezone)
        assert stamps == ["2024-01-02 15:00:00"]

    def test_the_order_of_day_and_month_is_that_of_the_form(self):
        stamps = parse(["2024-02-01"], time_format="%Y-%d-%m", timezone="UTC")
        assert stamps == ["2024-01-02 00:00:00"]

    @pytest.mark.parametrize("written", [int, float, str])
    @pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
    def test_unix_time_of_a_named_unit_reaches_back_before_2009(self, unit, written):
        factor = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
        number = int(pd.Timestamp("1998-05-01 12:00", tz="UTC").timestamp()) * factor
        assert parse([written(number)], time_format=unit) == ["1998-05-01 12:00:00"]

    def test_unix_time_before_1970_is_negative(self):
        assert parse([-86400], time_format="s") == ["1969-12-31 00:00:00"]

    @pytest.mark.parametrize(
        ("values", "time_format", "message", "rows"),
        [
            (["2024-01-02", "02.01.2024"], "%Y-%m-%d", "'02.01.2024' does not match", (1,)),
            (["2024-01-02 15:00"], "%Y-%m-%d", "time_format='%Y-%m-%d %H:%M'", (0,)),
            (["2024-01-02", "nan"], "%Y-%m-%d", "'nan' does not match", (1,)),
            (["15:00"], "%H:%M", "names no year", ()),
            (["2024-01-02"], "mixed", "names no year", ()),
            (["2024-01-02"], "ISO8601", "names no year", ()),
            (["2024-01-02"], "%Y-%Q", "no form of strptime: 'Q' is a bad directive", ()),
            (["2024-01-02"], "s", "2024-01-02 is no Unix time in s", (0,)),
            ([1e18, 1.0], "s", r"1e\+18 is no Unix time in s", (0,)),
            ([1704153600000], "s", "is no Unix time in s|outside 1800 to tomorrow", (0,)),
            (["9999-01-01"], "%Y-%m-%d", "time 9999-01-01 00:00 is outside 1800", (0,)),
            (["2024-01-02"], "%Y-%m-%d", "name no zone; pass timezone", ()),
        ],
    )
    def test_rows_that_do_not_match_are_named(self, values, time_format, message, rows):
        zone = None if "no zone" in message else "UTC"
        with pytest.raises(BarsError, match=message) as caught:
            parse(values, time_format=time_format, timezone=zone)
        assert caught.value.rows == rows

    def test_time_objects_have_no_form(self):
        with pytest.raises(BarsError, match="leave out time_format"):
            parse(pd.date_range("2024", periods=2, tz="UTC"), time_format="%Y-%d-%m")


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("01 Mar 2024", "%d %b %Y"),
        ("Mar 1, 2024 1:00 PM", "%b %d, %Y %I:%M %p"),
        ("Fri, 01 Mar 2024 00:00:00 GMT", "%a, %d %b %Y %H:%M:%S GMT"),
        ("1-Mar-24", "%d-%b-%y"),
        ("1 March 2024 13:00:00.25", "%d %B %Y %H:%M:%S.%f"),
        ("01/03/24 13:00", "%d/%m/%y %H:%M"),
        ("2024-03-01 13:00 CET", "%Y-%m-%d %H:%M CET"),
        ("Friday 1 March 2024 13:00 +0100", "%A %d %B %Y %H:%M %z"),
        ("2024-03", "%Y-%m"),
        ("01/25/24", "%m/%d/%y"),
        ("1/2/24", "%m/%d/%y"),
        ("01/25/2024, 12:00:00 AM", "%m/%d/%Y, %I:%M:%S %p"),
        ("2024-01-25_00:00", "%Y-%m-%d_%H:%M"),
        ("2024-01-25T000000Z", "%Y-%m-%dT%H%M%S%z"),
        ("25012024 0000", "%d%m%Y %H%M"),
    ],
)
def test_the_refusal_of_another_form_names_that_form(text, form):
    with pytest.raises(BarsError, match="is no date") as caught:
        parse([text], timezone="UTC")
    assert f"time_format={form!r}" in str(caught.value)
    assert len(parse([text], timezone="UTC", time_format=form)) == 1


@pytest.mark.parametrize("text", ["2024-W09", "Q1 2024", "13:00", "yesterday"])
def test_text_whose_form_cannot_be_told_gets_no_example(text):
    with pytest.raises(BarsError, match="pass its form with time_format=, as in strptime"):
        parse([text], timezone="UTC")


def test_a_form_that_was_refused_is_not_told_again():
    texts = ["01/25/24", "01/26/24", "NaT"]
    with pytest.raises(BarsError) as caught:
        parse(texts[:2], timezone="UTC", time_format="%d/%m/%y")
    assert "time_format='%m/%d/%y', or correct" in str(caught.value)
    with pytest.raises(BarsError, match=r"'NaT' does not match .* in row 2 .*with time_format="):
        parse(texts, timezone="UTC", time_format="%m/%d/%y")


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin"])
def test_the_word_nat_is_no_date(zone):
    with pytest.raises(BarsError, match="'NaT' is no date in row 1"):
        parse(["02.01.2024 15:00", "NaT"], timezone=zone, dayfirst=True)


class TestDtypes:
    """The same times in any type of column give the same stamps."""

    HOURS = pd.date_range("2024-01-02", periods=3, freq="h", tz="UTC")

    @pytest.mark.parametrize(
        "dtype",
        [
            "timestamp[s][pyarrow]",
            "timestamp[us][pyarrow]",
            "timestamp[ns][pyarrow]",
            "string[pyarrow]",
            "large_string[pyarrow]",
            "datetime64[s]",
            "datetime64[ms]",
            "object",
            "str",
            "string",
            "category",
            "period[h]",
        ],
    )
    def test_naive_times_of_any_type(self, dtype):
        naive = pd.Series(self.HOURS.tz_localize(None))
        written = naive.astype(str) if "str" in dtype else naive
        column = written.astype(dtype)

        assert parse(column, timezone="UTC") == parse(self.HOURS)
        with pytest.raises(BarsError, match="name no zone"):
            parse(column)

    @pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
    @pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "+05:30"])
    @pytest.mark.parametrize("timezone", [None, "UTC", "Asia/Tokyo"])
    def test_the_zone_of_an_arrow_column_wins(self, unit, zone, timezone):
        kind = pd.ArrowDtype(pa.timestamp(unit, zone))
        column = pd.Series(self.HOURS.tz_convert(zone)).astype(kind)
        assert parse(column, timezone=timezone) == parse(self.HOURS)

    @pytest.mark.parametrize("kind", [pa.date32(), pa.date64()])
    def test_arrow_days(self, kind):
        days = pa.array([date(2024, 1, 2), date(2024, 1, 3)]).cast(kind)
        column = pd.Series(pd.arrays.ArrowExtensionArray(days))
        assert parse(column, timezone="UTC") == ["2024-01-02 00:00:00", "2024-01-03 00:00:00"]

    @pytest.mark.parametrize("dtype", ["int64[pyarrow]", "Int64", "Float64", "category", "object"])
    def test_unix_time_of_any_type(self, dtype):
        seconds = pd.Series(self.HOURS.as_unit("s").asi8).astype(dtype)
        assert parse(seconds) == parse(self.HOURS)

    def test_unix_time_as_decimals(self):
        seconds = [Decimal(f"{moment.timestamp():.3f}") for moment in self.HOURS]
        assert parse(pd.Series(seconds, dtype=pd.ArrowDtype(pa.decimal128(20, 3)))) == parse(
            self.HOURS
        )
        assert parse(seconds) == parse(self.HOURS)

    def test_a_dictionary_of_arrow_is_its_values(self):
        text = pa.array([f"{moment:%Y-%m-%dT%H:%MZ}" for moment in self.HOURS]).dictionary_encode()
        assert parse(pd.Series(pd.arrays.ArrowExtensionArray(text))) == parse(self.HOURS)

    def test_objects_of_different_zones(self):
        zones = [UTC, ZoneInfo("Europe/Berlin"), ZoneInfo("America/New_York")]
        moments = [
            moment.to_pydatetime().astimezone(zone)
            for moment, zone in zip(self.HOURS, zones, strict=True)
        ]
        assert parse(pd.Series(moments, dtype=object)) == parse(self.HOURS)

    def test_numpy_and_python_days(self):
        for days in ([np.datetime64("2024-01-02")], [date(2024, 1, 2)], [datetime(2024, 1, 2)]):
            column = pd.Series(days, dtype=object)
            assert parse(column, timezone="UTC") == ["2024-01-02 00:00:00"]

    def test_an_object_without_zone_among_others_is_named(self):
        moments = [datetime(2024, 1, 2, tzinfo=UTC), datetime(2024, 1, 2, 1)]
        with pytest.raises(BarsError, match="no zone where other rows have one") as caught:
            parse(pd.Series(moments, dtype=object))
        assert caught.value.rows == (1,)

    def test_a_missing_arrow_time_is_named(self):
        column = pd.Series([self.HOURS[0], None], dtype=pd.ArrowDtype(pa.timestamp("us", "UTC")))
        with pytest.raises(BarsError, match="no time in row 1"):
            parse(column)

    @pytest.mark.parametrize("values", [[True], [time(1)], [pd.Timedelta("1h")], [b"x"], [{}]])
    def test_what_is_no_time_is_refused(self, values):
        with pytest.raises(BarsError, match="is no date"):
            parse(pd.Series(values), timezone="UTC")

    def test_years_beyond_nanoseconds_are_out_of_range(self):
        for year in (1, 9999):
            with pytest.raises(BarsError, match="outside 1800 to tomorrow"):
                parse(pd.Series([datetime(year, 1, 1)], dtype=object), timezone="UTC")


FORMS = (
    *("%d/%m/%Y", "%d.%m.%Y %H:%M", "%d-%m-%Y %I:%M %p", "%d/%m/%Y %I-%p", "%d/%m/%Y %I:%M:%S%p"),
    *("%Y.%m.%d %H:%M:%S", "%Y/%m/%dT%H:%M:%S.%f", "%Y-%m-%d %I:%M %p", "%Y-%m-%d %H:%M:%S,%f"),
)


@settings(deadline=None, max_examples=100)
@given(
    moments=st.lists(
        st.datetimes(datetime(1801, 1, 1), datetime(2023, 1, 1)), min_size=1, max_size=3
    ),
    form=st.sampled_from(FORMS),
    dayfirst=st.booleans(),
)
def test_a_column_of_one_form_is_read_as_the_grammar_does(moments, form, dayfirst):
    """A first row of another form is what only the grammar reads."""
    texts = [f"{moment:{form}}" for moment in moments]
    arguments = {"timezone": "UTC", "dayfirst": dayfirst}

    def read_or_refuse(values):
        try:
            return parse(values, **arguments)
        except BarsError:
            return None

    slow = read_or_refuse(["2020-01-01 1:00", *texts])
    assert read_or_refuse(texts) == (slow and slow[1:])


def test_a_minute_has_sixty_seconds():
    with pytest.raises(BarsError, match="is no date"):
        parse(["01/02/2024 10:00:59", "01/02/2024 10:00:60"], timezone="UTC", dayfirst=False)


ISO_PARTS = st.tuples(
    st.datetimes(datetime(1801, 1, 1), datetime(2023, 1, 1)),
    st.sampled_from(["%Y-%m-%d", "%Y-%m-%d %H", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M:%S.%f"]),
    st.sampled_from(["", "Z", "+01", "-0330", "+05:45"]),
)


@settings(deadline=None, max_examples=100)
@given(parts=ISO_PARTS)
def test_the_quick_reader_reads_as_the_grammar_does(parts):
    """The space at the end is what only the grammar reads."""
    moment, form, zone = parts
    text = f"{moment:{form}}" + (zone if "%H" in form else "")
    assert parse([text], timezone="UTC") == parse([text + " "], timezone="UTC")

"""The bars contract: each habit of real data is handled by a stated rule."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops.data.bars import COLUMNS, QualityReport, content_hash, validate_bars
from mlops.data.calendar import load_calendar
from mlops.errors import BarsError
from mlops.service import Timeframe
from tests.mlops.data.conftest import START, make_bars

NOW = START + timedelta(days=30)


def check(raw: pd.DataFrame, **arguments) -> QualityReport:
    arguments = {
        "timeframe": Timeframe("1h"),
        "calendar": load_calendar("24/7"),
        "now": NOW,
        **arguments,
    }
    return validate_bars(raw, **arguments)


def test_good_bars_pass_unchanged():
    frame = make_bars(100)
    report = check(frame)

    pd.testing.assert_frame_equal(report.bars, frame, check_freq=False)
    assert (report.rows_in, report.rows_out, report.dropped) == (100, 100, {})
    assert (report.completeness, report.holes, report.reordered) == (1.0, (), False)
    assert (report.suspected_splits, report.bad_prints, report.warnings) == ((), (), ())


def test_the_input_is_left_as_it_was():
    raw = make_bars(50)[::-1]
    before = raw.copy()

    check(raw)

    pd.testing.assert_frame_equal(raw, before)


def test_columns_are_found_by_name_whatever_their_order_and_case():
    frame = make_bars(10)
    raw = frame[["volume", "close", "low", "high", "open"]].rename(columns=str.title)

    pd.testing.assert_frame_equal(check(raw).bars, frame, check_freq=False)


def test_numbers_written_as_text_are_numbers():
    raw = make_bars(10)

    bars = check(raw.astype(str)).bars
    pd.testing.assert_frame_equal(bars, raw, check_freq=False)


def test_the_bar_that_is_still_open_is_dropped():
    frame = make_bars(100)
    now = frame.index[-1].to_pydatetime() + timedelta(minutes=59)

    report = check(frame, now=now)
    assert report.bars.index[-1] == frame.index[-2]
    assert report.dropped == {"not_closed": 1}


def test_a_bar_that_closes_now_is_complete():
    frame = make_bars(100)

    assert check(frame, now=frame.index[-1] + timedelta(hours=1)).rows_out == 100


def test_a_bad_number_in_the_open_bar_does_not_matter():
    frame = make_bars(100)
    frame.iloc[-1, 3] = np.nan

    assert check(frame, now=frame.index[-1]).rows_out == 99


def test_equal_duplicates_are_dropped_and_counted():
    frame = make_bars(20)

    report = check(pd.concat([frame, frame.iloc[5:8]]))
    pd.testing.assert_frame_equal(report.bars, frame, check_freq=False)
    assert report.dropped == {"duplicate": 3}
    assert report.first_dropped == {"duplicate": frame.index[5]}
    assert report.reordered
    assert report.warnings == ()


@pytest.mark.parametrize("first", [True, False])
def test_of_differing_duplicates_the_one_with_most_volume_is_kept(first):
    frame = make_bars(20)
    early = frame.iloc[[5]].assign(volume=1.0)

    report = check(pd.concat([early, frame] if first else [frame, early]))
    pd.testing.assert_frame_equal(report.bars, frame, check_freq=False)
    assert report.dropped == {"re_read": 1}
    assert report.first_dropped == {"re_read": frame.index[5]}


def test_nearly_equal_stamps_are_one_bar():
    frame = make_bars(20)
    twin = frame.iloc[[5]].set_axis(frame.index[[5]] + timedelta(milliseconds=137))

    report = check(pd.concat([frame, twin]).sort_index())
    assert report.dropped == {"duplicate": 1}
    assert (report.bars.index.minute == 0).all()


def test_mixed_units_of_unix_time_are_told_apart_by_row():
    frame = make_bars(30)
    seconds = frame.index.as_unit("s").asi8
    raw = frame.assign(timestamp=seconds * np.array([1, 1000, 1_000_000] * 10))

    pd.testing.assert_frame_equal(check(raw.reset_index(drop=True)).bars, frame, check_freq=False)


@given(seed=st.integers(0, 2**32 - 1), copies=st.integers(0, 5))
def test_any_order_with_any_copies_gives_the_same_bars(seed, copies):
    frame = make_bars(30)
    rows = np.random.default_rng(seed).permutation(np.r_[0:30, 0:copies])

    report = check(frame.iloc[rows])
    assert content_hash(report.bars) == content_hash(frame)
    assert report.dropped == ({"duplicate": copies} if copies else {})


def test_rows_newest_first_are_sorted_and_reported_as_reordered():
    frame = make_bars(30)

    report = check(frame[::-1])
    pd.testing.assert_frame_equal(report.bars, frame, check_freq=False)
    assert report.reordered


def test_bars_stamped_at_their_close_move_one_bar_back():
    frame = make_bars(30)
    raw = frame.set_axis(frame.index + timedelta(hours=1)).rename_axis(None)

    pd.testing.assert_frame_equal(check(raw, stamps="close").bars, frame, check_freq=False)


def test_closes_a_millisecond_before_the_hour_are_the_hour():
    frame = make_bars(30)
    raw = frame.assign(close_time=frame.index + timedelta(milliseconds=3_599_999))

    bars = check(raw.reset_index(drop=True), stamps="close").bars
    assert list(bars.index) == list(frame.index)


def test_a_close_time_is_not_taken_for_an_open():
    raw = make_bars(30).rename_axis("close_time").reset_index()

    with pytest.raises(BarsError, match="holds closes but stamps='open'"):
        check(raw)


def test_a_date_that_disagrees_with_unix_time_is_refused_unless_one_is_named():
    frame = make_bars(30)
    raw = frame.assign(
        unix=frame.index.as_unit("ms").asi8, date=frame.index.strftime("%Y-%m-%d %H:%M")
    ).reset_index(drop=True)
    raw.loc[7, "date"] = "2024-01-02 00:00"

    with pytest.raises(BarsError, match=r"disagrees with column 'date'.* in row 7 ") as caught:
        check(raw, timezone="UTC")
    assert (caught.value.column, caught.value.rows) == ("unix", (7,))
    assert check(raw, time_column="unix").rows_out == 30


def test_downtime_is_a_hole_and_lowers_completeness():
    frame = make_bars(100)

    report = check(frame.drop(frame.index[40:50]))
    (hole,) = report.holes
    assert (hole.start, hole.end, hole.bars) == (frame.index[40], frame.index[50], 10)
    assert report.completeness == pytest.approx(0.9)


def test_a_weekend_is_no_hole_for_a_currency():
    hours = make_bars(24 * 14, start=datetime(2024, 1, 1, 22, tzinfo=UTC))
    local = hours.index.tz_convert("America/New_York") + timedelta(hours=7)
    weekdays = hours[local.weekday < 5]

    assert check(weekdays, calendar=load_calendar("FX")).completeness == 1.0
    assert check(weekdays).completeness < 0.75


def test_bars_finer_than_the_timeframe_are_refused():
    with pytest.raises(BarsError, match="overlaps its predecessor at timeframe 1h"):
        check(make_bars(20, freq="30min"))


def test_a_bar_between_two_bars_is_refused():
    frame = make_bars(20)
    odd = frame.iloc[[5]].set_axis(frame.index[[5]] + timedelta(minutes=20))

    with pytest.raises(BarsError, match="overlaps") as caught:
        check(pd.concat([frame, odd]))
    assert caught.value.rows[0] == 20


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e5])
def test_any_price_scale_gives_the_same_report(scale):
    frame = make_bars(300)
    frame.iloc[100, 1] *= 1.5
    scaled = frame.assign(**{name: frame[name] * scale for name in COLUMNS[:4]})

    assert check(scaled).bad_prints == (frame.index[100],)


def test_fewer_than_two_bars_are_refused():
    assert check(make_bars(2)).rows_out == 2
    with pytest.raises(BarsError, match="1 complete bar"):
        check(make_bars(1))


def test_now_needs_a_zone():
    with pytest.raises(BarsError, match="has no zone"):
        check(make_bars(3), now=datetime(2024, 2, 1))


class TestContentHash:
    def test_it_ignores_the_unit_of_the_index_and_the_backend_of_the_columns(self):
        frame = make_bars(50)
        other = frame.set_axis(frame.index.as_unit("ms")).astype("Float64")

        assert content_hash(other) == content_hash(frame)
        assert content_hash(frame.tz_convert("Asia/Tokyo")) == content_hash(frame)

    @pytest.mark.parametrize("column", COLUMNS)
    def test_it_changes_with_any_value(self, column):
        frame = make_bars(50)
        changed = frame.assign(**{column: np.nextafter(frame[column], np.inf)})

        assert content_hash(changed) != content_hash(frame)

    def test_it_changes_with_a_stamp_and_with_a_row(self):
        frame = make_bars(50)

        moved = frame.set_axis(frame.index + timedelta(minutes=1))
        assert len({content_hash(bars) for bars in (frame, moved, frame[:-1])}) == 3

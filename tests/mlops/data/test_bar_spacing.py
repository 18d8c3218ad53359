"""Bars of another timeframe are named by their distances; holes and clock changes are neither."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest

from mlops.data.bar_spacing import find_coarser_stretch, find_overlaps, name_of, refuse_coarser_bars
from mlops.data.bars import validate_bars
from mlops.data.calendar import load_calendar
from mlops.errors import BarsError
from mlops.service import Timeframe
from tests.mlops.data.conftest import make_bars

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HOURS = pd.date_range("2022-01-01", periods=20_000, freq="h", tz="UTC")
ALWAYS = load_calendar("24/7")


def refused(opened: pd.DatetimeIndex, timeframe: str = "1h", calendar: str = "24/7") -> str:
    with pytest.raises(BarsError) as caught:
        refuse_coarser_bars(opened, Timeframe(timeframe), load_calendar(calendar))
    return str(caught.value)


def stretch_of(opened: pd.DatetimeIndex, timeframe: str = "1h", calendar: str = "24/7"):
    return find_coarser_stretch(opened, Timeframe(timeframe), load_calendar(calendar))


@pytest.mark.parametrize("timeframe", ["1m", "15m", "1h"])
@pytest.mark.parametrize("coarse", ["2h", "4h", "12h", "1d", "7d"])
def test_bars_coarser_than_the_timeframe_are_refused_by_their_own(coarse, timeframe):
    opened = pd.date_range("2022-01-01", periods=60, freq=Timeframe(coarse).step, tz="UTC")

    assert refused(opened, timeframe) == (
        f"nearly every bar follows a gap of {coarse}; these look like {coarse} bars; ask for "
        f"timeframe='{coarse}'"
    )


def test_validation_refuses_coarser_bars_in_any_order():
    frame = make_bars(100, freq="4h").sample(frac=1, random_state=1)

    with pytest.raises(BarsError, match="ask for timeframe='4h'"):
        validate_bars(frame, timeframe=Timeframe("1h"), calendar=ALWAYS, now=NOW)
    assert validate_bars(frame, timeframe=Timeframe("4h"), calendar=ALWAYS, now=NOW).rows_out == 100


def test_bars_of_months_are_refused_without_a_timeframe_that_would_not_fit():
    opened = pd.date_range("2022-01-01", periods=24, freq="MS", tz="UTC")

    assert refused(opened, "1d").endswith(
        "these look like bars of a month; give 1d bars, for no timeframe is a month"
    )


@pytest.mark.parametrize("missing", [0.1, 0.5])
def test_coarser_bars_with_holes_and_a_few_finer_ones_are_refused(missing):
    rng = np.random.default_rng(2)
    coarse = HOURS[::4]
    there = rng.random(len(coarse)) > missing
    few = rng.choice(HOURS, 50, replace=False)

    assert "these look like 4h bars" in refused(coarse[there].union(pd.DatetimeIndex(few)))


@pytest.mark.parametrize(("step", "count"), [(2, 24), (4, 6), (24, 6), (24, 100), (168, 6)])
@pytest.mark.parametrize("part", ["head", "middle", "tail"])
def test_a_coarser_stretch_is_refused_and_its_time_is_named(step, count, part):
    begin = {"head": 0, "middle": 5_000, "tail": len(HOURS) - step * count - 1}[part]
    inside = np.arange(len(HOURS)) - begin
    is_left_out = (inside > 0) & (inside < step * count) & (inside % step != 0)

    message = refused(HOURS[~is_left_out])

    end = begin + step * count
    assert f"from {HOURS[begin]:%Y-%m-%d %H:%M} to {HOURS[end]:%Y-%m-%d %H:%M}" in message
    assert f"these look like {name_of(step * 3600 * 10**9)} bars; keep the 1h bars" in message


@pytest.mark.parametrize("coarse", ["4h", "1d", "7d"])
@pytest.mark.parametrize("part", ["head", "tail"])
def test_five_coarser_bars_at_an_end_of_hours_are_refused(coarse, part):
    hours, step = HOURS[:800], Timeframe(coarse).step
    few = pd.DatetimeIndex([hours[-1] + number * step for number in range(1, 5)])
    if part == "head":
        few = pd.DatetimeIndex([hours[0] - number * step for number in range(4, 0, -1)])

    assert f"these look like {coarse} bars; keep the 1h bars" in refused(hours.union(few))
    assert stretch_of(hours.union(few[:2] if part == "tail" else few[2:])) is None


@pytest.mark.parametrize("seed", range(30))
def test_holes_at_an_end_of_a_thin_market_are_no_coarser_bars(seed):
    rng = np.random.default_rng(seed)
    there = rng.random(800) > rng.choice([0.2, 0.5, 0.8])
    there[:60] &= rng.random(60) > 0.9
    there[-60:] &= rng.random(60) > 0.7

    assert stretch_of(HOURS[:800][there]) is None


@pytest.mark.parametrize("missing", [0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99])
@pytest.mark.parametrize("seed", range(5))
def test_a_market_in_which_bars_are_missing_by_chance_is_not_coarser(missing, seed):
    there = np.random.default_rng(seed).random(len(HOURS)) > missing
    at_night = there | (HOURS.hour >= 8)

    assert stretch_of(HOURS[there]) is None
    assert stretch_of(HOURS[at_night]) is None
    assert stretch_of(HOURS[there][:12]) is None


def sessions(timeframe: str, calendar: str = "XNYS") -> pd.DatetimeIndex:
    start, end = pd.Timestamp("2022-01-03", tz="UTC"), pd.Timestamp("2022-12-30", tz="UTC")
    return load_calendar(calendar).expected_opens(start, end, Timeframe(timeframe))


@pytest.mark.parametrize("calendar", ["XNYS", "24/7"])
def test_closed_hours_are_no_coarser_bars(calendar):
    days = sessions("1h").normalize().unique()

    assert stretch_of(sessions("1h"), "1h", calendar) is None
    assert stretch_of(days, "1d", calendar) is None


def test_the_weekends_of_currencies_are_no_coarser_bars():
    assert stretch_of(sessions("1h", "FX"), "1h", "FX") is None
    assert stretch_of(sessions("1h", "FX"), "1h", "24/7") is None


@pytest.mark.parametrize("calendar", ["XNYS", "24/7"])
@pytest.mark.parametrize("coarse", ["2h", "1d"])
def test_coarser_bars_of_sessions_are_refused(coarse, calendar):
    opened = sessions("1h").normalize().unique() if coarse == "1d" else sessions(coarse)

    assert f"these look like {coarse} bars" in refused(opened, "1h", calendar)


def test_few_bars_far_apart_show_no_timeframe():
    assert stretch_of(HOURS[::4][:6]) is None


def test_finer_bars_are_refused_by_their_own_timeframe():
    with pytest.raises(BarsError, match="look like 15m bars; ask for timeframe='15m'"):
        validate_bars(
            make_bars(50, freq="15min"), timeframe=Timeframe("1h"), calendar=ALWAYS, now=NOW
        )


def by_clock(zone: str, timeframe: str, start: str = "2023-01-01", end: str = "2024-12-31"):
    local = pd.date_range(start, end, freq=timeframe.replace("d", "D"))
    return local.tz_localize(zone, ambiguous=True, nonexistent="shift_forward").as_unit("ns")


def bars_at(opened: pd.DatetimeIndex) -> pd.DataFrame:
    return make_bars(len(opened)).set_axis(opened)


@pytest.mark.parametrize("timeframe", ["1d", "12h", "6h", "4h"])
@pytest.mark.parametrize(
    "zone",
    ["Europe/Berlin", "America/New_York", "America/Chicago", "Australia/Lord_Howe", "Asia/Tehran"],
)
@pytest.mark.parametrize("known", [True, False])
def test_long_bars_by_a_local_clock_are_whole_bars(zone, timeframe, known):
    opened = by_clock(zone, timeframe, start="2021-01-01", end="2022-12-31")
    raw = bars_at(opened if known else opened.tz_convert("UTC"))

    report = validate_bars(raw, timeframe=Timeframe(timeframe), calendar=ALWAYS, now=NOW)

    assert (report.rows_out, report.holes, report.completeness) == (len(raw), (), 1.0)


def test_naive_local_stamps_with_a_zone_are_whole_bars():
    opened = by_clock("Europe/Berlin", "1d")
    raw = bars_at(opened).assign(date=opened.tz_localize(None).astype(str)).reset_index(drop=True)

    report = validate_bars(
        raw, timeframe=Timeframe("1d"), calendar=ALWAYS, now=NOW, timezone="Europe/Berlin"
    )

    assert report.completeness == 1.0


def test_closes_by_a_local_clock_are_whole_bars():
    raw = bars_at(by_clock("America/New_York", "1d")[1:])

    report = validate_bars(raw, timeframe=Timeframe("1d"), calendar=ALWAYS, now=NOW, stamps="close")

    assert report.completeness == 1.0


def test_a_missing_day_beside_a_clock_change_is_a_hole():
    opened = by_clock("Europe/Berlin", "1d", start="2024-03-25", end="2024-04-05")

    for day in ("2024-03-30", "2024-03-31", "2024-04-01"):
        left = opened[opened.normalize() != pd.Timestamp(day, tz="Europe/Berlin")]
        report = validate_bars(bars_at(left), timeframe=Timeframe("1d"), calendar=ALWAYS, now=NOW)
        assert [hole.bars for hole in report.holes] == [1]


@pytest.mark.parametrize(
    ("at", "timeframe", "shift"),
    [
        ("2024-02-14", "1d", "-60min"),
        ("2024-03-31", "1d", "-120min"),
        ("2024-03-31", "1d", "-15min"),
        ("2024-03-31", "1h", "-30min"),
    ],
)
def test_a_bar_that_no_clock_makes_shorter_is_refused(at, timeframe, shift):
    step = Timeframe(timeframe).step
    opened = pd.date_range("2024-02-01", "2024-04-30", freq=step, tz="UTC").as_unit("ns")
    later = opened >= pd.Timestamp(at, tz="UTC") + step
    moved = opened.where(~later, opened + pd.Timedelta(shift))

    with pytest.raises(BarsError, match="no clock change of any zone explains them"):
        validate_bars(bars_at(moved), timeframe=Timeframe(timeframe), calendar=ALWAYS, now=NOW)


def test_one_zone_must_explain_all_shorter_bars():
    # New York changes on 10 March and Berlin on 31 March; nobody does both.
    stamps = pd.date_range("2024-03-01", "2024-04-10", tz="UTC").as_unit("ns")
    for change in ("2024-03-10", "2024-03-31"):
        moved = stamps > pd.Timestamp(change, tz="UTC")
        stamps = stamps.where(~moved, stamps - pd.Timedelta(hours=1))

    assert len(find_overlaps(np.asarray(stamps.asi8), Timeframe("1d"))) == 2


@pytest.mark.parametrize(
    ("minutes", "name"), [(1, "1m"), (90, "90m"), (240, "4h"), (1440, "1d"), (10080, "7d")]
)
def test_a_distance_is_named_as_a_timeframe(minutes, name):
    assert name_of(minutes * 60 * 10**9) == name

"""The calendar of a file: recognised from its times, kept where it fits, a wrong one named."""

import numpy as np
import pandas as pd
import pytest

from mlops.data.calendar import load_calendar
from mlops.data.calendar_match import (
    MOST_OUTSIDE,
    measure_fit,
    recognise_calendar,
    refuse_outside,
)
from mlops.errors import BarsError
from mlops.service import Timeframe

HOUR, DAY = Timeframe("1h"), Timeframe("1d")
# Years that other tests read as well: a calendar is read once for each range of years.
START, END = pd.Timestamp("2023-02-01", tz="UTC"), pd.Timestamp("2024-02-01", tz="UTC")


def opens_of(name: str, timeframe: str, *, thinned: float = 0.01) -> pd.DatetimeIndex:
    """A year of a calendar's bars, of which a share is left out at random."""
    opens = load_calendar(name).expected_opens(START, END, Timeframe(timeframe))
    kept = np.random.default_rng(3).random(len(opens)) >= thinned
    return opens[kept]


def recognised(
    opens: pd.DatetimeIndex, timeframe: str, *, asked: str | None = None, default: str = "24/7"
) -> str:
    calendar = recognise_calendar(
        opens,
        Timeframe(timeframe),
        asked=load_calendar(asked) if asked else None,
        default=load_calendar(default),
    )
    return calendar.name


@pytest.mark.parametrize(
    ("name", "timeframe"),
    [
        *((name, "1h") for name in ("24/7", "FX", "XNYS", "XNYS-EXT", "CMES", "XLON", "XASX")),
        *((name, "15m") for name in ("XTKS", "XHKG", "CMES")),
        *((name, "4h") for name in ("FX", "XNYS", "XETR")),
    ],
)
def test_a_calendar_is_recognised_though_bars_are_missing(name, timeframe):
    assert recognised(opens_of(name, timeframe), timeframe) == name


@pytest.mark.parametrize("name", ["FX", "XNYS", "XLON", "XTKS", "CMES"])
@pytest.mark.parametrize("stamp", ["date", "local midnight", "open"])
def test_days_are_recognised_by_the_days_that_are_missing(name, stamp):
    sessions = load_calendar(name).sessions(START, END)
    dates = pd.DatetimeIndex(sessions.middles).normalize()
    zone = {"XLON": "Europe/London", "XTKS": "Asia/Tokyo"}.get(name, "America/New_York")
    opens = {
        "date": dates.tz_localize("UTC"),
        "local midnight": dates.tz_localize(zone).tz_convert("UTC"),
        "open": pd.DatetimeIndex(sessions.opens, tz="UTC"),
    }[stamp]
    kept = np.random.default_rng(3).random(len(opens)) >= 0.01

    assert recognised(opens[kept], "1d") == name


def test_hours_of_stocks_by_the_full_hour_are_recognised_and_leave_no_hole():
    """The first bar of a session opens half an hour before it."""
    local = opens_of("XNYS", "1h", thinned=0).tz_convert("America/New_York").tz_localize(None)
    opens = local.floor("h").tz_localize("America/New_York").tz_convert("UTC")

    assert recognised(opens, "1h") == "XNYS"
    fit = measure_fit(load_calendar("XNYS"), opens.tz_localize(None).to_numpy(), HOUR)
    assert (fit.missing.sum(), fit.outside.sum()) == (0, 0)


def test_currencies_with_a_short_bar_on_sunday_are_recognised():
    dates = pd.date_range(START, END)
    assert recognised(dates[dates.weekday != 5], "1d") == "FX"


def test_a_long_outage_or_many_single_holes_make_no_closed_sessions():
    every = opens_of("24/7", "1h", thinned=0)
    outage = every[(every < "2023-05-01") | (every > "2023-10-01")]
    thin = opens_of("24/7", "1h", thinned=0.4)

    assert recognised(outage, "1h") == "24/7"
    assert recognised(thin, "1h") == "24/7"
    assert recognised(thin, "1h", asked="24/7") == "24/7"


def test_a_thin_stock_is_recognised():
    assert recognised(opens_of("XNYS", "5m", thinned=0.4), "5m") == "XNYS"


def test_an_exchange_of_a_currency_pair_that_trades_on_weekends_is_recognised():
    assert recognised(opens_of("24/7", "1h"), "1h", default="FX") == "24/7"


def test_metal_has_a_daily_break_that_the_currency_market_has_not():
    assert recognised(opens_of("CMES", "1h"), "1h", default="FX") == "CMES"


def test_closed_sessions_that_a_calendar_takes_for_holes_are_named():
    opens = opens_of("XNYS", "1h", thinned=0)
    nights = int((np.diff(opens) > pd.Timedelta(hours=1)).sum())

    with pytest.raises(BarsError) as refused:
        recognised(opens, "1h", asked="24/7")

    assert str(refused.value) == (
        f"the calendar 24/7 leaves {nights} holes that look like closed sessions; "
        "pass calendar='XNYS'"
    )


@pytest.mark.parametrize("timeframe", ["1h", "1d"])
@pytest.mark.parametrize("by_venue", [False, True])
def test_bars_outside_the_sessions_are_named(timeframe, by_venue):
    opens = opens_of("24/7", timeframe, thinned=0)[:300]
    calendar = load_calendar("XNYS")
    outside = calendar.find_outside(opens.tz_localize(None).to_numpy(), Timeframe(timeframe))
    row = int(np.argmax(outside))
    asked = {"default": "XNYS"} if by_venue else {"asked": "XNYS"}

    with pytest.raises(BarsError) as refused:
        recognised(opens, timeframe, **asked)

    assert str(refused.value) == (
        f"{outside.sum()} bars lie outside the sessions of XNYS, the first at row {row} "
        f"({opens[row]:%Y-%m-%d %H:%M}); pass calendar='24/7'"
    )
    assert refused.value.rows[0] == row


def test_hours_before_and_after_the_session_are_named_with_their_calendar():
    with pytest.raises(BarsError, match=r"outside the sessions of XNYS.*calendar='XNYS-EXT'"):
        recognised(opens_of("XNYS-EXT", "1h"), "1h", asked="XNYS")


def test_a_few_stray_bars_do_no_harm_and_one_more_does():
    opens = opens_of("XNYS", "1h", thinned=0)[:600]
    nights = pd.date_range("2023-02-04 03:00", periods=MOST_OUTSIDE + 1, freq="7D", tz="UTC")

    assert recognised(opens.union(nights[:-1]), "1h") == "XNYS"
    refuse_outside(opens.union(nights[:-1]), HOUR, load_calendar("XNYS"))
    with pytest.raises(BarsError, match=r"6 bars lie outside the sessions of XNYS, the first at"):
        refuse_outside(opens.union(nights), HOUR, load_calendar("XNYS"))


def test_prints_of_an_auction_belong_to_the_session():
    opens = opens_of("XLON", "5m", thinned=0)
    local = opens.tz_convert("Europe/London")
    auctions = opens[local.strftime("%H:%M") == "16:25"] + pd.Timedelta(minutes=10)

    assert recognised(opens.union(auctions), "5m") == "XLON"


def test_calendars_that_the_bars_do_not_tell_apart_are_named():
    """One missing day may be a hole as well as the one holiday of these weeks."""
    opens = opens_of("XNYS", "1d", thinned=0)[:40].normalize()

    with pytest.raises(
        BarsError, match=r"do not tell one calendar; nearest are .*; pass calendar="
    ):
        recognised(opens, "1d")


def test_sessions_of_no_known_market_are_refused():
    night = opens_of("24/5", "1h", thinned=0)
    with pytest.raises(
        BarsError,
        match=r"look like closed sessions, and the times .*nearest are 24/7 .*, .*'24/7'$",
    ):
        recognised(night[night.hour < 2], "1h")


def test_sessions_of_no_known_market_pass_where_a_calendar_was_asked_for():
    night = opens_of("24/5", "1h", thinned=0)
    assert recognised(night[night.hour < 2], "1h", asked="24/7") == "24/7"


def test_rows_are_not_named_where_positions_are_no_rows():
    opens = opens_of("24/7", "1h", thinned=0)[:300]
    with pytest.raises(
        BarsError, match=r"the first at 2023-02-01 00:00; pass calendar="
    ) as refused:
        recognise_calendar(
            opens, HOUR, asked=load_calendar("XNYS"), default=load_calendar("24/7"), are_rows=False
        )
    assert refused.value.rows == ()


def test_weeks_fit_the_calendar_of_their_symbol():
    weeks = pd.date_range(START, END, freq="W-MON")
    assert recognised(weeks, "7d") == "24/7"


@pytest.mark.parametrize(
    "name",
    [
        "XMEX",
        *(
            pytest.param(n, marks=pytest.mark.slow)
            for n in ("XTAI", "BVMF", "XSES", "XJSE", "XWAR")
        ),
    ],
)
def test_days_of_an_exchange_that_is_not_tried_get_no_calendar_of_another(name: str) -> None:
    start, end = pd.Timestamp("2018-01-02", tz="UTC"), pd.Timestamp("2024-02-01", tz="UTC")
    dates = load_calendar(name).expected_opens(start, end, DAY).normalize()
    with pytest.raises(BarsError, match=r"nearest are .*; pass calendar="):
        recognised(dates, "1d")


def test_days_of_which_many_are_missing_are_refused_with_what_to_pass() -> None:
    dates = opens_of("XNYS", "1d", thinned=0.2).normalize()
    with pytest.raises(BarsError, match=r"nearest are .*; pass calendar=, such as"):
        recognised(dates, "1d")
    assert recognised(dates, "1d", asked="XNYS") == "XNYS"


def test_crypto_with_an_hour_of_maintenance_is_told_of_its_own_calendar() -> None:
    opens = opens_of("24/7", "1h", thinned=0)
    kept = opens[opens.hour != 4]
    with pytest.raises(BarsError, match=r"nearest are 24/7 \(0 bars.*calendar='24/7'$"):
        recognised(kept, "1h")
    assert recognised(kept, "1h", asked="24/7") == "24/7"

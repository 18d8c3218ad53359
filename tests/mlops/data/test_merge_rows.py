"""Rows of one stamp are merged if they are re-reads of one bar; a mixture is refused."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops.data.cleaning import Cleaned, clean_bars
from mlops.data.repeated_stamps import FEW
from mlops.data.row_labels import LABELS_IN_DOUBT
from mlops.data.simulator import simulate_bars
from mlops.errors import BarsError
from mlops.service import Timeframe

NOW = pd.Timestamp("2022-01-01", tz="UTC")
YEAR = simulate_bars(24 * 365, seed=3)
YEAR.index = pd.DatetimeIndex(YEAR.index).as_unit("ns")
HOURS = YEAR[: 24 * 120]
JOIN = {"open": "first", "high": "max", "low": "min", "close": "last", "volume": "sum"}


def clean(raw: pd.DataFrame, timeframe: str = "1h") -> Cleaned:
    return clean_bars(raw, timeframe=Timeframe(timeframe), now=NOW)


def refused(raw: pd.DataFrame, timeframe: str = "1h") -> str:
    with pytest.raises(BarsError) as caught:
        clean(raw, timeframe)
    return str(caught.value)


def coarser(frame: pd.DataFrame, rule: str, **how: str) -> pd.DataFrame:
    return frame.resample(rule, **how).agg(JOIN)


def arrange(first: pd.DataFrame, second: pd.DataFrame, order: str) -> pd.DataFrame:
    joined = pd.concat([second, first] if order == "before" else [first, second])
    if order == "interleaved":
        return joined.sort_index(kind="stable")
    if order == "shuffled":
        return joined.iloc[np.random.default_rng(5).permutation(len(joined))]
    return joined


@pytest.mark.parametrize("order", ["before", "after", "interleaved", "shuffled"])
@pytest.mark.parametrize("volume", [1.0, 1e-3, 0.0])
@pytest.mark.parametrize("rule", ["4h", "1D", "W-MON", "MS"])
def test_hours_mixed_with_coarser_bars_are_refused(rule: str, volume: float, order: str) -> None:
    bars = coarser(HOURS, rule, label="left", closed="left")
    bars = bars[bars.index >= HOURS.index[0]]

    message = refused(arrange(HOURS, bars.assign(volume=bars["volume"] * volume), order))

    assert "both stamped" in message


@pytest.mark.parametrize("rule", ["4h", "1D", "W-MON", "MS"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_single_coarser_bar_is_refused(rule: str, count: int) -> None:
    bars = coarser(YEAR, rule, label="left", closed="left")[1:-1]
    chosen = np.random.default_rng(count).choice(len(bars), count, replace=False)

    message = refused(pd.concat([YEAR, bars.iloc[chosen]]))

    assert "are bars of two timeframes" in message
    assert "keep bars of one timeframe" in message


@pytest.mark.parametrize("rule", ["W-SUN", "ME"])
def test_a_single_week_or_month_stamped_at_its_end_is_refused(rule: str) -> None:
    bars = coarser(YEAR, rule)

    assert "are bars of two timeframes" in refused(pd.concat([YEAR, bars.iloc[[3]]]))


def test_coarser_bars_are_refused_where_no_bar_has_a_volume() -> None:
    still = YEAR.assign(volume=0.0)

    assert "two timeframes" in refused(pd.concat([coarser(still, "1D").iloc[[7]], still]))


def test_days_mixed_with_weeks_are_refused_as_days() -> None:
    days = coarser(YEAR, "1D")
    weeks = coarser(YEAR, "W-MON", label="left", closed="left")[1:]

    assert "both stamped" in refused(pd.concat([days, weeks]), "1d")
    assert "both stamped" in refused(pd.concat([days, weeks.iloc[[5]]]), "1d")


@pytest.mark.parametrize("order", ["after", "interleaved", "shuffled"])
def test_two_symbols_are_refused_with_the_column_that_names_them(order: str) -> None:
    other = simulate_bars(len(HOURS), seed=4)
    mixed = arrange(HOURS.assign(symbol="BTC/USD"), other.assign(symbol="ETH/USD"), order)

    message = refused(mixed)

    assert "column 'symbol' tells them apart: " in message
    assert "'BTC/USD'" in message
    assert "'ETH/USD'" in message
    assert message.endswith("keep one symbol")


def test_the_first_stamp_and_both_its_rows_are_named() -> None:
    other = simulate_bars(50, seed=4)[10:]

    with pytest.raises(BarsError) as caught:
        clean(pd.concat([HOURS[:50], other]))

    assert caught.value.rows == (10, 50)
    assert "rows 10 and 50 (counted from 0) are both stamped 2020-01-01 10:00" in str(caught.value)
    assert f"open {HOURS['open'].iloc[10]:.6g}" in str(caught.value)
    assert f"open {other['open'].iloc[0]:.6g}" in str(caught.value)
    assert "in 40 of 50 stamps" in str(caught.value)


@pytest.mark.parametrize("labels", [{}, {"exchange": ("binance", "kraken")}])
def test_two_venues_whose_prices_are_almost_equal_are_refused(labels: Mapping[str, tuple]) -> None:
    noise = np.random.default_rng(1).normal(1, 1e-3, len(HOURS))
    prices = HOURS[["open", "high", "low", "close"]].mul(noise, axis=0)
    first, second = HOURS, prices.assign(volume=HOURS["volume"] * 1.4)
    for name, (one, other) in labels.items():
        first, second = first.assign(**{name: one}), second.assign(**{name: other})

    message = refused(pd.concat([first, second]))

    assert "no re-reads of one bar" in message
    assert ("column 'exchange' tells them apart" in message) is bool(labels)


def test_a_date_without_its_time_is_refused_with_the_column_that_holds_it() -> None:
    split = HOURS[:240].reset_index(drop=True)
    stamps = HOURS.index[:240]
    split = split.assign(Date=stamps.strftime("%Y-%m-%d"), Time=stamps.strftime("%H:%M"))

    with pytest.raises(BarsError, match=r"pass time_column='date\+time'") as caught:
        clean_bars(split, timeframe=Timeframe("1d"), now=NOW, timezone="UTC")
    assert caught.value.column == "date"


def test_one_row_of_another_market_is_refused() -> None:
    other = simulate_bars(len(HOURS), seed=4).iloc[[100]]
    prices = ["open", "high", "low", "close"]
    other[prices] *= 0.05

    assert "no re-reads of one bar" in refused(pd.concat([HOURS, other]))


def test_two_symbols_that_share_no_stamp_are_refused_by_their_names() -> None:
    names = np.where(np.arange(len(HOURS)) < 100, "FB", "META")

    message = refused(HOURS.assign(Ticker=names))

    assert "column 'ticker' holds 'FB' in row 0 and 'META' in row 100" in message
    assert "keep the rows of one ticker, or" in message
    assert "pass columns={'ticker': 'note'}" in message
    assert len(clean(HOURS.assign(note=names)).frame) == len(HOURS)


@pytest.mark.parametrize("name", ["name", "tic", "code", "coin", "market", "contract", "source"])
@pytest.mark.parametrize("rows", [np.arange(len(HOURS)) < 1000, np.arange(len(HOURS)) % 2 == 0])
def test_two_markets_that_share_no_stamp_are_refused_by_usual_names(
    name: str, rows: np.ndarray
) -> None:
    other = simulate_bars(len(HOURS), seed=4).set_axis(HOURS.index)
    other[["open", "high", "low", "close"]] *= 0.05
    mixed = pd.concat([HOURS[rows], other[~rows]]).sort_index()
    mixed = mixed.assign(**{name: np.where(rows, "BTC", "ETH")})

    message = refused(mixed)

    assert f"column '{name}' holds 'BTC' in row 0 and 'ETH' in row {np.argmin(rows)}" in message
    assert f"pass columns={{'{name}': 'note'}}" in message


@pytest.mark.parametrize("name", LABELS_IN_DOUBT)
@pytest.mark.parametrize("kinds", [2, 7, 500])
def test_a_column_that_varies_without_a_jump_of_the_price_is_no_label(
    name: str, kinds: int
) -> None:
    values = np.random.default_rng(kinds).integers(kinds, size=len(HOURS))

    assert len(clean(HOURS.assign(**{name: values})).frame) == len(HOURS)
    assert len(clean(HOURS.assign(**{name: np.sort(values)})).frame) == len(HOURS)


def test_one_symbol_in_two_spellings_is_one() -> None:
    names = np.where(np.arange(len(HOURS)) < 100, "BTC/USDT", "btcusdt")

    assert len(clean(HOURS.assign(symbol=names)).frame) == len(HOURS)


def part_formed(frame: pd.DataFrame, rows: list[int]) -> pd.DataFrame:
    """Earlier snapshots of bars: half of the way to each extreme and to the close."""
    final = frame.iloc[rows]
    high = np.maximum(final["open"], (final["open"] + final["high"]) / 2)
    low = np.minimum(final["open"], (final["open"] + final["low"]) / 2)
    close = (final["open"] + final["close"]) / 2
    return final.assign(high=high, low=low, close=close, volume=final["volume"] * 0.4)


@pytest.mark.parametrize("rows", [[5], [5, 9, 2879], list(range(3, 2800, 400))])
@pytest.mark.parametrize("order", ["before", "after", "interleaved", "shuffled"])
def test_snapshots_of_bars_that_were_not_complete_are_merged(rows: list[int], order: str) -> None:
    cleaned = clean(arrange(HOURS, part_formed(HOURS, rows), order))

    pd.testing.assert_frame_equal(cleaned.frame, HOURS, check_freq=False)
    assert cleaned.dropped == {"re_read": len(rows)}


def test_more_snapshots_than_half_a_percent_of_the_stamps_are_refused() -> None:
    message = refused(pd.concat([HOURS, part_formed(HOURS, list(range(15)))]))

    assert "more often than in 0.5% of all stamps" in message
    assert "in 15 of 2,880 stamps; keep one row of each bar" in message


def test_a_table_given_twice_is_one_even_after_rounding() -> None:
    again = HOURS * (1 + 1e-9)

    cleaned = clean(pd.concat([HOURS, again]))

    assert cleaned.dropped == {"duplicate": len(HOURS)}


def test_a_volume_that_is_revised_later_is_a_re_read() -> None:
    revised = HOURS.iloc[[8]].assign(volume=HOURS["volume"].iloc[8] * 1.2)

    cleaned = clean(pd.concat([HOURS, revised]))

    assert cleaned.dropped == {"re_read": 1}
    assert cleaned.frame["volume"].iloc[8] == revised["volume"].iloc[0]


def test_of_three_snapshots_the_last_is_kept() -> None:
    early = part_formed(HOURS, [8])
    earlier = early.assign(volume=1.0, high=early["open"], low=early["open"], close=early["open"])

    cleaned = clean(pd.concat([early, HOURS, earlier]))

    pd.testing.assert_frame_equal(cleaned.frame, HOURS, check_freq=False)
    assert cleaned.dropped == {"re_read": 2}


@pytest.mark.parametrize("volume", [0.5, 2.0])
def test_a_page_with_one_revised_bar_passes_and_the_row_that_fits_is_kept(volume: float) -> None:
    page = HOURS[:20]
    wrong = page.iloc[[8]].copy()
    wrong[["open", "high", "low", "close"]] *= 1.004
    wrong["volume"] *= volume

    cleaned = clean(pd.concat([page, wrong]))

    pd.testing.assert_frame_equal(cleaned.frame, page, check_freq=False)
    assert cleaned.dropped == {"conflicting": 1}


def test_the_newest_bar_of_a_page_may_come_twice() -> None:
    page = HOURS[:20]

    assert clean(pd.concat([page, part_formed(page, [19])])).dropped == {"re_read": 1}


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**31),
    share=st.integers(1, 500),
    rule=st.sampled_from(["other", "4h", "1D"]),
    volume=st.sampled_from([0.0, 1e-3, 1.0, 1e3]),
)
def test_no_mixture_passes_above_the_stated_share(
    seed: int, share: int, rule: str, volume: float
) -> None:
    hours = YEAR[:500]
    second = simulate_bars(500, seed=seed)[1:] if rule == "other" else coarser(hours, rule)[:-1]
    rng = np.random.default_rng(seed)
    chosen = second.iloc[np.sort(rng.permutation(len(second))[:share])]
    raw = pd.concat([hours, chosen.assign(volume=chosen["volume"] * volume)])

    try:
        cleaned = clean(raw.iloc[rng.permutation(len(raw))])
    except BarsError as error:
        assert error.rows  # noqa: PT017 - acceptance is checked below
        return
    if rule == "other":
        assert len(chosen) <= FEW
        assert cleaned.dropped == {"conflicting": len(chosen)}
    # Whatever passes, no price of a later bar is in the table.
    changed = np.flatnonzero((cleaned.frame["close"] / hours["close"] - 1).abs() > 1e-6)
    assert len(changed) <= (FEW if rule == "other" else 0)


def test_re_reads_of_a_coin_with_three_prices_are_merged() -> None:
    """A bar closes where a later one closes by chance, whatever kind of bars they are."""
    rng = np.random.default_rng(1)
    close = 1 + 1e-4 * rng.integers(-1, 2, 30_000)
    opened = np.append(1.0, close[:-1])
    prices = {"open": opened, "high": np.maximum(opened, close), "low": np.minimum(opened, close)}
    stamps = pd.date_range("2021-01-01", periods=30_000, freq="min", tz="UTC", name="open_time")
    minutes = pd.DataFrame({**prices, "close": close, "volume": 2.0}, index=stamps)
    early = minutes.iloc[rng.choice(30_000, 100, replace=False)].assign(volume=1.0)
    early = early.assign(high=early["open"], low=early["open"], close=early["open"])

    cleaned = clean(pd.concat([minutes, early]), "1m")

    assert cleaned.dropped == {"re_read": 100}

"""Bars become windows, or are refused by the cell that is wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops.data.bars import COLUMNS
from mlops.data.calendar import hole_before, load_calendar
from mlops.errors import RequestRefused
from mlops.models.recipe import Recipe
from mlops.models.windows import window_of
from mlops.service import Timeframe
from mlops.serving.protocol.request_bars import (
    batch_windows,
    columns_window,
    frame_window,
    tensor_windows,
    unbroken_bars,
)
from tests.mlops.serving.example_requests import (
    CLOCKED,
    FX,
    MIN_BARS,
    SPEC,
    batch_of,
    frame_of,
    opens_from,
    values_of,
)

WRONG = {
    "open": [np.nan, np.inf, -np.inf, 0.0, -1.0, 1e9, 1e-9],
    "high": [np.nan, np.inf, -np.inf, 0.0, -1.0, 1e-9],
    "low": [np.nan, np.inf, -np.inf, 0.0, -1.0, 1e9],
    "close": [np.nan, np.inf, -np.inf, 0.0, -1.0, 1e9, 1e-9],
    "volume": [np.nan, np.inf, -np.inf, -1.0],
}
CELLS = [(name, wrong) for name, several in WRONG.items() for wrong in several]


def refusal(call, *arguments, **named):
    with pytest.raises(RequestRefused) as caught:
        call(*arguments, **named)
    return caught.value


def columns_of(values):
    return {name: values[:, at].tolist() for at, name in enumerate(COLUMNS)}


def test_clean_bars_pass_unchanged():
    values = values_of()

    window = frame_window(values, None, SPEC)

    assert np.array_equal(window.values, values)
    assert not window.hole_before.any()
    assert (np.diff(window.open_time) == np.timedelta64(1, "h")).all()


@pytest.mark.parametrize(("column", "wrong"), CELLS)
@settings(deadline=None, max_examples=10)
@given(row=st.integers(0, MIN_BARS - 1))
def test_every_wrong_cell_is_named_by_row_and_column(column, wrong, row):
    values = values_of()
    values[row, COLUMNS.index(column)] = wrong

    refused = refusal(frame_window, values, None, SPEC)

    assert refused.status == 400
    assert f"row {row}, column" in str(refused)
    assert column in str(refused)


@pytest.mark.parametrize(("column", "wrong"), CELLS[::3])
@settings(deadline=None, max_examples=15)
@given(window=st.integers(0, 2), row=st.integers(0, MIN_BARS))
def test_a_wrong_cell_of_a_batch_is_named_with_its_window(column, wrong, window, row):
    values = batch_of(3, MIN_BARS + 1)
    values[window, row, COLUMNS.index(column)] = wrong

    assert f"window {window}, row {row}, column" in str(refusal(batch_windows, values, None, SPEC))


def test_prices_may_leave_their_bar_by_rounding_as_in_training():
    values = values_of()
    values[2, COLUMNS.index("high")] = values[2, [0, 3]].max() * (1 - 1e-10)
    values[2, COLUMNS.index("low")] = values[2, [0, 3]].min() * (1 + 1e-10)

    assert len(frame_window(values, None, SPEC)) == MIN_BARS


@pytest.mark.parametrize(
    ("bars", "status", "message"),
    [(0, 400, "no bars"), (4, 400, "got 4 bars, a forecast needs 5"), (51, 413, "at most 50")],
)
def test_too_few_and_too_many_bars_are_refused(bars, status, message):
    values = np.ones((bars, 5))

    for refused in (
        refusal(frame_window, values, None, SPEC),
        refusal(batch_windows, values[None], None, SPEC),
        refusal(columns_window, columns_of(values), SPEC),
    ):
        assert refused.status == status
        assert message in str(refused)


@pytest.mark.parametrize(("windows", "status"), [(0, 400), (5, 413)])
def test_too_few_and_too_many_windows_are_refused(windows, status):
    values = np.ones((windows, MIN_BARS, 5))

    assert refusal(batch_windows, values, None, SPEC).status == status


def test_windows_of_a_batch_keep_all_their_bars_as_views():
    """A challenger may need more of them than the champion, whose need the spec tells."""
    batch = batch_of(2, MIN_BARS + 3)
    opens = np.stack([opens_from("2024-03-05", *range(MIN_BARS + 3))] * 2)

    bare, timed = batch_windows(batch, None, SPEC), batch_windows(batch, opens, SPEC)

    for number, window in enumerate(bare):
        assert np.array_equal(window.values, batch[number])
        assert np.shares_memory(window.values, batch)
        assert np.array_equal(timed[number].values, window.values)
        assert len(window) == len(window.open_time) == len(window.hole_before) == MIN_BARS + 3
        assert timed[number].open_time[-1] == np.datetime64("2024-03-05T07:00")


def test_columns_go_by_name_in_any_order_and_others_are_passed_over():
    values = values_of()
    columns = {"note": ["x"] * MIN_BARS, **dict(reversed(columns_of(values).items()))}

    window = columns_window({f" {name.title()} ": columns[name] for name in columns}, SPEC)

    assert np.array_equal(window.values, values)


def test_all_missing_columns_are_named():
    columns = columns_of(values_of())
    del columns["high"], columns["volume"]

    assert "missing columns high, volume, open_time" in str(
        refusal(columns_window, columns, CLOCKED)
    )


def test_a_column_that_occurs_twice_is_refused():
    columns = columns_of(values_of())

    assert "'open' occurs twice" in str(
        refusal(columns_window, {**columns, "OPEN": columns["open"]}, SPEC)
    )


def test_columns_of_different_length_are_refused():
    columns = columns_of(values_of())
    columns["low"] = columns["low"][:-1]

    assert "low 4" in str(refusal(columns_window, columns, SPEC))


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (None, "null"),
        ("42", "text '42'"),
        ("", "no number"),
        (True, "true or false"),
        ([1.0], "a list"),
        ({}, "an object"),
        pytest.param(10**400, "a number too large", id="huge"),
    ],
)
@pytest.mark.parametrize("column", COLUMNS)
def test_what_is_no_number_is_refused_by_name(cell, message, column):
    columns = columns_of(values_of())
    columns[column][3] = cell

    assert f"row 3, column {column!r}: {message}" in str(refusal(columns_window, columns, SPEC))


def test_a_refusal_does_not_repeat_a_long_text():
    columns = columns_of(values_of())
    columns["open"][0] = "x" * 10_000

    assert len(str(refusal(columns_window, columns, SPEC))) < 200


def test_a_model_that_reads_the_clock_asks_for_times():
    for call, given_values in ((frame_window, values_of()), (batch_windows, batch_of(2))):
        assert "send open_time" in str(refusal(call, given_values, None, CLOCKED))


def test_a_window_says_whether_its_bars_came_with_times():
    opens = opens_from("2024-03-05", *range(MIN_BARS))
    assert frame_window(values_of(), opens, SPEC).timed
    assert not frame_window(values_of(), None, SPEC).timed
    assert all(window.timed for window in batch_windows(batch_of(2), np.stack([opens] * 2), SPEC))
    assert not any(window.timed for window in batch_windows(batch_of(2), None, SPEC))


def test_an_index_of_row_numbers_is_no_time():
    columns = columns_of(values_of())

    assert "missing column open_time" in str(
        refusal(columns_window, columns, CLOCKED, index=list(range(MIN_BARS)))
    )


def test_an_index_of_times_is_taken():
    frame = frame_of()
    index = [stamp.isoformat() for stamp in frame.index]

    window = columns_window(columns_of(frame.to_numpy()), CLOCKED, index=index)

    assert np.array_equal(
        window.open_time, window_of(frame, SPEC.timeframe, SPEC.calendar).open_time
    )


def test_six_columns_are_the_time_and_the_bar():
    opens = opens_from("2024-03-05", *range(MIN_BARS))
    tensor = np.column_stack([opens / 1e9, values_of()])

    (window,) = tensor_windows(tensor, CLOCKED)
    (same, _) = tensor_windows(np.stack([tensor, tensor]), CLOCKED)

    assert np.array_equal(window.open_time.view(np.int64), opens)
    assert np.array_equal(same.open_time, window.open_time)


def test_a_wrong_time_of_a_batch_is_named_with_its_window():
    tensor = np.stack([np.column_stack([np.full(MIN_BARS, 1.7e9), values_of()])] * 2)
    tensor[1, 2, 0] = 5.0

    assert "window 1, row 2, column 'open_time'" in str(refusal(tensor_windows, tensor, SPEC))


@pytest.mark.parametrize(
    ("hours", "message"),
    [
        ((0, 1, 1, 2, 3), "row 2, column 'open_time': 2024-03-05T01:00:00Z is the time of row 1"),
        ((0, 1, 2, 1, 3), "row 3, column 'open_time': 2024-03-05T01:00:00Z is before row 2"),
        ((0, 1, 2.5, 3.5, 4.5), "row 2, column 'open_time': 2024-03-05T02:30:00Z is off the step"),
        ((0, 0.5, 1, 1.5, 2), "row 1, column 'open_time': 2024-03-05T00:30:00Z is off the step"),
        ((0, 1, 2, 3 + 1 / 120, 4), "row 3, column 'open_time': 2024-03-05T03:00:30Z is not on"),
        ((0, 1, 2, 3, 90_000), "row 4, column 'open_time': 2034-06-11T00:00:00Z is too long after"),
    ],
)
def test_times_that_are_no_sequence_of_bars_are_refused_by_row(hours, message):
    opens = opens_from("2024-03-05", *hours)

    assert message in str(refusal(frame_window, values_of(), opens, SPEC))


@pytest.mark.parametrize("early_ns", [1, 10**6, 10**9])
def test_the_last_moment_of_a_bar_is_not_an_open(early_ns):
    opens = opens_from("2024-03-05", *range(MIN_BARS))
    opens[2] -= early_ns

    message = str(refusal(frame_window, values_of(), opens, SPEC))

    assert message.startswith("row 2, column 'open_time': 2024-03-05T01:59:59")
    assert message.endswith("is the last moment of a bar; send the time of its open")


def test_a_stamp_a_moment_after_its_minute_means_that_minute():
    opens = opens_from("2024-03-05", *range(MIN_BARS)) + 10**6

    window = frame_window(values_of(), opens, SPEC)

    assert window.open_time[0] == np.datetime64("2024-03-05T00:00")


def test_a_hole_before_the_sequence_is_marked_and_allowed():
    opens = opens_from("2024-03-05", 0, 1, 4, 5, 6)

    window = frame_window(values_of(), opens, SPEC)

    assert window.hole_before.tolist() == [False, False, True, False, False]


def test_a_hole_that_every_forecast_would_read_across_is_refused():
    opens = opens_from("2024-03-05", 0, 1, 2, 5, 6)

    message = str(refusal(frame_window, values_of(), opens, SPEC))

    assert "between row 2 (2024-03-05T02:00:00Z) and row 3 (2024-03-05T05:00:00Z)" in message
    assert "the last 3 bars must follow" in message


def test_a_later_bar_may_be_the_one_with_a_forecast():
    hours = (0, 1, 2, 3, 6, 7, 8)
    opens = opens_from("2024-03-05", *hours)

    assert len(frame_window(values_of(7), opens, SPEC)) == 7
    with pytest.raises(RequestRefused, match="window 0, no forecast can be made"):
        batch_windows(values_of(6)[None], opens[None, :6], SPEC)


def test_a_weekend_is_no_hole_where_the_market_rests():
    opens = opens_from("2024-03-08T19:00", 0, 1, 2, 50, 51)

    assert not frame_window(values_of(), opens, FX).hole_before.any()
    assert "no forecast" in str(refusal(frame_window, values_of(), opens, SPEC))


@pytest.mark.parametrize("calendar", ["24/7", "FX", "XNYS"])
@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 200))
def test_holes_are_those_of_training(calendar, seed):
    rng = np.random.default_rng(seed)
    hours = np.cumsum(rng.choice([1, 1, 1, 2, 3, 18, 50], size=30))
    opens = opens_from("2024-03-04T15:00", *hours.tolist())
    spec = replace(SPEC, calendar=load_calendar(calendar), unbroken_bars=1)

    window = frame_window(values_of(30), opens, spec)

    frame = frame_of(30).set_axis(pd.DatetimeIndex(opens.view("datetime64[ns]"), tz="UTC"))
    assert np.array_equal(window.hole_before, hole_before(frame, spec.timeframe, spec.calendar))


@pytest.mark.parametrize("day", ["2024-03-29", "2024-10-25"])
def test_day_bars_by_a_local_clock_pass_a_clock_change_without_a_hole(day):
    local = pd.date_range(day, periods=5, tz="Europe/Berlin")
    spec = replace(SPEC, timeframe=Timeframe("1d"))

    window = frame_window(values_of(5), local.as_unit("ns").asi8, spec)

    assert not window.hole_before.any()


@pytest.mark.parametrize(
    ("timeframe", "minutes"), [("1d", 23 * 60 + 15), ("1d", 22 * 60), ("1h", 30), ("2h", 60)]
)
def test_a_bar_that_no_clock_change_makes_so_short_is_refused(timeframe, minutes):
    spec = replace(SPEC, timeframe=Timeframe(timeframe))
    step = spec.timeframe.minutes
    stamps = pd.Timestamp("2024-03-29", tz="UTC") + pd.to_timedelta(
        [0, step, step + minutes, 2 * step + minutes, 3 * step + minutes], unit="m"
    )

    assert "off the step" in str(
        refusal(frame_window, values_of(5), stamps.as_unit("ns").asi8, spec)
    )


def test_an_ensemble_asks_for_the_longest_sequence_of_its_members():
    members = (Recipe("linear", sequence_length=3), Recipe("lstm", sequence_length=60))

    assert unbroken_bars(Recipe("ensemble", members=members)) == 60
    assert unbroken_bars(Recipe("persistence")) == 1

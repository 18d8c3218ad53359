"""Times are read in every form a client may send, and refused by row."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops.data.timestamps import parse_stamps
from mlops.errors import RequestRefused
from mlops.serving.protocol.request_times import from_epoch, parse_open_times

FIRST = pd.Timestamp("2024-03-05T13:00", tz="UTC")
STAMPS = [FIRST + pd.Timedelta(hours=hour) for hour in range(3)]
EXPECTED = [stamp.value for stamp in STAMPS]


@pytest.mark.parametrize("factor", [10**9, 10**6, 10**3, 1])
@pytest.mark.parametrize("kind", [int, float, str])
def test_unix_time_is_told_by_its_magnitude(factor, kind):
    cells = [kind(value // factor) for value in EXPECTED]

    assert np.allclose(parse_open_times(cells), EXPECTED, rtol=0, atol=256)


@pytest.mark.parametrize(
    "written",
    [
        "%Y-%m-%dT%H:%M:%SZ",
        "%Y-%m-%dT%H:%M:%S.%fZ",
        "%Y-%m-%d %H:%M+00:00",
        "%Y-%m-%dT%H:%M:%S+0000",
        "%Y/%m/%d %H:%M UTC",
    ],
)
def test_text_with_a_zone_is_read(written):
    assert parse_open_times([stamp.strftime(written) for stamp in STAMPS]).tolist() == EXPECTED


def test_an_offset_is_taken_into_account():
    cells = [stamp.tz_convert("Asia/Kolkata").isoformat() for stamp in STAMPS]

    assert cells[0].endswith("+05:30")
    assert parse_open_times(cells).tolist() == EXPECTED


def test_units_may_be_mixed_as_in_training():
    assert parse_open_times([EXPECTED[0] // 10**9, EXPECTED[1] // 10**6]).tolist() == EXPECTED[:2]


@pytest.mark.parametrize(
    "cell",
    [
        None, True, [1], {}, 0, 3.5, -1, 1e30, 10**30, float("nan"), float("inf"), "9" * 400,
        "", "tomorrow", "NaT", "2024-03-05T13:00:00", "03/04/2024 10:00Z",
        "2024-13-05T13:00:00Z", "2024-02-30T00:00:00Z", "2024-03-05T25:00:00Z",
        "1799-03-05T13:00:00Z", "0001-01-01T00:00:00Z",
    ],
)  # fmt: skip
def test_what_is_no_time_is_refused_by_row(cell):
    other = STAMPS[0].isoformat() if isinstance(cell, str) else EXPECTED[0] // 10**9
    cells = [other, other, cell]

    with pytest.raises(RequestRefused, match=r"row [02], column 'open_time'") as caught:
        parse_open_times(cells)

    assert caught.value.status == 400
    assert len(str(caught.value)) < 250


def test_numbers_and_text_do_not_mix():
    with pytest.raises(RequestRefused, match="row 1"):
        parse_open_times([EXPECTED[0], STAMPS[1].isoformat()])


@settings(deadline=None, max_examples=30)
@given(st.datetimes(pd.Timestamp("2009-01-02"), pd.Timestamp("2199-12-30")))
def test_text_is_read_as_training_reads_it(moment):
    text = [moment.isoformat() + "Z"]
    expected = parse_stamps(pd.Series(text), now=pd.Timestamp("2200", tz="UTC"), timezone=None)

    assert parse_open_times(text).tolist() == expected.asi8.tolist()


@settings(deadline=None, max_examples=30)
@given(st.lists(st.text(max_size=30), min_size=1, max_size=3))
def test_no_text_raises_anything_but_a_refusal(cells):
    with suppress(RequestRefused):
        assert len(parse_open_times(cells)) == len(cells)


def test_an_empty_list_of_times_is_parsed():
    assert from_epoch(np.zeros(0)).tolist() == []

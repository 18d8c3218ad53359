"""What a stretch of the past says of itself can be checked by hand."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest

from mlops.reports.history import champion_spans, history_section, mse_change
from mlops.reports.page import Moment, Page, render
from mlops.service import Service
from mlops.store.outcomes import MatchedForecasts

SERVICE = Service.parse("sample.btc-usd.1h.volatility.6")
BARS = np.datetime64("2018-11-14", "us") + np.arange(4) * np.timedelta64(1, "h")


def matched() -> MatchedForecasts:
    """Errors 1, 1, 1, 1 against the baseline's 2, 2, 2 and none; another version from the third."""
    value = np.zeros(4)
    return MatchedForecasts(
        bar=BARS,
        model_id=np.array(["linear_A", "linear_A", "linear_B", "linear_B"], dtype=object),
        role=np.array(["record"] * 4, dtype=object),
        forecast=value + 1,
        value=value,
        first_value=value,
        persistence=value,
        baseline=np.array([2.0, 2.0, 2.0, np.nan]),
        next_return=value,
        revisions=np.zeros(4, dtype=np.int64),
        known_at=BARS,
    )


def test_the_error_is_set_against_the_baseline_on_the_bars_that_both_forecast() -> None:
    assert mse_change(matched()) == pytest.approx(1 / 4 - 1)


def test_champion_spans_follow_the_forecasts_of_record() -> None:
    assert champion_spans(matched()) == [
        (BARS[0], BARS[2], "linear_A"),
        (BARS[2], BARS[3], "linear_B"),
    ]


def test_the_page_tells_what_happened_when_and_draws_it() -> None:
    bars = pd.DataFrame(
        {"close": [4.0, 3.0, 2.0, 1.0]}, pd.DatetimeIndex(BARS.astype("datetime64[ns]"), tz="UTC")
    )
    told = Moment(datetime(2018, 11, 14, 3, tzinfo=UTC), "drift", "what is <forecast> changed")
    section = history_section(SERVICE, bars, matched(), [told])
    assert section.passed
    page = render(Page("past", "", [], history=[section]))
    assert "squared error -75.0%" in page
    assert "2018-11-14 03:00" in page
    assert "what is &lt;forecast&gt; changed" in page
    assert page.count("data:image/png") == 1

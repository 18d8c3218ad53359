"""Pairs are the due bars that both arms forecast, whoever wrote them and whenever it was known."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from mlops.ab_testing.pair_reading import list_due_opens
from mlops.data.calendar import load_calendar
from mlops.service import Target
from mlops.stats.trading import trailing_volatility
from mlops.store.ab_tests import GapReason
from tests.mlops.ab_testing.stage import CHAMPION, HOUR, START, VOLATILITY, Stage, hour


def hours_of(pairs) -> list[int]:
    closed = pd.DatetimeIndex(pairs.closed_at).tz_localize("UTC")
    return [int((at - START) / HOUR) - 1 for at in closed]


def test_a_pair_has_both_forecasts_and_a_known_outcome(stage: Stage) -> None:
    stage.begin()
    stage.forecast(range(10), 0.3, 0.1)
    stage.settle([0, 1, 2, 5, 6])
    pairs = stage.read(20).pairs
    assert hours_of(pairs) == [0, 1, 2, 5, 6]
    assert pairs.champion_loss == pytest.approx(np.full(5, 0.09))
    assert pairs.challenger_loss == pytest.approx(np.full(5, 0.01))


def test_bars_whose_outcome_is_not_due_are_not_read(stage: Stage) -> None:
    """A second pass of a replay has rows and outcomes of bars that its clock has not reached."""
    stage.begin()
    stage.forecast(range(100), 0.3, 0.1)
    stage.settle(range(100))
    assert hours_of(stage.read(10).pairs) == list(range(9))


def test_bars_that_an_arm_was_fitted_on_do_not_count(stage: Stage) -> None:
    stage.begin()
    stage.fitted_until = hour(4)
    stage.forecast(range(10), 0.3, 0.1)
    stage.settle(range(10))
    readings = stage.read(11)
    assert hours_of(readings.pairs) == list(range(3, 10))
    assert readings.missing.bars == 7


def test_a_former_champions_row_is_one_of_record_and_pairs_all_the_same(stage: Stage) -> None:
    stage.begin()
    stage.forecast(range(5), 0.3, None)
    stage.forecast(range(5), None, 0.1)
    stage.settle(range(5))
    assert len(stage.read(6).pairs.champion_loss) == 5


def test_a_late_outcome_enters_when_it_comes(stage: Stage) -> None:
    stage.begin()
    stage.forecast(range(6), 0.3, 0.1)
    stage.settle([0, 1, 3, 4, 5])
    before = stage.read(7)
    stage.settle([2])
    after = stage.read(7)
    assert (hours_of(before.pairs), hours_of(after.pairs)) == ([0, 1, 3, 4, 5], [0, 1, 2, 3, 4, 5])
    assert before.digest != after.digest


def test_of_a_revised_outcome_the_newest_value_counts_and_the_digest_shows_it(stage: Stage) -> None:
    stage.begin()
    stage.forecast(range(4), 0.3, 0.1)
    stage.settle(range(4))
    before = stage.read(5)
    stage.settle([2], 0.3, kind="revised")
    after = stage.read(5)
    assert before.pairs.champion_loss[2] == pytest.approx(0.09)
    assert after.pairs.champion_loss[2] == pytest.approx(0.0)
    assert before.digest != after.digest


def test_a_bar_whose_outcome_is_marked_missing_is_no_pair_and_no_gap(stage: Stage) -> None:
    stage.begin()
    stage.forecast(range(5), 0.3, 0.1)
    stage.settle([0, 1, 3, 4])
    stage.lose([2])
    readings = stage.read(6)
    assert hours_of(readings.pairs) == [0, 1, 3, 4]
    assert (readings.missing.holes, dict(readings.missing.challenger)) == (0, {})
    stage.settle([2], kind="arrived")
    assert hours_of(stage.read(6).pairs) == [0, 1, 2, 3, 4]


def test_the_digest_covers_bar_forecasts_and_outcome(stage: Stage) -> None:
    stage.begin()
    stage.forecast(range(2), 0.3, 0.1)
    stage.settle(range(2), 0.2)
    opened = np.array([START.replace(tzinfo=None) + n * HOUR for n in range(2)], "datetime64[us]")
    content = opened.astype("<i8").tobytes() + np.array([[0.3, 0.1, 0.2]] * 2).tobytes()
    assert stage.read(3).digest == hashlib.sha256(content).hexdigest()


def test_missing_rows_are_counted_by_their_reason(stage: Stage) -> None:
    stage.begin()
    stage.forecast(range(20), 0.3, None)
    stage.forecast(range(4), None, 0.1)
    stage.gaps([4, 5], GapReason.FAULT)
    stage.gaps([6], GapReason.TIME_BUDGET)
    stage.gaps([7, 8, 9], GapReason.NOT_LOADED)
    missing = stage.read(21).missing
    assert missing.bars == 20
    assert dict(missing.challenger) == {
        "fault": 2, "time_budget": 1, "not_loaded": 3, "unknown": 10
    }  # fmt: skip
    assert dict(missing.champion) == {}


def test_a_gap_of_a_bar_that_another_replica_forecast_is_ignored(stage: Stage) -> None:
    stage.begin()
    stage.forecast(range(5), 0.3, 0.1)
    stage.gaps(range(5), GapReason.FAULT)
    assert dict(stage.read(6).missing.challenger) == {}


def test_bars_that_neither_arm_forecast_are_holes(stage: Stage) -> None:
    stage.begin()
    stage.forecast([0, 1, 5], 0.3, 0.1)
    stage.forecast([2], None, 0.1)
    stage.gaps([3], GapReason.NOT_LOADED, CHAMPION)
    missing = stage.read(7).missing
    assert (missing.bars, missing.holes) == (6, 2)
    assert dict(missing.champion) == {"unknown": 1}


def test_a_weekend_is_no_hole(stage: Stage) -> None:
    stage.calendar = load_calendar("FX")
    stage.service = replace(VOLATILITY, symbol="EUR/USD")
    stage.begin()
    monday_to_monday = stage.due(8 * 24)
    opens = pd.DatetimeIndex(monday_to_monday)
    # Friday's last bar opens at 21:00 UTC, Sunday's first at 22:00.
    assert len(opens) == 8 * 24 - 48 - 1
    stage.forecast([int((at.tz_localize("UTC") - START) / HOUR) for at in opens], 0.3, 0.1)
    missing = stage.read(8 * 24).missing
    assert (missing.bars, missing.holes) == (len(opens), 0)


def test_an_outcome_is_due_a_horizon_of_tradable_bars_later() -> None:
    euro = replace(VOLATILITY, symbol="EUR/USD", horizon=3)
    friday = datetime(2024, 1, 5, 18, tzinfo=UTC)
    due = [
        list_due_opens(euro, load_calendar("FX"), since=friday, now=now)
        for now in (friday + timedelta(days=1), datetime(2024, 1, 8, 1, tzinfo=UTC))
    ]
    assert [len(opens) for opens in due] == [1, 4]


def test_the_scale_of_a_return_knows_the_outcomes_before_the_test(stage: Stage) -> None:
    stage.service = replace(VOLATILITY, target=Target.RETURN)
    stage.begin()
    rng = np.random.default_rng(3)
    value = rng.normal(0.0, 0.02, 60)
    stage.settle(range(-50, 10), value)
    stage.forecast(range(10), 0.0, 0.01)
    pairs = stage.read(11).pairs
    assert len(pairs.champion_loss) == 10
    variance = trailing_volatility(np.full(60, 0.01))[50:] ** 2
    assert pairs.champion_loss == pytest.approx(value[50:] ** 2 / variance)


def test_a_test_without_a_row_has_no_pair(stage: Stage) -> None:
    stage.begin()
    readings = stage.read(50)
    assert len(readings.pairs.champion_loss) == 0
    assert (readings.champion, readings.missing.holes) == (None, 49)

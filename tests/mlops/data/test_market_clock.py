"""The sample's clock: the same for every process, within its last days, labelled by speed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from mlops.data.market_clock import REPLAY_BAR_S, REPLAY_DAYS, market_now, market_speed

LAST = datetime(2019, 10, 1, tzinfo=UTC)
WALL = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)


def replayed(wall: datetime) -> datetime:
    return market_now("sample", LAST, lambda: wall)


def test_other_venues_have_the_time_of_the_wall_clock() -> None:
    assert market_now("binance", LAST, lambda: WALL) == WALL
    assert market_speed("binance") == 1.0


@pytest.mark.parametrize("hours", [0, 1, 7, 24, 999])
def test_the_sample_stays_within_its_last_days(hours: int) -> None:
    now = replayed(WALL + timedelta(hours=hours))
    assert LAST - timedelta(days=REPLAY_DAYS) <= now < LAST


def test_an_hour_of_the_sample_goes_by_in_a_minute() -> None:
    start = LAST - timedelta(days=REPLAY_DAYS)
    # A wall time at which the replay has just begun.
    lap = REPLAY_DAYS * 24 * REPLAY_BAR_S
    wall = datetime.fromtimestamp(WALL.timestamp() // lap * lap, UTC)
    assert replayed(wall) == start
    assert replayed(wall + timedelta(seconds=REPLAY_BAR_S)) == start + timedelta(hours=1)
    assert market_speed("sample") == 3600 / REPLAY_BAR_S

"""A walk through a venue's history finds each bar with few requests, however the venue answers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops.data.sources import paging
from mlops.data.sources.paging import DAY_MS, Row, Walk, find_first_day

HOUR = 3_600_000
PAGE = 10
START = 20_000 * DAY_MS

Ask = Callable[[int], list[Row]]


def hours(*numbers: float) -> list[int]:
    """Opens that many hours after the start."""
    return [START + int(number * HOUR) for number in numbers]


def rows(stamps: Iterable[int]) -> list[Row]:
    return [[float(stamp), 1.0, 1.0, 1.0, 1.0, 1.0] for stamp in stamps]


class Venue:
    """Bars at some opens, and the ways in which venues answer."""

    def __init__(self, stamps: Iterable[int]):
        self.stamps = sorted(stamps)
        self.asked: list[int] = []
        self.days_asked: list[int] = []

    def window(self, since: int) -> list[Row]:
        self.asked.append(since)
        return rows(stamp for stamp in self.stamps if since <= stamp < since + PAGE * HOUR)

    def next_bars(self, since: int) -> list[Row]:
        self.asked.append(since)
        return rows([stamp for stamp in self.stamps if stamp >= since][:PAGE])

    def newest(self, since: int) -> list[Row]:
        self.asked.append(since)
        return rows(self.stamps[-PAGE:])

    def one_window_early(self, since: int) -> list[Row]:
        self.asked.append(since)
        return rows(s for s in self.stamps if since - PAGE * HOUR <= s < since + PAGE * HOUR)

    def days(self, since: int) -> list[Row]:
        self.days_asked.append(since)
        opened = sorted({stamp // DAY_MS * DAY_MS for stamp in self.stamps})
        return rows(day for day in opened if since <= day < since + PAGE * DAY_MS)


def walk(
    ask: Ask, *, until: int, now: int = 0, find_day: Callable[[int], int] = lambda since: since
) -> Walk:
    return Walk(
        what="1h bars of NEW/EUR on a venue",
        ask=ask,
        find_day=find_day,
        since=START,
        bound=until,
        latest=max(now, until) + HOUR,
        step=HOUR,
        window=PAGE * HOUR,
    )


def found(planned: Walk) -> list[int]:
    return [int(row[0]) for answer in planned.answers() for row in answer.rows]


WITH_HOLES = hours(*range(35, 42), *range(80, 83), *range(140, 150))


@pytest.mark.parametrize("way", ["window", "next_bars", "one_window_early"])
def test_bars_before_and_behind_empty_stretches_are_found(way: str) -> None:
    venue = Venue(WITH_HOLES)

    assert found(walk(getattr(venue, way), until=hours(150)[0])) == WITH_HOLES
    assert len(venue.asked) <= 20


def test_a_venue_of_windows_is_asked_for_every_window() -> None:
    venue = Venue([])

    assert found(walk(venue.window, until=hours(200)[0])) == []
    assert venue.asked == hours(*range(0, 200, PAGE))


def test_each_answer_tells_up_to_where_all_was_asked_for() -> None:
    answers = walk(Venue(hours(25, 26)).window, until=hours(50)[0]).answers()

    assert [answer.asked_to for answer in answers] == hours(10, 20, 27, 37, 47, 50)


def test_the_newest_bars_whatever_is_asked_for_end_the_walk() -> None:
    venue = Venue(hours(*range(90, 100)))

    assert found(walk(venue.newest, until=hours(100)[0])) == venue.stamps
    assert len(venue.asked) == 1


def test_a_period_that_a_venue_of_newest_bars_no_longer_has_gives_nothing() -> None:
    venue = Venue(hours(*range(90, 100)))

    assert found(walk(venue.newest, until=hours(50)[0], now=hours(100)[0])) == []
    assert len(venue.asked) == 1


def test_bars_older_than_asked_for_are_no_progress_and_no_endless_loop() -> None:
    venue = Venue(hours(*range(10)))

    assert found(walk(venue.newest, until=hours(50)[0])) == venue.stamps
    assert len(venue.asked) == 5


def test_rows_out_of_order_and_doubled_come_in_order() -> None:
    venue = Venue(hours(0, 1, 2))

    stamps = found(
        walk(lambda since: [*venue.window(since)[::-1], *venue.window(since)], until=hours(3)[0])
    )

    assert stamps == hours(0, 0, 1, 1, 2, 2)


@pytest.mark.parametrize("wrong", [40, 70, 1000, 10**6])
def test_a_row_with_a_wrong_stamp_hides_no_bars(wrong: int) -> None:
    right = hours(*range(100))
    venue = Venue(right)

    def ask(since: int) -> list[Row]:
        answered = venue.window(since)
        return [*answered, *rows(hours(wrong))] if since == START else answered

    assert set(right) <= set(found(walk(ask, until=hours(100)[0])))


def venue_with_days(venue: Venue, until: int) -> Walk:
    def find_day(since: int) -> int:
        day = find_first_day(
            venue.days, since=since, until=until - 2 * DAY_MS, window=PAGE * DAY_MS
        )
        return since if day is None else day

    return walk(venue.window, until=until, find_day=find_day)


def test_years_before_a_listing_take_few_requests() -> None:
    venue = Venue(hours(*range(40_007, 40_100)))

    assert found(venue_with_days(venue, hours(40_100)[0])) == venue.stamps
    assert len(venue.asked) < 20
    assert len(venue.days_asked) == pytest.approx(40_000 / 24 / PAGE, abs=2)


def test_a_coin_listed_today_is_found_though_it_has_no_day_bar_yet() -> None:
    venue = Venue(hours(*range(40_090, 40_100)))
    venue.days = lambda since: []  # type: ignore[method-assign]

    assert found(venue_with_days(venue, hours(40_100)[0])) == venue.stamps


@pytest.mark.parametrize("shift", [0, 16 * HOUR])
def test_day_bars_that_are_not_days_of_utc_are_not_believed(shift: int) -> None:
    """Some venues' days begin at 16:00 UTC, and a proxy may answer with other bars."""
    venue = Venue(hours(*range(3_000, 3_010)))
    hourly = Venue(hours(*range(2_995, 3_010)))
    venue.days = lambda since: rows(  # type: ignore[method-assign]
        int(row[0]) + shift for row in (venue.window if shift else hourly.next_bars)(since)
    )

    assert found(venue_with_days(venue, hours(3_020)[0])) == venue.stamps


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 3_000), st.integers(1, 60)), max_size=6))
def test_no_bar_is_missed_by_looking_at_day_bars(stretches: list[tuple[int, int]]) -> None:
    venue = Venue({stamp for first, n in stretches for stamp in hours(*range(first, first + n))})

    assert found(venue_with_days(venue, hours(3_200)[0])) == venue.stamps
    assert len(venue.asked) + len(venue.days_asked) <= 330


def test_a_long_search_says_where_it_is(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paging, "PROGRESS_S", 0.0)
    with caplog.at_level(logging.INFO, logger="mlops"):
        found(walk(Venue(hours(15)).window, until=hours(30)[0]))

    period = "of 2024-10-04 00:00..2024-10-05 06:00"
    assert [line.split(": ", 1)[1] for line in caplog.messages] == [
        f"2024-10-04 10:00 {period}, no bar yet",
        f"2024-10-04 16:00 {period}",
        f"2024-10-05 02:00 {period}",
    ]
    assert caplog.messages[0].startswith("asking for 1h bars of NEW/EUR on a venue: ")

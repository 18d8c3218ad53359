"""The distances between bars: too fine or too coarse for the timeframe, or one clock change off.

Bars that are missing here and there are holes. Bars that follow each other at a regular multiple
of the timeframe are bars of another timeframe, even in a stretch of the table.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, available_timezones

import numpy as np
import pandas as pd

from mlops.arrays import BoolArray, IntArray, naive_utc_times
from mlops.data.bar_rules import rows_after_gaps
from mlops.data.calendar import Calendar
from mlops.errors import BarsError
from mlops.service import Timeframe

LEAST_GAPS = 6
"""With fewer distances no pattern is told from holes."""

COMMON_SHARE, NEARLY_ALL = 0.5, 0.9
"""Bars are coarser where one distance beyond the timeframe is that of so many of them; the second
share holds for fewer than `STRETCH_GAPS` distances."""

STRETCH_GAPS = 24
"""In a stretch of so many distances, each beyond the timeframe, ..."""

STRETCH_SHARE = 0.45
REGULAR_SHARE = 0.95
"""... the bars are coarser if one distance has the first share, and its multiples the second."""

SHORT_STRETCH, SHORT_STRETCH_STEPS = 4, 3
BY_CHANCE = 1e-6
"""A shorter stretch of equal distances counts where so few are expected of single holes."""

_MONTH_SLACK = 0.12
"""A month may be so much shorter than 31 days."""

_HOUR_NS = 3600 * 10**9
_DAY_NS = 24 * _HOUR_NS
_UNITS = ((1440, "d"), (60, "h"), (1, "m"))
_USUAL_ZONES = ("America/New_York", "Europe/Berlin", "America/Chicago", "Australia/Sydney")


@dataclass(frozen=True, slots=True)
class Stretch:
    """Consecutive bars that lie further apart than the timeframe.

    Attributes:
        first, last: Positions of the bars at its ends.
        distance_ns: The distance of most of them.
    """

    first: int
    last: int
    distance_ns: int


def refuse_coarser_bars(opened: pd.DatetimeIndex, timeframe: Timeframe, calendar: Calendar) -> None:
    """Refuse bars coarser than the timeframe, whether all of them or only a stretch.

    Args:
        opened: The opens, ascending.
        calendar: Hours in which its market is closed part no bars.

    Raises:
        BarsError: naming the timeframe that the distances show.
    """
    stretch = find_coarser_stretch(opened, timeframe, calendar)
    if stretch is None:
        return
    name = name_of(stretch.distance_ns)
    look = "bars of a month" if _is_month(stretch.distance_ns) else f"{name} bars"
    told = f"nearly every bar follows a gap of {name}; these look like {look}"
    if 2 * (stretch.last - stretch.first) <= len(opened):
        begin, end = opened[stretch.first], opened[stretch.last]
        told = f"from {begin:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} {told}"
        remedy = f"keep the {timeframe} bars alone"
    elif _is_month(stretch.distance_ns):
        remedy = f"give {timeframe} bars, for no timeframe is a month"
    else:
        remedy = f"ask for timeframe='{name}'"
    raise BarsError(f"{told}; {remedy}", column="open_time")


def _is_month(distance_ns: int) -> bool:
    return 28 * _DAY_NS <= distance_ns <= 31 * _DAY_NS


def find_coarser_stretch(
    opened: pd.DatetimeIndex, timeframe: Timeframe, calendar: Calendar
) -> Stretch | None:
    """The longest stretch of bars coarser than the timeframe; None where there is none."""
    stamps: IntArray = naive_utc_times(opened).view(np.int64)
    step = timeframe.minutes * 60 * 10**9
    beyond = rows_after_gaps(stamps, step) - 1
    if len(beyond) < SHORT_STRETCH:
        return None
    gaps = np.diff(stamps)
    # Between two bars of a session market lies a night, which says nothing of their timeframe.
    closes: IntArray = stamps[beyond] + step
    missing = calendar.missing_between(
        closes.view("datetime64[ns]"), stamps[beyond + 1].view("datetime64[ns]"), timeframe
    )
    telling = np.ones(len(gaps), bool)
    telling[beyond[missing == 0]] = False
    places = np.flatnonzero(telling)
    found = _find_stretch(gaps[places], step)
    if found is None:
        return None
    first, last, distance = found
    return Stretch(int(places[first]), int(places[last]) + 1, distance)


def _find_stretch(gaps: IntArray, step: int) -> tuple[int, int, int] | None:
    """The first and last of the gaps of the longest coarser stretch, and its commonest gap."""
    if len(gaps) < LEAST_GAPS:
        return None
    common, count = _find_commonest(gaps)
    least = COMMON_SHARE if len(gaps) >= STRETCH_GAPS else NEARLY_ALL
    if common >= 2 * step and count >= least * len(gaps):
        return 0, len(gaps) - 1, common
    edges = np.flatnonzero(np.diff(np.concatenate([[False], gaps > step, [False]]).astype(int)))
    begins, ends = edges[::2], edges[1::2]
    longest_first = np.argsort(begins - ends, kind="stable")
    for begin, end in zip(begins[longest_first], ends[longest_first], strict=True):
        if end - begin < SHORT_STRETCH:
            return None
        stretch = gaps[begin:end]
        common, _ = _find_commonest(stretch)
        places = 1 if begin == 0 or end == len(gaps) else len(gaps)
        if common >= 2 * step and (
            _is_regular(stretch, common) or _is_no_chance(stretch, gaps, common, step, places)
        ):
            return int(begin), int(end) - 1, common
    return None


def _find_commonest(gaps: IntArray) -> tuple[int, int]:
    values, counts = np.unique(gaps, return_counts=True)
    at = int(np.argmax(counts))
    return int(values[at]), int(counts[at])


def _is_regular(stretch: IntArray, common: int) -> bool:
    """Whether the gaps of a long stretch are the commonest one and its multiples."""
    if len(stretch) < STRETCH_GAPS:
        return False
    times = stretch / common
    regular = np.abs(times - np.maximum(np.round(times), 1)) <= _MONTH_SLACK
    return bool(
        _are_like(stretch, common).mean() >= STRETCH_SHARE and regular.mean() >= REGULAR_SHARE
    )


def _is_no_chance(stretch: IntArray, gaps: IntArray, common: int, step: int, places: int) -> bool:
    """Whether a stretch of equal gaps is too long for holes that come one by one.

    With a share r of such gaps in the rest of the table, n places hold n r^(k-1) runs of k; at the
    head or tail of the table is one place.
    """
    if common < SHORT_STRETCH_STEPS * step or not _are_like(stretch, common).all():
        return False
    elsewhere = max(int(_are_like(gaps, common).sum()) - len(stretch), 1)
    share = elsewhere / len(gaps)
    return bool(places * share ** (len(stretch) - 1) < BY_CHANCE)


def _are_like(gaps: IntArray, common: int) -> BoolArray:
    return np.asarray(np.abs(gaps / common - 1) <= _MONTH_SLACK)


def name_of(distance_ns: int) -> str:
    """The timeframe of bars so far apart, such as 4h; one of a month is about 31d."""
    minutes = max(round(distance_ns / (60 * 10**9)), 1)
    return next(f"{minutes // size}{unit}" for size, unit in _UNITS if minutes % size == 0)


def find_overlaps(stamps: IntArray, timeframe: Timeframe) -> IntArray:
    """The positions of bars that open before their predecessor closes.

    A bar that a clock change made shorter is a whole bar: by the clock of a zone it opens one
    timeframe after its predecessor. One zone must explain all such bars of the table.
    """
    gaps = np.diff(stamps)
    step = timeframe.minutes * 60 * 10**9
    short = np.flatnonzero(gaps < step)
    if not len(short) or are_clock_changes(stamps, short, step):
        return np.zeros(0, np.int64)
    return short + 1


def are_clock_changes(stamps: IntArray, before: IntArray, step: int) -> bool:
    """Whether a zone has a clock by which each bar is a whole step after the one ``before`` it.

    Only bars of at least twice the change are looked at: finer ones open at each hour anyway.
    """
    missing = step - (stamps[before + 1] - stamps[before])
    if (missing > _HOUR_NS).any() or (2 * missing > step).any():
        return False
    opens, nexts = _as_times(stamps[before]), _as_times(stamps[before + 1])
    changes = [timedelta(microseconds=part // 1000) for part in missing.tolist()]
    # Where the table holds closes, the change lies between the closes of the two bars.
    length = timedelta(microseconds=step // 1000)
    return any(
        all(
            _goes_forward(zone, first + late, second + late, change)
            for first, second, change in zip(opens, nexts, changes, strict=True)
        )
        for zone in _zones()
        for late in (timedelta(0), length)
    )


def _as_times(stamps: IntArray) -> list[datetime]:
    return [datetime.fromtimestamp(stamp // 10**9, UTC) for stamp in stamps.tolist()]


def _goes_forward(zone: ZoneInfo, first: datetime, second: datetime, change: timedelta) -> bool:
    """Whether the clock of a zone goes forward by ``change`` from one moment to the other.

    A change at the first moment itself counts: where midnight is skipped, a day begins at one.
    """
    before = (first - timedelta(seconds=1)).astimezone(zone).utcoffset()
    after = second.astimezone(zone).utcoffset()
    return before is not None and after is not None and after - before == change


@lru_cache(maxsize=1)
def _zones() -> tuple[ZoneInfo, ...]:
    """All zones, those that most markets go by first."""
    rest = sorted(available_timezones() - set(_USUAL_ZONES))
    return tuple(map(ZoneInfo, (*_USUAL_ZONES, *rest)))

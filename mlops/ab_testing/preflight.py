"""What can be said of an A/B test before it begins: when it may decide, and which gain it sees.

Only bars before the test are read, so a preflight spends no error.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd

from mlops.ab_testing.loss_sequence import count_first_pairs, find_visible_gain
from mlops.ab_testing.loss_variance import (
    Record,
    count_pairs_of_test_blocks,
    summarise_record,
    variance_of_record,
)
from mlops.ab_testing.pair_reading import Arms, list_due_opens
from mlops.ab_testing.pairs import Pairs
from mlops.arrays import TimeArray, aware_utc
from mlops.data.recent_bars import KnownBars
from mlops.json_values import to_json
from mlops.service import Service
from mlops.stats.confidence_sequence import DelayedStart


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """The bars of a test: opens of the first bar, of the first that may decide, and the last.

    A bar counts for the test when its outcome is due within the duration.
    """

    since_bar: datetime
    min_until_bar: datetime
    until_bar: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Preflight:
    """The plan of a test, and what it can be expected to see.

    Gains are shares of the champion's loss; None where the arms have no ten two-week blocks of
    common past to take them from.

    Attributes:
        planned_pairs: Pairs whose outcome is due within the duration, if every bar comes.
        needed_pairs: Pairs before a verdict on the losses is possible at all.
        needed_hours: Market hours until these are there.
        blocks: Two-week blocks of the common past.
        gain_seen: The gain that the planned pairs, or the needed ones where those are more, would
            show with a chance of 80 %.
        half_width: Half of the interval that these pairs would give.
        past_gain: The challenger's gain on the common past.
        past_gain_hours: Market hours until a gain like that would be seen with a chance of 80 %;
            None for more than a year, or where there is no gain.
    """

    duration_hours: float
    since_bar: datetime
    until_bar: datetime
    planned_pairs: int
    needed_pairs: int
    needed_hours: float
    blocks: int
    common_pairs: int
    gain_seen: float | None = None
    half_width: float | None = None
    past_gain: float | None = None
    past_gain_hours: float | None = None

    @property
    def can_decide(self) -> bool:
        """Whether the duration brings the pairs that a verdict needs."""
        return self.planned_pairs >= self.needed_pairs

    @property
    def text(self) -> str:
        """The plan in sentences."""
        need = f"a verdict needs {self.needed_pairs:,}"
        enough = "" if self.can_decide else f", which takes {self.needed_hours:,.0f} hours"
        plan = (
            f"{self.duration_hours:,.0f} hours bring {self.planned_pairs:,} pairs; {need}{enough}."
        )
        return f"{plan} {self._describe_gain()}"

    def _describe_gain(self) -> str:
        if self.gain_seen is None or self.past_gain is None:
            return (
                f"The versions have {self.blocks} two-week blocks of common past; without ten "
                "nobody knows which gain would be seen."
            )
        pairs = max(self.planned_pairs, self.needed_pairs)
        seen = f"By their past, {pairs:,} pairs show a gain of {self.gain_seen:.1%} in 4 of 5 tests"
        if self.past_gain <= 0.0:
            return f"{seen}; on that past the challenger gains nothing ({self.past_gain:+.1%})."
        when = (
            "not seen within a year"
            if self.past_gain_hours is None
            else f"seen after {self.past_gain_hours:,.0f} hours"
        )
        return f"{seen}; that past holds a gain of {self.past_gain:.1%}, {when}."

    def to_dict(self) -> dict[str, Any]:
        """JSON values, with ``can_decide`` and ``text``."""
        values: dict[str, Any] = to_json(
            asdict(self)
            | {"since_bar": self.since_bar.isoformat(), "until_bar": self.until_bar.isoformat()}
        )
        return values | {"can_decide": self.can_decide, "text": self.text}


def next_open(service: Service, known: KnownBars) -> datetime:
    """Open of the first bar that has not closed at market time, in the phase of the bars."""
    closed = pd.Timestamp(known.frame.index[-1]) + service.timeframe.step
    calendar = known.market.calendar
    passed = calendar.missing_between(
        np.array([closed.tz_convert(None).to_datetime64()]),
        np.array([pd.Timestamp(known.now).tz_convert(None).to_datetime64()]),
        service.timeframe,
    )
    bars = 1 + max(int(passed[0]), 0)
    following = calendar.close_after(closed, bars, service.timeframe) - service.timeframe.step
    opened: datetime = following.to_pydatetime()
    return opened


def span_of(arms: Arms, since_bar: datetime, *, hours: float, min_hours: float) -> Span:
    """The bars of a test that lasts ``hours`` of market time and decides after ``min_hours``."""

    def last_due(after: float) -> datetime:
        due = _due_within(arms, since_bar, after)
        return since_bar if not len(due) else aware_utc(due[-1])

    return Span(
        since_bar=since_bar,
        min_until_bar=last_due(min(min_hours, hours)),
        until_bar=last_due(hours),
    )


def plan_test(
    arms: Arms, past: Pairs, *, since_bar: datetime, hours: float, alpha: float
) -> tuple[Preflight, Record | None]:
    """The preflight of a test of ``hours`` of market time, and its record of the common past.

    Args:
        past: The pairs before ``since_bar``, as `read_common_past` gives them.
    """
    record = summarise_record(past, bars_per_week=arms.bars_per_week)
    due = _due_within(arms, since_bar, hours)
    needed = least_pairs(arms, record)
    lead = _bars_before_fit(arms, since_bar)
    plan = Preflight(
        duration_hours=hours,
        since_bar=since_bar,
        until_bar=since_bar if not len(due) else aware_utc(due[-1]),
        planned_pairs=int(arms.counts(due).sum()),
        needed_pairs=needed,
        needed_hours=_hours_of(arms, since_bar, lead + needed),
        blocks=_count_blocks(past, record, arms),
        common_pairs=len(past.champion_loss),
    )
    return _with_gains(plan, arms, past, record, alpha=alpha, lead=lead), record


def least_pairs(arms: Arms, record: Record | None) -> int:
    """Pairs before which no verdict on the losses is possible."""
    first = count_first_pairs(arms.service.horizon)
    if record is not None:
        return first
    blocks = count_pairs_of_test_blocks(
        horizon=arms.service.horizon, bars_per_week=arms.bars_per_week
    )
    return max(first, blocks)


def _with_gains(
    plan: Preflight,
    arms: Arms,
    past: Pairs,
    record: Record | None,
    *,
    alpha: float,
    lead: int,
) -> Preflight:
    loss = float(past.champion_loss.mean()) if record is not None else 0.0
    if record is None or not loss > 0.0:
        return plan
    variance = variance_of_record(record)
    boundary = DelayedStart(count_first_pairs(past.horizon), alpha)

    def gain_seen(pairs: int) -> float:
        seen = find_visible_gain(variance, pairs=pairs, boundary=boundary)
        assert seen is not None, "least_pairs is not below the boundary's first look"
        return seen / loss

    pairs = max(plan.planned_pairs, plan.needed_pairs)
    gain = 1.0 - float(past.challenger_loss.mean()) / loss
    enough = (n for n in _year_of_pairs(arms, plan.needed_pairs) if gain_seen(n) <= gain)
    n = next(enough, None)
    return replace(
        plan,
        half_width=boundary.z(pairs) * math.sqrt(variance / pairs) / loss,
        gain_seen=gain_seen(pairs),
        past_gain=gain,
        past_gain_hours=None if n is None else _hours_of(arms, plan.since_bar, lead + n),
    )


def _year_of_pairs(arms: Arms, first: int) -> Iterator[int]:
    """Numbers of pairs from the first on, a fiftieth apart, up to those of a year."""
    n, last = first, arms.calendar.bars_per_year(arms.service.timeframe)
    while n <= last:
        yield n
        n += max(n // 50, 1)


def _due_within(arms: Arms, since_bar: datetime, hours: float) -> TimeArray:
    now = since_bar + timedelta(hours=hours)
    return list_due_opens(arms.service, arms.calendar, since=since_bar, now=now)


def hours_until_due(arms: Arms, since_bar: datetime, bar: datetime) -> float:
    """Market hours from the open of the first bar until the outcome of another is due."""
    timeframe = arms.service.timeframe
    closed = pd.Timestamp(bar) + timeframe.step
    due = arms.calendar.close_after(closed, arms.service.horizon, timeframe)
    hours: float = (due - pd.Timestamp(since_bar)) / pd.Timedelta(hours=1)
    return hours


def bar_after(arms: Arms, bar: datetime, bars: int) -> datetime:
    """Open of the bar that the market trades so many bars later."""
    step = arms.service.timeframe.step
    closed = pd.Timestamp(bar) + step
    later = arms.calendar.close_after(closed, bars, arms.service.timeframe) - step
    opened: datetime = later.to_pydatetime()
    return opened


def _hours_of(arms: Arms, since_bar: datetime, bars: int) -> float:
    """Market hours from the first bar's open until the outcomes of so many bars are due."""
    return hours_until_due(arms, since_bar, bar_after(arms, since_bar, max(bars - 1, 0)))


def _bars_before_fit(arms: Arms, since_bar: datetime) -> int:
    """Bars at the test's beginning that an arm was fitted on."""
    if arms.fitted_until is None or arms.fitted_until <= since_bar:
        return 0
    opened = arms.calendar.expected_opens(
        pd.Timestamp(since_bar), pd.Timestamp(arms.fitted_until), arms.service.timeframe
    )
    stamps = np.asarray(opened.tz_convert(None).to_numpy().astype("datetime64[us]"))
    return int((~arms.counts(stamps)).sum())


def _count_blocks(past: Pairs, record: Record | None, arms: Arms) -> int:
    if record is not None:
        return record.blocks
    return int(len(past.champion_loss) / (2.0 * arms.bars_per_week))

"""The pairs of an A/B test: bars that both arms forecast, with the outcome, read from the store.

    bars whose outcome is due -> forecasts of both arms, outcomes -> losses, missing rows, digest

A bar counts from ``since_bar`` to the newest whose outcome is due by the market's own clock. Later
bars are not read: a second pass of a replay has them on record. Nor are bars that either arm was
fitted on. Late outcomes enter when they come, and of a revised one the newest value counts.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import pandas as pd

from mlops.ab_testing.pairs import Missing, Pairs
from mlops.arrays import BoolArray, FloatArray, TimeArray, aware_utc, naive_utc
from mlops.data.calendar import Calendar
from mlops.service import Service
from mlops.store import Store
from mlops.store.ab_tests import list_gaps
from mlops.store.outcomes import ArmForecasts, read_arms
from mlops.validation.forecasts import Forecasts

RUN_UP_BARS = 400
"""Outcomes before the test that set the scale of its first losses of a return or a price."""

UNKNOWN = "unknown"
"""Why a row is missing where no replica has said it."""

DAYS_PER_WEEK, DAYS_PER_YEAR = 7.0, 365.0
_INSTANT = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arms:
    """The two versions of a test, and the market of their service.

    Args:
        fitted_until: When the last label that either was fitted on became known; None where
            neither was fitted. Bars that closed before do not count.
    """

    service: Service
    calendar: Calendar
    champion_id: str
    challenger_id: str
    fitted_until: datetime | None = None

    @property
    def bars_per_week(self) -> float:
        """Tradable bars of a week, on average over a year."""
        yearly = self.calendar.bars_per_year(self.service.timeframe)
        return yearly * DAYS_PER_WEEK / DAYS_PER_YEAR

    def counts(self, bar: TimeArray) -> BoolArray:
        """(n,) whether bars that open then are new to both arms."""
        if self.fitted_until is None:
            return np.ones(len(bar), dtype=bool)
        closed = np.add(bar, np.timedelta64(self.service.timeframe.step))
        return np.asarray(closed >= naive_utc(self.fitted_until, "us"))


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Readings:
    """What a look at a test reads from the store.

    Args:
        champion, challenger: The pairs as records of each arm, whose rows are those of ``pairs``;
            None where there is no pair.
        digest: SHA-256 over bar, both forecasts and outcome of each pair.
    """

    pairs: Pairs
    missing: Missing
    champion: Forecasts | None
    challenger: Forecasts | None
    digest: str


def list_due_opens(
    service: Service, calendar: Calendar, *, since: datetime, now: datetime
) -> TimeArray:
    """Opens (n,) of the calendar's bars from ``since`` on whose outcome is due at market time."""
    end = pd.Timestamp(now) - service.timeframe.step + _INSTANT
    opened = calendar.expected_opens(pd.Timestamp(since), end, service.timeframe)
    due = opened[: max(len(opened) - service.horizon, 0)]
    return np.asarray(due.tz_convert(None).to_numpy().astype("datetime64[us]"))


def read_test_bars(store: Store, arms: Arms, *, since: datetime, due: TimeArray) -> Readings:
    """Read the pairs of a test, and why rows of its other bars are missing.

    Args:
        since: Open of the test's first bar.
        due: Opens of its bars whose outcome is due, as `list_due_opens` gives them.
    """
    service = arms.service
    until = since if not len(due) else aware_utc(due[-1]) + _INSTANT
    run_up = _run_up(arms, since)
    rows = read_arms(
        store,
        service.key,
        champion_id=arms.champion_id,
        challenger_id=arms.challenger_id,
        since=run_up,
        until=until,
    )
    of_test = (rows.bar >= naive_utc(since, "us")) & arms.counts(rows.bar)
    gaps = {
        (gap.bar, gap.model_id): str(gap.reason)
        for gap in list_gaps(store, service.key, since=since, until=until)
    }
    both = pair_rows(service, rows, of_test)
    return Readings(
        pairs=both.pairs,
        missing=_count_missing(arms, rows, of_test, due=due, gaps=gaps),
        champion=both.champion,
        challenger=both.challenger,
        digest=both.digest,
    )


@dataclass(frozen=True, slots=True, eq=False)
class PairedRows:
    """Pairs and what they are made of; the records are None where there is no pair."""

    pairs: Pairs
    champion: Forecasts | None
    challenger: Forecasts | None
    digest: str


def pair_rows(service: Service, rows: ArmForecasts, chosen: BoolArray) -> PairedRows:
    """Pair both arms' losses on the chosen rows, on the scale of all rows up to each.

    Args:
        chosen: Mask (n,) of the rows that may be pairs.
    """
    usable = np.isfinite(rows.value) & np.isfinite(rows.persistence)
    both = usable & chosen & np.isfinite(rows.champion) & np.isfinite(rows.challenger)
    if not both.any():
        return PairedRows(no_pairs(service), None, None, _digest(rows, both))
    records = [_record_of(service, rows, usable, said) for said in (rows.champion, rows.challenger)]
    losses = [np.full(len(rows), np.nan) for _ in records]
    for loss, record in zip(losses, records, strict=True):
        loss[usable] = record.comparable_losses()
    both &= np.isfinite(losses[0]) & np.isfinite(losses[1])
    if not both.any():
        return PairedRows(no_pairs(service), None, None, _digest(rows, both))
    pairs = Pairs(
        horizon=service.horizon,
        closed_at=np.add(rows.bar[both], np.timedelta64(service.timeframe.step)),
        champion_loss=losses[0][both],
        challenger_loss=losses[1][both],
    )
    champion, challenger = (
        _record_of(service, rows, both, said) for said in (rows.champion, rows.challenger)
    )
    return PairedRows(pairs, champion, challenger, _digest(rows, both))


def no_pairs(service: Service) -> Pairs:
    """The pairs of a test of which nothing is known yet."""
    none = np.empty(0)
    never = np.empty(0, dtype="datetime64[us]")
    return Pairs(horizon=service.horizon, closed_at=never, champion_loss=none, challenger_loss=none)


def _record_of(
    service: Service, rows: ArmForecasts, keep: BoolArray, forecast: FloatArray
) -> Forecasts:
    bar, persistence, baseline = rows.bar[keep], rows.persistence[keep], rows.baseline[keep]
    return Forecasts(
        target=service.target,
        horizon=service.horizon,
        made_at=np.add(bar, np.timedelta64(service.timeframe.step)),
        y=rows.value[keep],
        forecast=forecast[keep],
        persistence=persistence,
        # No loss reads it, and a bar without one is a pair all the same.
        baseline=np.where(np.isfinite(baseline), baseline, persistence),
        next_return=rows.next_return[keep],
        fold=np.zeros(len(bar), dtype=np.int64),
    )


def _count_missing(
    arms: Arms,
    rows: ArmForecasts,
    of_test: BoolArray,
    *,
    due: TimeArray,
    gaps: Mapping[tuple[datetime, str], str],
) -> Missing:
    expected = int(arms.counts(due).sum())
    has = [of_test & np.isfinite(said) for said in (rows.champion, rows.challenger)]
    forecast_bars = int((has[0] | has[1]).sum())

    def count(model_id: str, lacking: BoolArray) -> dict[str, int]:
        return dict(
            Counter(gaps.get((aware_utc(bar), model_id), UNKNOWN) for bar in rows.bar[lacking])
        )

    return Missing(
        bars=expected,
        holes=max(expected - forecast_bars, 0),
        champion=count(arms.champion_id, has[1] & ~has[0]),
        challenger=count(arms.challenger_id, has[0] & ~has[1]),
    )


def _digest(rows: ArmForecasts, both: BoolArray) -> str:
    columns = (rows.champion, rows.challenger, rows.value)
    values = np.column_stack([column[both] for column in columns])
    content = hashlib.sha256(rows.bar[both].astype("<i8").tobytes())
    content.update(values.astype("<f8").tobytes())
    return content.hexdigest()


def _run_up(arms: Arms, since: datetime) -> datetime:
    """A time before the test from which at least `RUN_UP_BARS` bars were traded."""
    step = arms.service.timeframe.step
    always = timedelta(days=DAYS_PER_WEEK) / step
    closed_for = max(always / arms.bars_per_week, 1.0)
    return since - RUN_UP_BARS * closed_for * step

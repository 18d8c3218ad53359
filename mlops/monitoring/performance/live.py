"""How a version does now, beside how it did at its promotion and what the baseline does now.

Everything is read from the store: forecasts joined with their outcomes, what was asked of the
version, and the newest look at its data. A window is the latest
bars whose outcome is due, counted in bars of the market, so that a weekend shortens nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd

from mlops.data.calendar import MINUTES_PER_YEAR, calendar_for
from mlops.errors import SettingsError
from mlops.json_values import number, to_json
from mlops.monitoring.performance.degradation import (
    ALPHA,
    PERFORMANCE_THRESHOLD,
    Degradation,
    Losses,
    judge_degradation,
)
from mlops.monitoring.performance.operations import (
    LiveMeasure,
    measure_data_quality,
    measure_system,
)
from mlops.monitoring.performance.promotion import Promotion
from mlops.service import Service, Target
from mlops.stats import trading
from mlops.stats.dependence import block_length
from mlops.store import ModelVersion, Store
from mlops.store.outcomes import Matched, OutcomeCounts, count_outcomes, read_matched
from mlops.validation.forecasts import Forecasts
from mlops.validation.measures import Measure, Sampler, direction_measures, error_measures

RUN_UP_BARS = 200
"""Forecasts before the window that size the positions of its first bars."""
AS_EVALUATED = frozenset({Target.VOLATILITY, Target.DIRECTION})
"""Targets whose losses are judged as the gates measured them; the others' are scaled first."""
REPS = 200
SEED = 20241205
CONFIDENCE_LEVEL = 0.95
SPARE = 1.5
SPARE_DAYS = 10
"""How much further back than on average bars are looked for, where a market closes."""


@dataclass(frozen=True, slots=True)
class Completeness:
    """Of ``expected`` bars of the market, how many were forecast, and what became of those.

    ``counts.arrived`` were known only after they had been given up, ``counts.waiting`` are due
    and wait for bars.
    """

    expected: int
    counts: OutcomeCounts

    @property
    def forecast_share(self) -> float:
        return self.counts.forecasts / self.expected

    @property
    def known_share(self) -> float:
        """Share of the expected bars that were forecast and whose outcome is known."""
        return self.counts.known / self.expected


@dataclass(frozen=True, slots=True, kw_only=True)
class LivePerformance:
    """A version on the ``n`` matched bars of a window, ``since`` to ``until`` (opens, UTC).

    ``n`` counts forecasts whose outcome and baseline are known. Metrics that the target does not
    have are not there: a volatility names no side, so it has no trading figures. ``system`` is
    how it answered requests, ``data_quality`` what the newest look found of its data; a figure
    that is not on record is not there. ``degradation`` is None where the version has no reference.
    """

    service: str
    model_id: str
    target: str
    horizon: int
    window_hours: float
    since: str
    until: str
    n: int
    measures: tuple[LiveMeasure, ...]
    system: tuple[LiveMeasure, ...]
    data_quality: tuple[LiveMeasure, ...]
    completeness: Completeness
    degradation: Degradation | None

    def __getitem__(self, name: str) -> LiveMeasure:
        every = (*self.measures, *self.system, *self.data_quality)
        for measure in every:
            if measure.name == name:
                return measure
        known = ", ".join(measure.name for measure in every)
        why = "" if self.measures else "; of forecasts none: nothing is matched"
        raise KeyError(f"no metric {name!r}; known: {known}{why}")

    def to_dict(self) -> dict[str, Any]:
        """JSON-legal; a number that is not finite becomes null with a flag beside it."""
        values = asdict(self) | {"degradation": None}
        if self.degradation is not None:
            values["degradation"] = self.degradation.to_dict()
        shares = {
            "forecast_share": self.completeness.forecast_share,
            "known_share": self.completeness.known_share,
        }
        values["completeness"] = asdict(self.completeness) | shares
        found: dict[str, Any] = to_json(values)
        return found


def measure_performance(
    store: Store,
    version: ModelVersion,
    *,
    now: datetime,
    window_hours: float,
    fee_bps: float,
    promotion: Promotion | None = None,
    reference: Losses | None = None,
    decision_hours: float | None = None,
    threshold: float = PERFORMANCE_THRESHOLD,
    alpha: float = ALPHA,
) -> LivePerformance:
    """Measure a version, champion or challenger, on the outcomes due at market time ``now``.

    ``reference`` are its losses out of sample, against which those of the last
    ``decision_hours`` (by default those of the window) are judged.

    Raises:
        SettingsError: when the window holds no bar, or a level is out of range.
    """
    service = Service.parse(version.service)
    size = bars_in_window(service, window_hours)
    judged = size if decision_hours is None else bars_in_window(service, decision_hours)
    due = list_due_bars(service, now=now, size=max(size, judged) + RUN_UP_BARS)
    since, until = due[-size], due[-1] + _INSTANT
    model_id = version.model_id
    matched = read_matched(store, service.key, model_id=model_id, since=due[0], until=until)
    counts = count_outcomes(store, service.key, model_id=model_id, since=since, until=until)
    record = to_record(service, matched)
    step = service.timeframe.step
    first = _row_of(record, since + step)
    rows = _from(record, first)
    promotion = promotion or Promotion()
    measures = _measures(service, record, first, fee_bps=fee_bps, promoted=promotion.figures)
    degradation = None
    if reference is not None:
        degradation = judge_degradation(
            Losses.none()
            if record is None
            else Losses.of(record, since=_row_of(record, due[-judged] + step)),
            reference,
            skill_at_promotion=promotion.skill if service.target in AS_EVALUATED else None,
            threshold=threshold,
            alpha=alpha,
        )
    return LivePerformance(
        service=service.key,
        model_id=model_id,
        target=str(service.target),
        horizon=service.horizon,
        window_hours=window_hours,
        since=since.isoformat(),
        until=due[-1].isoformat(),
        n=0 if rows is None else len(rows),
        measures=measures,
        system=measure_system(store, version, now=now, window_hours=window_hours),
        data_quality=measure_data_quality(store, version, now=now, window_hours=window_hours),
        completeness=Completeness(size, counts),
        degradation=degradation,
    )


def bars_in_window(service: Service, window_hours: float) -> int:
    """Bars of a window.

    Raises:
        SettingsError: when there is none.
    """
    size = round(window_hours * 60 / service.timeframe.minutes)
    if size < 1:
        raise SettingsError(
            f"a window of {window_hours:g} hours holds no bar of {service.timeframe}; "
            "choose a longer MONITORING_WINDOW_HOURS"
        )
    return size


def list_due_bars(service: Service, *, now: datetime, size: int) -> tuple[datetime, ...]:
    """Opens of the latest ``size`` bars whose outcome is due, oldest first.

    They are bars the market could trade by its calendar, whether they are there or not.
    """
    calendar = calendar_for(service.venue, service.symbol)
    step, moment = service.timeframe.step, pd.Timestamp(now).tz_convert("UTC")
    always = MINUTES_PER_YEAR / service.timeframe.minutes
    closed_for = always / calendar.bars_per_year(service.timeframe)
    back = (size + service.horizon + 2) * step
    if closed_for > 1.0:
        back = SPARE * closed_for * back + timedelta(days=SPARE_DAYS)
    opened = calendar.expected_opens(moment - back, moment - step + _INSTANT, service.timeframe)
    due = opened[: len(opened) - service.horizon][-size:]
    return tuple(due.to_pydatetime().tolist())


def to_record(service: Service, matched: Matched) -> Forecasts | None:
    """Matched forecasts of one version as the gates read them; None where there is none.

    Bars without a forecast of the baseline are left out: both are measured on the same ones.
    """
    both = matched.take(np.isfinite(matched.baseline))
    if not len(both):
        return None
    return Forecasts(
        target=service.target,
        horizon=service.horizon,
        made_at=both.bar + np.timedelta64(service.timeframe.step),
        y=both.value,
        forecast=both.forecast,
        persistence=both.persistence,
        baseline=both.baseline,
        next_return=both.next_return,
        fold=np.zeros(len(both), dtype=np.int64),
    )


def _row_of(record: Forecasts | None, made_at: datetime) -> int:
    """The first row of a record made at that time or later."""
    if record is None:
        return 0
    moment = np.datetime64(made_at.astimezone(UTC).replace(tzinfo=None), "us")
    return int(np.searchsorted(record.made_at, moment))


def _from(record: Forecasts | None, first: int) -> Forecasts | None:
    """The rows of a record from one on; None where there are none."""
    if record is None or first >= len(record):
        return None
    arrays = {f.name: getattr(record, f.name)[first:] for f in fields(Forecasts)[2:]}
    return replace(record, **arrays)


def _measures(
    service: Service,
    record: Forecasts | None,
    first: int,
    *,
    fee_bps: float,
    promoted: Mapping[str, float],
) -> tuple[LiveMeasure, ...]:
    rows = _from(record, first)
    if record is None or rows is None:
        return ()
    sampler = Sampler(
        block=block_length(len(rows), horizon=rows.horizon),
        reps=REPS,
        seed=SEED,
        confidence_level=CONFIDENCE_LEVEL,
    )
    found = [
        _beside(measure, promoted)
        for measure in (*error_measures(rows, sampler), *direction_measures(rows, sampler))
    ]
    if rows.takes_sides:
        found += _trading(service, record, first, fee_bps=fee_bps, promoted=promoted)
    return tuple(found)


def _beside(measure: Measure, promoted: Mapping[str, float]) -> LiveMeasure:
    return LiveMeasure(
        measure.name,
        measure.value,
        number(measure.low),
        number(measure.high),
        measure.baseline,
        promoted.get(measure.name),
    )


def _trading(
    service: Service,
    record: Forecasts,
    first: int,
    *,
    fee_bps: float,
    promoted: Mapping[str, float],
) -> list[LiveMeasure]:
    """Positions are sized by the forecasts before the window too, as in real trading."""
    calendar = calendar_for(service.venue, service.symbol)
    own, naive = (
        trading.trading_figures(
            rows.positions()[first:],
            rows.next_return[first:],
            fee_bps=fee_bps,
            bars_per_year=calendar.bars_per_year(service.timeframe),
        )
        for rows in (record, record.of_baseline())
    )
    return [
        LiveMeasure(
            name,
            number(getattr(own, name)),
            None,
            None,
            number(getattr(naive, name)),
            promoted.get(name),
        )
        for name in ("sharpe_ratio", "max_drawdown", "win_rate", "profit_factor")
    ]


_INSTANT = timedelta(microseconds=1)

"""Measures a version on its live forecasts, beside its baseline and its figures at promotion.

    forecasts joined with outcomes, request counts, the newest look -> LivePerformance

Everything is read from the store. A window is the latest bars whose outcome is due. It is counted
in bars that the market could trade, so that a weekend does not shorten it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd

from mlops.arrays import naive_utc
from mlops.data.calendar import MINUTES_PER_YEAR, Calendar
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
from mlops.registry.markets import read_market
from mlops.service import Service, Target
from mlops.stats import trading
from mlops.stats.dependence import block_length
from mlops.store import ModelVersion, Store
from mlops.store.outcomes import MatchedForecasts, OutcomeCounts, count_outcomes, read_matched
from mlops.validation.forecasts import Forecasts
from mlops.validation.measures import Sampler, direction_measures, error_measures

RUN_UP_BARS = 200
"""Bars before the window whose forecasts size the positions of its first bars."""
AS_EVALUATED = frozenset({Target.VOLATILITY, Target.DIRECTION})
"""Targets whose losses are judged unscaled, as the gates measured them."""
REPS = 200
SEED = 20241205
CONFIDENCE_LEVEL = 0.95
SPARE, SPARE_DAYS = 1.5, 10
"""Where a market closes, bars are searched for this much further back than on average."""
_INSTANT = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Completeness:
    """How many bars of a window were forecast, and what became of their outcomes.

    Attributes:
        expected: Bars that the market could trade.
        counts: Outcomes by state. ``arrived`` ones were known only after they had been marked
            missing; ``waiting`` ones are due and their bars are not there.
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
    """The figures of a version on one window.

    Attributes:
        since, until: Opens of the first and the last bar of the window (UTC, ISO 8601).
        n: Forecasts whose outcome and baseline are known.
        measures: Metrics of the forecasts. Those that the target does not have are left out: a
            volatility has no side to trade, so it has no trading figures.
        system: Throughput, latency and errors of its requests.
        data_quality: What the newest look found of its data.
        degradation: The judgement of its skill; None where it has no reference.
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
        measures = (*self.measures, *self.system, *self.data_quality)
        for measure in measures:
            if measure.name == name:
                return measure
        known = ", ".join(measure.name for measure in measures)
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
        legal: dict[str, Any] = to_json(values)
        return legal


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
    """Measure a version, champion or challenger, on the latest outcomes.

    Args:
        now: Market time.
        fee_bps: Costs of trading, in bps of the turnover.
        reference: Its losses out of sample, against which its skill is judged.
        decision_hours: Length of the window on which its skill is judged; None: that of the
            window.
        threshold: Least share of its skill whose loss counts.
        alpha: Level of the judgement.

    Raises:
        SettingsError: when the window holds no bar, or a level is out of range.
    """
    service = Service.parse(version.service)
    size = bars_in_window(service, window_hours)
    decision_size = size if decision_hours is None else bars_in_window(service, decision_hours)
    market = read_market(store, service)
    size_read = max(size, decision_size) + RUN_UP_BARS
    due = list_due_bars(service, market.calendar, now=now, size=size_read)
    step = service.timeframe.step
    # Bars may open up to a step before the calendar's: days by date, or hours by the full hour.
    since, until = due[-size] - step + _INSTANT, due[-1] + _INSTANT
    model_id = version.model_id
    matched = read_matched(store, service.key, model_id=model_id, since=due[0], until=until)
    counts = count_outcomes(store, service.key, model_id=model_id, since=since, until=until)
    record = to_record(service, matched)
    first = _first_row_since(record, since + step)
    rows = _rows_from(record, first)
    promotion = promotion or Promotion()
    measures = _measure_forecasts(
        record,
        first,
        fee_bps=fee_bps,
        bars_per_year=market.calendar.bars_per_year(service.timeframe),
        promoted=promotion.figures,
    )
    degradation = None
    if reference is not None:
        first_judged = _first_row_since(record, due[-decision_size] + _INSTANT)
        degradation = judge_degradation(
            Losses.none() if record is None else Losses.of(record, since=first_judged),
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
        since=due[-size].isoformat(),
        until=due[-1].isoformat(),
        n=0 if rows is None else len(rows),
        measures=measures,
        system=measure_system(
            store, version, now=now, window_hours=window_hours, is_live=market.is_live
        ),
        data_quality=measure_data_quality(store, version, now=now, window_hours=window_hours),
        completeness=Completeness(size, counts),
        degradation=degradation,
    )


def bars_in_window(service: Service, window_hours: float) -> int:
    """Bars of a window of so many hours.

    Raises:
        SettingsError: when the window is shorter than a bar.
    """
    size = round(window_hours * 60 / service.timeframe.minutes)
    if size < 1:
        raise SettingsError(
            f"a window of {window_hours:g} hours holds no bar of {service.timeframe}; "
            "choose a longer MONITORING_WINDOW_HOURS"
        )
    return size


def list_due_bars(
    service: Service, calendar: Calendar, *, now: datetime, size: int
) -> tuple[datetime, ...]:
    """Opens of the latest ``size`` bars whose outcome is due, oldest first.

    They are the bars that the market could trade by its calendar, whether they came or not.
    """
    step, moment = service.timeframe.step, pd.Timestamp(now).tz_convert("UTC")
    always = MINUTES_PER_YEAR / service.timeframe.minutes
    closed_for = always / calendar.bars_per_year(service.timeframe)
    back = (size + service.horizon + 2) * step
    if closed_for > 1.0:
        back = SPARE * closed_for * back + timedelta(days=SPARE_DAYS)
    opened = calendar.expected_opens(moment - back, moment - step + _INSTANT, service.timeframe)
    due = opened[: len(opened) - service.horizon][-size:]
    return tuple(due.to_pydatetime().tolist())


def to_record(service: Service, matched: MatchedForecasts) -> Forecasts | None:
    """Turn matched forecasts of one version into the record that measures read.

    Bars without a forecast of the baseline are left out, so that both are measured on the same
    bars. None where no bar is left.
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


def _first_row_since(record: Forecasts | None, made_at: datetime) -> int:
    """The number of the first row made at ``made_at`` or later."""
    if record is None:
        return 0
    moment = naive_utc(made_at, "us")
    return int(np.searchsorted(record.made_at, moment))


def _rows_from(record: Forecasts | None, first: int) -> Forecasts | None:
    """The rows of a record from row ``first`` on; None where there are none."""
    if record is None or first >= len(record):
        return None
    arrays = {f.name: getattr(record, f.name)[first:] for f in fields(Forecasts)[2:]}
    return replace(record, **arrays)


def _measure_forecasts(
    record: Forecasts | None,
    first: int,
    *,
    fee_bps: float,
    bars_per_year: float,
    promoted: Mapping[str, float],
) -> tuple[LiveMeasure, ...]:
    rows = _rows_from(record, first)
    if record is None or rows is None:
        return ()
    sampler = Sampler(
        block=block_length(len(rows), horizon=rows.horizon),
        reps=REPS,
        seed=SEED,
        confidence_level=CONFIDENCE_LEVEL,
    )
    measures = [
        LiveMeasure(
            measure.name,
            measure.value,
            number(measure.low),
            number(measure.high),
            measure.baseline,
            promoted.get(measure.name),
        )
        for measure in (*error_measures(rows, sampler), *direction_measures(rows, sampler))
    ]
    if rows.takes_sides:
        measures += _measure_trading(
            record, first, fee_bps=fee_bps, bars_per_year=bars_per_year, promoted=promoted
        )
    return tuple(measures)


def _measure_trading(
    record: Forecasts,
    first: int,
    *,
    fee_bps: float,
    bars_per_year: float,
    promoted: Mapping[str, float],
) -> list[LiveMeasure]:
    """Trading figures. As in real trading, forecasts before the window size positions too."""
    own, of_baseline = (
        trading.trading_figures(
            rows.positions()[first:],
            rows.next_return[first:],
            fee_bps=fee_bps,
            bars_per_year=bars_per_year,
        )
        for rows in (record, record.of_baseline())
    )
    return [
        LiveMeasure(
            name,
            number(getattr(own, name)),
            None,
            None,
            number(getattr(of_baseline, name)),
            promoted.get(name),
        )
        for name in ("sharpe_ratio", "max_drawdown", "win_rate", "profit_factor")
    ]

"""A section on the history of a service: price, forecasts, outcomes, moments, champions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from mlops.reports import figures
from mlops.reports.cards import UNITS
from mlops.reports.page import HistorySection, Moment, Picture
from mlops.service import Service
from mlops.store.outcomes import MatchedForecasts

ChampionSpan = tuple[np.datetime64, np.datetime64, str]


def history_section(
    service: Service, bars: pd.DataFrame, scored: MatchedForecasts, moments: Sequence[Moment]
) -> HistorySection:
    """Make the section of a span of market time.

    Args:
        bars: The bars of the span by open time.
        scored: Its forecasts of record with their outcomes.
        moments: What happened in it.
    """
    change = mse_change(scored)
    began, ended = bars.index[0], bars.index[-1]
    return HistorySection(
        title=f"{service} from {began:%Y-%m-%d} to {ended:%Y-%m-%d}",
        verdict=f"{len(scored):,} forecasts met their outcomes: squared error {change:+.1%} of the "
        "baseline's on the same bars.",
        passed=change < 0,
        facts={
            "bars": f"{len(bars):,}",
            "champions": ", ".join(dict.fromkeys(name for *_, name in champion_spans(scored))),
            "first and last bar forecast": f"{scored.bar[0]}, {scored.bar[-1]}",
        },
        moments=moments,
        pictures=[_draw_picture(service, bars, scored, moments)],
    )


def mse_change(scored: MatchedForecasts) -> float:
    """Squared error relative to the baseline's on the same bars; 0 where both are equal."""
    known = np.isfinite(scored.baseline)
    mse = np.mean((scored.value - scored.forecast)[known] ** 2)
    baseline_mse = np.mean((scored.value - scored.baseline)[known] ** 2)
    return float(mse / baseline_mse - 1)


def champion_spans(scored: MatchedForecasts) -> list[ChampionSpan]:
    """The spans of bars with one champion each: first bar, last bar, model_id."""
    names = scored.model_id.astype(str)
    starts = np.flatnonzero(np.r_[True, names[1:] != names[:-1]])
    ends = np.r_[starts[1:], len(names) - 1]
    return [
        (scored.bar[first], scored.bar[last], str(names[first]))
        for first, last in zip(starts, ends, strict=True)
    ]


def _draw_picture(
    service: Service, bars: pd.DataFrame, scored: MatchedForecasts, moments: Sequence[Moment]
) -> Picture:
    uri = figures.draw_history(
        (
            pd.DatetimeIndex(bars.index).tz_localize(None).to_numpy(),
            bars["close"].to_numpy(dtype=np.float64),
        ),
        (scored.bar, scored.value, scored.forecast, scored.baseline),
        champion_spans(scored),
        [(np.datetime64(moment.at.replace(tzinfo=None)), moment.kind) for moment in moments],
        unit=UNITS[service.target],
    )
    return Picture(
        "Price, forecasts and outcomes, alarms, who was live",
        uri,
        "Dotted lines are the moments below; the band names who made the forecasts of record.",
    )

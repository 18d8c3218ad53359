"""A stretch of a service's life on paper: price, forecasts, outcomes, alarms, who was live."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import numpy as np
import pandas as pd

from mlops.reports import figures
from mlops.reports.cards import UNITS
from mlops.reports.page import HistorySection, Moment, Picture
from mlops.service import Service
from mlops.store.outcomes import Matched

ChampionSpan = tuple[np.datetime64, np.datetime64, str]


def history_section(
    service: Service, bars: pd.DataFrame, scored: Matched, moments: Sequence[Moment]
) -> HistorySection:
    """``bars`` of the stretch by open time, its forecasts of record with their outcomes."""
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
        pictures=[_picture(service, bars, scored, moments)],
    )


def mse_change(scored: Matched) -> float:
    """Squared error beyond the declared baseline's on the same bars, as a share of it."""
    both = np.isfinite(scored.baseline)
    ours = np.mean((scored.value - scored.forecast)[both] ** 2)
    theirs = np.mean((scored.value - scored.baseline)[both] ** 2)
    return float(ours / theirs - 1)


def champion_spans(scored: Matched) -> list[ChampionSpan]:
    """Who made the forecasts of record, from bar to bar."""
    names = scored.model_id.astype(str)
    starts = np.flatnonzero(np.r_[True, names[1:] != names[:-1]])
    ends = np.r_[starts[1:], len(names) - 1]
    return [
        (scored.bar[first], scored.bar[last], str(names[first]))
        for first, last in zip(starts, ends, strict=True)
    ]


def _picture(
    service: Service, bars: pd.DataFrame, scored: Matched, moments: Sequence[Moment]
) -> Picture:
    uri = figures.draw_history(
        (
            pd.DatetimeIndex(bars.index).tz_localize(None).to_numpy(),
            bars["close"].to_numpy(dtype=np.float64),
        ),
        (scored.bar, scored.value, scored.forecast, scored.baseline),
        champion_spans(scored),
        [(_naive(one.at), one.kind) for one in moments],
        unit=UNITS[service.target],
    )
    return Picture(
        "Price, forecasts and outcomes, alarms, who was live",
        uri,
        "Dotted lines are the moments below; the band names who made the forecasts of record.",
    )


def _naive(at: datetime) -> np.datetime64:
    return np.datetime64(at.replace(tzinfo=None))

"""A market whose bars come late, twice, corrected or never, and a slow matcher of its outcomes.

The matcher goes through the bars one by one in plain Python, by the policy in the docstring of
`mlops.monitoring.performance.outcomes`; the tests compare the library with its entries.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd

from mlops.features.dataset import Dataset
from mlops.features.targets import TargetSpec
from mlops.models.base import default_recipe
from mlops.monitoring.performance.outcomes import ServiceBars
from mlops.service import Service, Target, Timeframe
from mlops.store import ForecastRow
from mlops.store.forecasts import Role
from tests.mlops.data.conftest import make_bars

HOUR = timedelta(hours=1)
START = datetime.fromisoformat("2024-01-01T00:00:00+00:00")
RETURNS = Service.of(venue="sample", symbol="BTC/USD", timeframe="1h", target="return", horizon=3)


def forecast_row(service: Service, bar: datetime, **changes: object) -> ForecastRow:
    row = ForecastRow(
        service=service.key,
        bar=bar,
        model_id="champion",
        role=Role.RECORD,
        value=0.001,
        low=None,
        high=None,
        made_at=bar + HOUR,
        generation=1,
        replica_id="r0",
        bars_digest="b" * 64,
    )
    return replace(row, **changes)  # type: ignore[arg-type]


def bars_of_service(frame: pd.DataFrame, service: Service, baseline: str) -> ServiceBars:
    """What a service's bars say, by a market that never closes."""
    target = TargetSpec(service.target, service.horizon)
    dataset = Dataset(frame, timeframe=Timeframe("1h"), target=target)
    return ServiceBars.of(service, dataset, default_recipe(baseline, target))


@dataclass
class Ticker:
    """Hourly bars with what goes wrong with each; ``seen(now)`` is the frame known then."""

    frame: pd.DataFrame
    arrives: list[datetime | None]
    corrections: dict[int, list[tuple[datetime, float]]]

    @classmethod
    def of(cls, n: int, rng: np.random.Generator) -> Ticker:
        """One bar in ten is late, one in twenty never comes, one in ten is corrected, once or
        twice."""
        frame = make_bars(n, seed=int(rng.integers(1_000_000)))
        arrives: list[datetime | None] = []
        corrections: dict[int, list[tuple[datetime, float]]] = {}
        for number in range(n):
            closed = START + (number + 1) * HOUR
            luck = rng.random()
            delay = int(rng.integers(1, 40)) if luck < 0.1 else 0
            arrives.append(None if 0.1 <= luck < 0.15 else closed + delay * HOUR)
            if rng.random() < 0.1:
                corrections[number] = [
                    (closed + int(hours) * HOUR, float(rng.uniform(0.97, 1.03)))
                    for hours in sorted(rng.integers(1, 60, size=int(rng.integers(1, 3))))
                ]
        return cls(frame, arrives, corrections)

    def seen(self, now: datetime) -> pd.DataFrame:
        """The bars that have come, with the corrections made so far."""
        there = np.array([at is not None and at <= now for at in self.arrives])
        values = self.frame.to_numpy(copy=True)
        for number, made in self.corrections.items():
            factor = [factor for at, factor in made if at <= now][-1:]
            if factor:
                values[number, :4] *= factor[0]
                values[number, 1] *= 1.0 + abs(factor[0] - 1.0)
        return pd.DataFrame(values[there], self.frame.index[there], self.frame.columns)


@dataclass
class Entry:
    """The outcome of one bar as the slow matcher noted it."""

    value: float | None = None
    first: float | None = None
    revisions: int = 0
    marked: bool = False


@dataclass
class SlowMatcher:
    """Goes through all bars that were forecast, one at a time."""

    service: Service
    patience: int
    book: dict[datetime, Entry] = field(default_factory=dict)

    def match(self, forecast: set[datetime], frame: pd.DataFrame, now: datetime) -> None:
        """Note the outcomes of the bars as they are now."""
        rows = frame.to_dict("records")
        bars = dict(zip(frame.index.to_pydatetime(), rows, strict=True))
        warm = sorted(bars)[self._warm_up() :]
        for bar in sorted(forecast):
            if not warm or bar < warm[0] or bar >= now:
                continue
            label = self._label(bar, bars, now)
            entry = self.book.get(bar)
            if label is not None:
                self._settle(bar, entry, label)
            elif entry is None:
                closed = int((now - (bar + HOUR)) / HOUR)
                if closed - self.service.horizon >= self.patience:
                    self.book[bar] = Entry(marked=True)

    def _settle(self, bar: datetime, entry: Entry | None, label: float) -> None:
        if entry is None:
            self.book[bar] = Entry(label, label)
        elif entry.value is None:
            entry.value = entry.first = label
        elif not math.isclose(entry.value, label, rel_tol=1e-9, abs_tol=1e-12):
            entry.value = label
            entry.revisions += 1

    def _label(
        self, bar: datetime, bars: Mapping[datetime, Mapping[Any, float]], now: datetime
    ) -> float | None:
        needed = [bar + n * HOUR for n in range(self.service.horizon + 1)]
        if any(opened not in bars for opened in needed) or needed[-1] + HOUR > now:
            return None
        if self.service.target is Target.RETURN:
            return math.log(bars[needed[-1]]["close"] / bars[bar]["close"])
        ranges = [math.log(bars[opened]["high"] / bars[opened]["low"]) for opened in needed[1:]]
        logs = [0.5 * math.log(max(x * x / (4 * math.log(2)), 1e-10)) for x in ranges]
        return sum(logs) / len(logs)

    def _warm_up(self) -> int:
        return self.service.horizon - 1 if self.service.target is Target.VOLATILITY else 0

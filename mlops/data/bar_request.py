"""What is asked of the bar cache: one market's bars of a period, known by a time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import pandas as pd

from mlops.data.sources.base import cut_to_period
from mlops.errors import BarsError
from mlops.service import Timeframe
from mlops.symbols import spell_symbol

# Exchanges count in milliseconds: with a shorter step the bar closed at ``now`` would be lost.
_TICK = pd.Timedelta(1, "ms")


@dataclass(frozen=True, slots=True, kw_only=True)
class BarRequest:
    """A request for bars opened in ``[start, end)`` and closed by ``now``; times are aware.

    Raises:
        ServiceError: when the symbol is none.
    """

    symbol: str
    timeframe: Timeframe
    now: datetime
    start: datetime | None = None
    end: datetime | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "symbol", spell_symbol(self.symbol))
        for name in ("now", "start", "end"):
            moment = getattr(self, name)
            if moment is not None and moment.tzinfo is None:
                raise BarsError(f"{name}={moment} has no zone; pass an aware time, such as UTC")

    @property
    def bound(self) -> pd.Timestamp:
        """End (exclusive) of the opens that are requested and whose bars are complete."""
        closed = pd.Timestamp(self.now) - self.timeframe.step + _TICK
        return closed if self.end is None else min(pd.Timestamp(self.end), closed)

    def cut(self, frame: pd.DataFrame) -> pd.DataFrame:
        return cut_to_period(frame, self.start, self.bound)

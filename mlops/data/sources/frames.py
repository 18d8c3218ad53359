"""Bars that are in memory already, as a source."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

import pandas as pd

from mlops.data.sources.base import cut_to_period
from mlops.service import Timeframe


@dataclass(frozen=True, slots=True)
class FrameSource:
    """A frame of clean bars, and the text that labels them."""

    frame: pd.DataFrame = field(repr=False)
    venue: str
    text: str

    def label(self, symbol: str) -> str:
        return f"{symbol} {self.text}"

    def fetch(
        self,
        symbol: str,
        timeframe: Timeframe,
        *,
        start: datetime | None = None,
        end: datetime | None = None,
    ) -> pd.DataFrame:
        return cut_to_period(self.frame, start, end)

"""Real bars that ship with the project, so that a fresh machine needs no exchange."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from importlib.resources import as_file, files

import pandas as pd

from mlops.data.market import SAMPLE_VENUE
from mlops.data.sources.base import cut_to_period
from mlops.errors import SourceError
from mlops.service import Timeframe


@dataclass(frozen=True, slots=True)
class Sample:
    """One embedded dataset, whose label names its years."""

    file: str
    timeframe: str
    label: str


SAMPLES = {
    "BTC/USD": Sample("btc-usd-1h.parquet", "1h", "BTC/USD sample, 2017-2019"),
    "ETH/USD": Sample("eth-usd-1h.parquet", "1h", "ETH/USD sample, 2017-2019"),
    "EUR/USD": Sample("eur-usd-1h.parquet", "1h", "EUR/USD sample, 2017"),
}


@dataclass(frozen=True, slots=True)
class SampleSource:
    """The embedded samples."""

    venue: str = SAMPLE_VENUE

    def label(self, symbol: str) -> str:
        return _sample(symbol).label

    def fetch(
        self,
        symbol: str,
        timeframe: Timeframe,
        *,
        start: datetime | None = None,
        end: datetime | None = None,
    ) -> pd.DataFrame:
        """Bars opened in ``[start, end)``.

        Raises:
            SourceError: when no sample has this symbol or timeframe.
        """
        sample = _sample(symbol)
        if timeframe.name != sample.timeframe:
            raise SourceError(
                f"the {symbol} sample has bars of {sample.timeframe}, not {timeframe}; "
                f"ask for timeframe {sample.timeframe}"
            )
        with as_file(files("mlops.data.samples") / sample.file) as path:
            return cut_to_period(pd.read_parquet(path), start, end)


def _sample(symbol: str) -> Sample:
    if symbol not in SAMPLES:
        raise SourceError(
            f"no sample has symbol {symbol!r}; the samples are {', '.join(SAMPLES)}; "
            "other symbols come from an exchange or a file"
        )
    return SAMPLES[symbol]

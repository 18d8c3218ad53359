"""Real series that the project does not ship, from the folder that MLOPS_SERIES names."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

VARIABLE = "MLOPS_SERIES"
NOT_RUN = f"not run: {VARIABLE} is empty"


@dataclass(frozen=True, slots=True)
class ExtraSeries:
    """A Parquet file of bars, named by symbol and timeframe, such as btc-eur-1h.parquet."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def timeframe(self) -> str:
        return self.name.rpartition("-")[2]

    @property
    def symbol(self) -> str:
        """BTC/EUR; a name without a quote, such as spy, is quoted in USD."""
        base, _, quote = self.name.rpartition("-")[0].upper().partition("-")
        return f"{base}/{quote or 'USD'}"


def list_extra_series() -> list[ExtraSeries]:
    """The series in the folder, by name; none where the variable is not set."""
    folder = os.environ.get(VARIABLE)
    if not folder:
        return []
    return [ExtraSeries(path) for path in sorted(Path(folder).glob("*-*.parquet"))]

"""Every trial's walk-forward forecasts, kept on disk so that no search is forgotten.

One directory for each service, one Parquet file for each trial, written whole or not at all. A
gate that reads them sees every recipe that was ever tried on the same bars, also by earlier
searches.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

KNOWN_SHARE = 0.95
"""Share of the bars asked for that a trial must have forecast to count as tried on them."""

Floats = NDArray[np.float64]
Times = NDArray[np.datetime64]


@dataclass(frozen=True, slots=True)
class TrialArchive:
    """The kept forecasts of one service's studies."""

    directory: Path

    def keep(self, study: str, name: str, made_at: Times, forecasts: Floats) -> Path:
        """Keep one trial's finite forecasts; ``made_at`` and ``forecasts`` are (N,)."""
        target = self.directory / study / f"{name}.parquet"
        target.parent.mkdir(parents=True, exist_ok=True)
        kept = np.isfinite(forecasts)
        part = target.with_suffix(f".{os.getpid()}.part")
        pd.DataFrame({"made_at": made_at[kept], "forecast": forecasts[kept]}).to_parquet(part)
        part.replace(target)
        return target

    def count(self, study: str) -> int:
        """How many trials of a study are kept."""
        return len(list((self.directory / study).glob("*.parquet")))

    def recall(self, study: str, name: str, made_at: Times) -> Floats | None:
        """A kept trial's forecasts at ``made_at`` (N,), NaN where it made none; None if unknown."""
        path = self.directory / study / f"{name}.parquet"
        return _series(path, made_at) if path.exists() else None

    def earlier(self, study: str, made_at: Times) -> Mapping[str, Floats]:
        """Other studies' trials that forecast nearly all of ``made_at`` (n,), by study and name.

        A trial with a longer window lacks a few forecasts after each hole; they are NaN.
        """
        found: dict[str, Floats] = {}
        for path in sorted(self.directory.glob("*/*.parquet")):
            if path.parent.name == study:
                continue
            series = _series(path, made_at)
            if np.isfinite(series).mean() >= KNOWN_SHARE:
                found[f"{path.parent.name}/{path.stem}"] = series
        return found


def _series(path: Path, made_at: Times) -> Floats:
    kept = pd.read_parquet(path).set_index("made_at")["forecast"]
    return kept.reindex(pd.DatetimeIndex(made_at)).to_numpy(dtype=np.float64)

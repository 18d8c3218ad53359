"""Keeps the walk-forward forecasts of every trial on disk, so that later judgements count them.

A service has one directory, a trial one Parquet file that is written whole or not at all. Gate G2
thus sees every recipe that was ever tried on the same bars, also those of earlier searches.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from mlops.arrays import FloatArray, TimeArray

KNOWN_SHARE = 0.95
"""Least share of the requested bars that a trial must have forecast to count as tried on them."""


def studies_folder(home: Path, service: str) -> Path:
    """Where the studies of a service lie under the base path; ``service`` is its key."""
    return home / "studies" / service


@dataclass(frozen=True, slots=True)
class TrialArchive:
    """The kept forecasts of one service's studies."""

    directory: Path

    def keep(self, study: str, name: str, made_at: TimeArray, forecasts: FloatArray) -> Path:
        """Write one trial's finite forecasts; ``made_at`` and ``forecasts`` are (N,)."""
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

    def recall(self, study: str, name: str, made_at: TimeArray) -> FloatArray | None:
        """Forecasts (N,) of a kept trial, NaN where it made none; None where no trial is kept."""
        path = self.directory / study / f"{name}.parquet"
        return _read_forecasts(path, made_at) if path.exists() else None

    def earlier(self, study: str, made_at: TimeArray) -> Mapping[str, FloatArray]:
        """Forecasts (n,) of other studies' trials that forecast nearly all of ``made_at``.

        The keys are ``study/trial``. A trial with a longer window made no forecast on a few rows
        after each hole; they are NaN.
        """
        trials: dict[str, FloatArray] = {}
        for path in sorted(self.directory.glob("*/*.parquet")):
            if path.parent.name == study:
                continue
            forecasts = _read_forecasts(path, made_at)
            if np.isfinite(forecasts).mean() >= KNOWN_SHARE:
                trials[f"{path.parent.name}/{path.stem}"] = forecasts
        return trials


def _read_forecasts(path: Path, made_at: TimeArray) -> FloatArray:
    kept = pd.read_parquet(path).set_index("made_at")["forecast"]
    return kept.reindex(pd.DatetimeIndex(made_at)).to_numpy(dtype=np.float64)

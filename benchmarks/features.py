"""Feature speed and the memory of a dataset of a million bars."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.figure import Figure, best_seconds
from mlops.features.bar_arrays import BarArrays
from mlops.features.dataset import Dataset, windows
from mlops.features.spec import FeatureSpec, compute_features
from mlops.features.targets import TargetSpec
from mlops.service import Target, Timeframe

BARS = 1_000_000
SEQUENCE_LENGTH = 100
MEBIBYTE = 1024.0


def random_bars(n: int) -> pd.DataFrame:
    """Random-walk bars; the speed does not depend on their values."""
    rng = np.random.default_rng(0)
    close = 1e4 * np.exp(np.cumsum(rng.normal(0, 0.005, n)))
    opened = np.concatenate([[1e4], close[:-1]])
    reach = 1 + np.abs(rng.normal(0, 0.003, (2, n)))
    columns = {
        "open": opened,
        "high": np.maximum(opened, close) * reach[0],
        "low": np.minimum(opened, close) / reach[1],
        "close": close,
        "volume": rng.lognormal(4, 1, n),
    }
    index = pd.date_range("2000-01-01", periods=n, freq="1min", tz="UTC", name="open_time")
    return pd.DataFrame(columns, index=index)


def pandas_features(frame: pd.DataFrame) -> pd.DataFrame:
    """The same seven features as a pandas user writes them."""
    close, change = frame["close"], frame["close"].diff()
    rise = change.clip(lower=0).ewm(alpha=1 / 14, adjust=False).mean()
    fall = (-change.clip(upper=0)).ewm(alpha=1 / 14, adjust=False).mean()
    fast = close.ewm(span=12, adjust=False).mean()
    slow = close.ewm(span=26, adjust=False).mean()
    return pd.DataFrame(
        {
            "open": np.log(frame["open"] / close.shift()),
            "high": np.log(frame["high"] / close),
            "low": np.log(frame["low"] / close),
            "close": np.log(close).diff(),
            "volume": np.log(frame["volume"] / frame["volume"].rolling(24).mean()),
            "rsi": 100 - 100 / (1 + rise / fall),
            "macd": (fast - slow) / close,
        },
        dtype="float32",
    )


def feature_speed(n: int = BARS) -> Figure:
    frame = random_bars(n)
    bars, spec = BarArrays.of(frame), FeatureSpec()
    ours = n / best_seconds(lambda: compute_features(BarArrays.of(frame, bars.hole_before), spec))
    peer = n / best_seconds(lambda: pandas_features(frame))
    return Figure(
        "default features, one core",
        f"{ours / 1e6:.2f} M bars/s",
        ">= 2 M bars/s",
        ours >= 2e6,
        f"{ours / peer:.1f} times pandas ({peer / 1e6:.2f} M bars/s)",
    )


def dataset_memory(n: int = BARS) -> Figure:
    """Peak growth of a fresh process that builds the dataset and cuts a batch."""
    grown, spent, copied = map(
        float,
        subprocess.run(
            [sys.executable, "-m", "benchmarks.features", str(n)],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.split(),
    )
    return Figure(
        f"dataset of {n:,} bars x 7 features x windows of {SEQUENCE_LENGTH}",
        f"peak {grown:.0f} MiB, {spent:.1f} s",
        "< 400 MB, in seconds",
        grown * 1.048576 < 400,
        f"the windows copied would take {copied:,.0f} MiB",
    )


def _resident_mebibytes(field: str) -> float:
    """VmRSS (now) or VmHWM (the peak) of this process."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith(field))
    return int(line.split()[1]) / MEBIBYTE


def _forget_peak() -> None:
    # Linux: 5 resets VmHWM to the current size, so making the bars does not count.
    Path("/proc/self/clear_refs").write_text("5")


def measure_dataset(n: int) -> None:
    """Print the growth of the peak (MiB), CPU seconds and the size of copied windows (MiB)."""
    frame = random_bars(n)
    _forget_peak()
    before = _resident_mebibytes("VmRSS")
    kept: list[object] = []

    def build() -> None:
        dataset = Dataset(
            frame, timeframe=Timeframe("1m"), target=TargetSpec(Target.VOLATILITY, 24)
        )
        spec = FeatureSpec()
        rows = dataset.labelled(spec, SEQUENCE_LENGTH)
        view = windows(dataset.matrix(spec), rows, SEQUENCE_LENGTH)
        kept.extend([dataset, view, rows, dataset.labels])

    spent = best_seconds(build, runs=1)
    grown = _resident_mebibytes("VmHWM") - before
    copied = n * SEQUENCE_LENGTH * len(FeatureSpec()) * 4 / MEBIBYTE**2
    print(grown, spent, copied)


def figures(*, quick: bool = False) -> list[Figure]:
    n = BARS // 10 if quick else BARS
    return [feature_speed(n), dataset_memory(n)]


if __name__ == "__main__":
    measure_dataset(int(sys.argv[1]))

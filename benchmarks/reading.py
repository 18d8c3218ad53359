"""Reading five million bars of a file, all checks included, beside pyarrow's bare reading.

Both read the same file in turns, after one run of each that is not counted. The memory is the peak
of a process of its own, less what it held before, in times of the table's size.
"""

from __future__ import annotations

import gzip
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from benchmarks.features import random_bars
from benchmarks.figure import Figure
from mlops.data.bars import COLUMNS
from mlops.data.load import load_bars
from mlops.data.sources.files import FileSource

BARS, QUICK_BARS = 5_000_000, 200_000
RUNS = 5
TIMES, SIZES = 1.5, 4.0
"""What reading may cost, in times of pyarrow's time and in sizes of the table."""

BYTES_PER_BAR = 8 * (1 + len(COLUMNS))
FORMS = {
    "CSV, ISO times": "iso.csv",
    "CSV, Unix ms": "unix.csv",
    "gzip of the CSV, ISO times": "iso.csv.gz",
    "Parquet": "bars.parquet",
}


@dataclass(frozen=True, slots=True)
class Cost:
    """Median seconds of reading a file, and the growth of memory in sizes of its table."""

    ours_s: float
    pyarrow_s: float
    sizes: float

    @property
    def ratio(self) -> float:
        return self.ours_s / self.pyarrow_s

    @property
    def holds(self) -> bool:
        return self.ratio <= TIMES and self.sizes <= SIZES


def write_files(folder: Path, bars: int) -> None:
    """The same bars in each form, prices to the cent as a venue gives them."""
    frame = random_bars(bars).round({**dict.fromkeys(COLUMNS[:4], 2), "volume": 4})
    # From long enough ago that the last bar is closed.
    stamps = np.datetime64("2015-01-01", "ms") + np.arange(bars) * np.timedelta64(60, "s")
    columns = [pa.array(frame[name].to_numpy()) for name in COLUMNS]
    forms = {
        "iso.csv": pa.array(stamps.astype("datetime64[s]"), pa.timestamp("s", tz="UTC")),
        "unix.csv": pa.array(stamps.astype("int64")),
        "bars.parquet": pa.array(stamps.astype("datetime64[ns]"), pa.timestamp("ns", tz="UTC")),
    }
    for name, opened in forms.items():
        table = pa.table([opened, *columns], names=["open_time", *COLUMNS])
        (pq.write_table if name.endswith("parquet") else pacsv.write_csv)(table, folder / name)
    with (
        (folder / "iso.csv").open("rb") as plain,
        gzip.open(folder / "iso.csv.gz", "wb", 6) as file,
    ):
        shutil.copyfileobj(plain, file, 1 << 20)


def read_ours(path: Path) -> pd.DataFrame:
    source = FileSource(path=path)
    bars = load_bars(source=source, symbol="BTC/USD", timeframe="1m", cache_root=path.parent)
    return bars.frame


def read_peer(path: Path) -> pa.Table:
    return pq.read_table(path) if path.suffix == ".parquet" else pacsv.read_csv(path)


def _seconds(read: Callable[[Path], object], path: Path) -> float:
    began = time.perf_counter()
    read(path)
    return time.perf_counter() - began


def measure(path: Path, bars: int, *, runs: int = RUNS) -> Cost:
    """Read a file in turns, and once more in a process of its own."""
    turns = [(_seconds(read_peer, path), _seconds(read_ours, path)) for _ in range(runs + 1)][1:]
    grown = subprocess.run(
        [sys.executable, "-m", "benchmarks.reading", str(path)],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    return Cost(
        ours_s=statistics.median(ours for _, ours in turns),
        pyarrow_s=statistics.median(peer for peer, _ in turns),
        sizes=int(grown) / (bars * BYTES_PER_BAR),
    )


def judge(form: str, bars: int, cost: Cost) -> Figure:
    return Figure(
        f"{form}, {bars:,} bars, read and checked",
        f"{cost.ours_s:.2f} s, {cost.ratio:.2f} times pyarrow; memory {cost.sizes:.1f} times",
        f"<= {TIMES} times pyarrow; memory <= {SIZES:.0f} times the table",
        cost.holds,
        f"pyarrow {pa.__version__} alone: {cost.pyarrow_s:.2f} s",
    )


def figures(*, quick: bool = False) -> list[Figure]:
    bars = QUICK_BARS if quick else BARS
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder), bars)
        return [
            judge(form, bars, measure(Path(folder) / name, bars)) for form, name in FORMS.items()
        ]


def _peak_bytes() -> int:
    """The peak of this process (VmHWM), which unlike ru_maxrss is not that of its parent."""
    status = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in status if line.startswith("VmHWM")).split()[1]) * 1024


def measure_memory(path: Path) -> int:
    """Growth of the peak of this process over reading a file, in bytes."""
    before = _peak_bytes()
    read_ours(path)
    return _peak_bytes() - before


if __name__ == "__main__":
    print(measure_memory(Path(sys.argv[1])))

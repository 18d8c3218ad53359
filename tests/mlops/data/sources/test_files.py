"""CSV and Parquet files are read explicitly or refused with their rows."""

import pandas as pd
import pytest

from mlops.data.sources.files import FileSource
from mlops.errors import BarsError, DataError, SourceError
from mlops.service import Timeframe
from tests.mlops.data.conftest import make_bars

HOUR = Timeframe("1h")


@pytest.fixture
def written(tmp_path):
    """Write text as a CSV; returns its path."""

    def write(text: str, name: str = "bars.csv"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def fetch(path, **options) -> pd.DataFrame:
    return FileSource(path=path, **options).fetch("BTC/USD", HOUR)


def test_a_csv_of_our_own_comes_back(tmp_path):
    frame = make_bars(30)
    frame.to_csv(tmp_path / "bars.csv")

    pd.testing.assert_frame_equal(fetch(tmp_path / "bars.csv"), frame, check_freq=False)


@pytest.mark.parametrize("as_index", [True, False])
def test_a_parquet_file_comes_back(tmp_path, as_index):
    frame = make_bars(30)
    (frame if as_index else frame.reset_index()).to_parquet(tmp_path / "bars.parquet")

    pd.testing.assert_frame_equal(fetch(tmp_path / "bars.parquet"), frame, check_freq=False)


def test_a_compressed_day_first_file_with_semicolons_is_read(tmp_path):
    frame = make_bars(30).round(4)
    raw = frame.set_axis(frame.index.strftime("%d.%m.%Y %H:%M:%S.000")).rename_axis("Time")
    raw.rename(columns=str.title).to_csv(tmp_path / "bars.csv.gz", sep=";")

    read = fetch(tmp_path / "bars.csv.gz", separator=";", timezone="UTC", dayfirst=True)
    pd.testing.assert_frame_equal(read, frame, check_freq=False)


def test_a_vendor_file_with_a_banner_own_names_and_two_times_is_read(written):
    path = written(
        "https://vendor.example\n"
        "unix,date,Open,High,Low,Close,Volume BTC,Volume USD\n"
        "1704153600000,2024-01-02 12-AM,1,3,0.5,2,10,20\n"
        "1704157200,2024-01-02 01-AM,2,4,1,3,11,33\n"
    )

    read = fetch(path, skip_rows=1, timezone="UTC", columns={"Volume BTC": "volume"})
    assert list(read["volume"]) == [10, 11]
    assert list(read.index.strftime("%H")) == ["00", "01"]


def test_local_time_without_a_zone_is_refused(written):
    path = written("time,open,high,low,close,volume\n2024-07-01 09:00,1,1,1,1,1\n")

    with pytest.raises(BarsError, match="pass timezone"):
        fetch(path)
    assert fetch(path, timezone="America/New_York").index[0].hour == 13


def test_closes_become_opens(written):
    path = written("time,open,high,low,close,volume\n2024-07-01T09:00Z,1,1,1,1,1\n")

    assert fetch(path, stamps="close").index[0].hour == 8


HEADER = "time,open,high,low,close,volume\n"


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("", BarsError, "bars.csv is empty"),
        (HEADER, BarsError, "no rows"),
        ("time,open,high,low,close\n2024-07-01T09:00Z,1,1,1,1\n", BarsError, "'volume' is missing"),
        (HEADER + "2024-07-01T09:00Z,1,1,1,1,1,7,8\n", BarsError, "not a regular table"),
        (HEADER + "03/04/2024 9:00Z,1,1,1,1,1\n", BarsError, "in row 0 .*dayfirst=True"),
        (HEADER + "soon,1,1,1,1,1\n", BarsError, "'soon' is no date in row 0"),
    ],
)
def test_a_bad_csv_is_refused(written, text, error, message):
    with pytest.raises(error, match=message):
        fetch(written(text))


def test_a_file_that_is_not_text_is_refused(tmp_path):
    (tmp_path / "bars.csv").write_bytes(b"\xff\xfe\x00time")

    with pytest.raises(DataError, match=r"bars\.csv"):
        fetch(tmp_path / "bars.csv")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(SourceError, match="no file"):
        fetch(tmp_path / "none.csv")


def test_columns_of_a_parquet_file_are_renamed_or_refused_as_those_of_a_csv(tmp_path):
    table = pd.DataFrame(
        {"Day": pd.date_range("2024-07-01", periods=2, tz="UTC"), "Qty": [3.0, 4.0]}
        | {name: [1.0, 1.0] for name in ("open", "high", "low", "close")}
    )
    path = tmp_path / "bars.parquet"
    for frame in (table, table.set_index("Day")):
        frame.to_parquet(path)
        with pytest.raises(BarsError, match=r"pass columns=\{'qty': 'volume'\}"):
            fetch(path)
        with pytest.raises(BarsError, match="columns= renames 'Amount', which is no column"):
            fetch(path, columns={"Amount": "volume"})
        for names in ({"qty": "volume", "Day": "time"}, {"Qty": "volume", "day": "time"}):
            read = fetch(path, columns=names)
            assert read["volume"].tolist() == [3, 4]
            assert read.index.tolist() == table["Day"].tolist()

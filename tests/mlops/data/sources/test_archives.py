"""A file is what its content says; what is damaged, foreign or several files is refused by name."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from mlops.data.sources.files import FileSource
from mlops.errors import BarsError, DataError, SourceError
from mlops.service import Timeframe
from tests.mlops.data.conftest import make_bars

BARS = make_bars(2_000).round(4)
TEXT = BARS.to_csv().encode()


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def write_stream() -> bytes:
    sink = pa.BufferOutputStream()
    table = pa.Table.from_pandas(BARS)
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    content: bytes = sink.getvalue().to_pybytes()
    return content


PACKINGS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": lambda content: pa.compress(content, codec="zstd", asbytes=True),
    "zip": lambda content: zipped({"bars.csv": content}),
}


def fetch(path: Path, content: bytes, **options: Any) -> pd.DataFrame:
    path.write_bytes(content)
    return FileSource(path=path, **options).fetch("BTC/USD", Timeframe("1h"))


@pytest.mark.parametrize("name", ["bars.csv", "bars"])
@pytest.mark.parametrize("packing", PACKINGS)
def test_a_packed_table_is_read_whatever_its_name(tmp_path: Path, packing: str, name: str) -> None:
    read = fetch(tmp_path / name, PACKINGS[packing](TEXT))
    pd.testing.assert_frame_equal(read, BARS, check_freq=False)


@pytest.mark.parametrize("packing", ["gz", "bz2", "xz"])
def test_members_that_follow_each_other_are_one_file(tmp_path: Path, packing: str) -> None:
    half = TEXT.index(b"\n", len(TEXT) // 2) + 1
    content = PACKINGS[packing](TEXT[:half]) + PACKINGS[packing](TEXT[half:])
    assert len(fetch(tmp_path / "bars.csv", content)) == len(BARS)


@pytest.mark.parametrize("zeros", [1, 512])
def test_zeros_behind_a_gzip_archive_are_padding(tmp_path: Path, zeros: int) -> None:
    assert len(fetch(tmp_path / "bars.csv", gzip.compress(TEXT) + bytes(zeros))) == len(BARS)


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
@pytest.mark.parametrize("packing", ["none", "gz", "zip"])
def test_a_binary_table_is_read_under_any_name(tmp_path: Path, kind: str, packing: str) -> None:
    buffer = io.BytesIO()
    if kind == "parquet":
        BARS.to_parquet(buffer)
    else:
        BARS.reset_index().to_feather(buffer)
    pack = PACKINGS.get(packing, bytes)
    read = fetch(tmp_path / "bars.csv", pack(buffer.getvalue()))
    pd.testing.assert_frame_equal(read, BARS, check_freq=False)


def flip_inside(content: bytes) -> bytes:
    """Another byte two thirds into the file; zstd of this form has no check of single bytes."""
    at = len(content) * 2 // 3
    return content[:at] + bytes([content[at] ^ 0x55]) + content[at + 1 :]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut in half": lambda content: content[: len(content) // 2],
    "cut after its head": lambda content: content[:8],
    "without its last bytes": lambda content: content[:-5],
    "a byte flipped": flip_inside,
    "garbage behind it": lambda content: content + b"garbage!" * 4,
    "empty": lambda content: b"",
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("packing", PACKINGS)
def test_a_damaged_archive_is_refused_by_name(tmp_path: Path, packing: str, damage: str) -> None:
    with pytest.raises(DataError, match=r"bars\.csv"):
        fetch(tmp_path / "bars.csv", DAMAGES[damage](PACKINGS[packing](TEXT)))


def test_a_wrong_checksum_is_refused(tmp_path: Path) -> None:
    content = bytearray(gzip.compress(TEXT))
    content[-7] ^= 1
    with pytest.raises(SourceError, match=r"bars\.csv\.gz is a damaged .* gzip archive"):
        fetch(tmp_path / "bars.csv.gz", bytes(content))


@pytest.mark.parametrize("damage", ["cut in half", "without its last bytes"])
def test_a_damaged_parquet_file_is_refused_by_name(tmp_path: Path, damage: str) -> None:
    buffer = io.BytesIO()
    BARS.to_parquet(buffer)
    with pytest.raises(SourceError, match=r"bars\.parquet is not a readable Parquet file"):
        fetch(tmp_path / "bars.parquet", DAMAGES[damage](buffer.getvalue()))


def test_an_archive_of_several_files_asks_for_a_member(tmp_path: Path) -> None:
    content = zipped({"2023.csv": b"not this", "data/2024.csv": TEXT})
    with pytest.raises(SourceError, match=r"holds 2 files: '2023.csv', .* member='2023.csv'"):
        fetch(tmp_path / "bars.zip", content)
    with pytest.raises(SourceError, match=r"no file of the name member='2024.csv'"):
        fetch(tmp_path / "bars.zip", content, member="2024.csv")
    assert len(fetch(tmp_path / "bars.zip", content, member="data/2024.csv")) == len(BARS)


def test_what_a_file_manager_adds_is_no_member(tmp_path: Path) -> None:
    extra = {"__MACOSX/._bars.csv": b"\x00", ".DS_Store": b"\x00", "a/": b"", "a/Thumbs.db": b""}
    assert len(fetch(tmp_path / "bars.zip", zipped({**extra, "a/bars.csv": TEXT}))) == len(BARS)
    with pytest.raises(SourceError, match="without a file"):
        fetch(tmp_path / "bars.zip", zipped(extra))


def test_a_member_of_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"leave out member='a\.csv'"):
        fetch(tmp_path / "bars.csv.gz", gzip.compress(TEXT), member="a.csv")


def test_an_encrypted_or_huge_member_is_refused(tmp_path: Path) -> None:
    content = bytearray(zipped({"bars.csv": TEXT}))
    central = content.rindex(b"PK\x01\x02")
    huge = bytearray(content)
    content[central + 8] |= 1
    with pytest.raises(SourceError, match=r"bars\.zip \(bars\.csv\) is encrypted"):
        fetch(tmp_path / "bars.zip", bytes(content))
    # The size of 64 bits lies in an extra field, behind the name.
    extra = b"\x01\x00\x08\x00" + (20 << 30).to_bytes(8, "little")
    huge[central + 24 : central + 28] = b"\xff" * 4
    huge[central + 30 : central + 32] = len(extra).to_bytes(2, "little")
    place = central + 46 + len("bars.csv")
    huge[place:place] = extra
    end = huge.rindex(b"PK\x05\x06")
    size = int.from_bytes(huge[end + 12 : end + 16], "little") + len(extra)
    huge[end + 12 : end + 16] = size.to_bytes(4, "little")
    with pytest.raises(SourceError, match="21,474,836,480 bytes when unpacked"):
        fetch(tmp_path / "bars.zip", bytes(huge))


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (b"<!DOCTYPE html><html>no</html>", SourceError, "an HTML page"),
        (b'\xef\xbb\xbf\n<?xml version="1.0"?><Error/>', SourceError, "XML"),
        (b'{"error": "rate limit"}', SourceError, "JSON"),
        (b"\xd0\xcf\x11\xe0rest", SourceError, "an Excel workbook"),
        (zipped({"[Content_Types].xml": b"", "xl/workbook.xml": b""}), SourceError, "an Excel"),
        (b"version https://git-lfs.github.com/spec/v1\n", SourceError, "git lfs pull"),
        (b"\x00" * 257 + b"ustar", SourceError, "a tar archive"),
        (gzip.compress(gzip.compress(TEXT)), SourceError, "packed twice"),
        (b"open\x00time", SourceError, "neither text nor Parquet"),
        (TEXT.decode().encode("utf-32"), SourceError, "UTF-32"),
        (TEXT.decode().encode("utf-16-le"), SourceError, "UTF-16 without a byte order mark"),
        (TEXT.decode().encode("utf-16-be"), SourceError, "UTF-16 without a byte order mark"),
        (write_stream(), SourceError, "a stream of Arrow"),
        (b"", BarsError, "is empty"),
        (gzip.compress(b""), BarsError, "is empty"),
    ],
    ids=range(15),
)
def test_what_is_no_table_is_refused_as_what_it_is(
    tmp_path: Path, content: bytes, error: type[DataError], message: str
) -> None:
    with pytest.raises(error, match=rf"bars\.csv.*{message}"):
        fetch(tmp_path / "bars.csv", content)

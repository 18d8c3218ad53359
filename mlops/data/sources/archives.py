"""What a file of bars is, by its content and not by its name: text or Arrow, packed or not."""

from __future__ import annotations

import gzip
import io
import lzma
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from mlops.errors import BarsError, SourceError

HEAD_BYTES = 1 << 16
LARGEST_MEMBER = 16 << 30
"""Bytes that a member of an archive may have when unpacked; more is an error or an attack."""

_READ_BYTES = 1 << 20
_ZIP_END = b"PK\x05\x06"
_ZIP_END_BYTES = 22
_PACKINGS = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bz2",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\xfd7zXZ\x00": "xz",
}
_FORMS = {b"PAR1": "parquet", b"PARE": "parquet", b"ARROW1": "arrow", b"FEA1": "arrow"}
_OTHERS = {
    b"\xd0\xcf\x11\xe0": "an Excel workbook; save it as CSV",
    b"%PDF": "a PDF; export the table as CSV",
    b"7z\xbc\xaf": "a 7z archive; unpack it",
    b"Rar!": "a RAR archive; unpack it",
    b"\x04\x22\x4d\x18": "an LZ4 archive; unpack it",
    b"\x89HDF": "an HDF5 file; write it as CSV or Parquet",
    b"SQLite format 3": "an SQLite database; export the table as CSV",
    b"\x80\x04": "a pickle, which is not read; write it as CSV or Parquet",
    b"\x80\x05": "a pickle, which is not read; write it as CSV or Parquet",
    b"version https://git-lfs": "a pointer of Git LFS, not the file; fetch it with git lfs pull",
    b"\xff\xff\xff\xff": "a stream of Arrow; write it as an Arrow file or as Parquet",
    b"\xff\xfe\x00\x00": "text in UTF-32; save it as UTF-8",
    b"\x00\x00\xfe\xff": "text in UTF-32; save it as UTF-8",
}
_PAGES = {
    b"<!doctype": "an HTML page; the download failed or needs a login, download it again",
    b"<html": "an HTML page; the download failed or needs a login, download it again",
    b"<?xml": "XML, perhaps an error message of the server; download it again, as CSV",
    b"{": "JSON; write it as CSV or Parquet",
    b"[": "JSON; write it as CSV or Parquet",
}
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_DAMAGES = (
    OSError, EOFError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error,
    lzma.LZMAError, struct.error,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Content:
    """The table in a file, unpacked.

    Args:
        name: What messages call it.
        form: ``text``, ``parquet`` or ``arrow``.
        packing: How it was packed; empty where it was not.
        head: Its first `HEAD_BYTES`.
        open: Opens it at its first byte.
    """

    name: str
    form: str
    packing: str
    head: bytes = field(repr=False)
    open: Callable[[], Any] = field(repr=False)

    @contextmanager
    def reading(self) -> Iterator[Any]:
        """The opened content; what its packing finds damaged is a `SourceError`."""
        with _naming_damage(self.name, self.packing), self.open() as stream:
            yield stream


def open_content(path: Path, member: str | None = None) -> Content:
    """Recognise what a file holds.

    Args:
        member: The file to read, where the path is an archive of several.

    Raises:
        SourceError: when the file is missing, damaged, or no table.
        BarsError: when it is empty.
    """
    if not path.is_file():
        raise SourceError(f"no file {path}; check the path")
    with _naming_damage(path.name, ""), path.open("rb") as file:
        start = file.read(HEAD_BYTES)
    if start.startswith(b"PK"):
        return _open_member(path, member)
    if member is not None:
        raise SourceError(
            f"{path.name} is no archive of several files; leave out member={member!r}"
        )
    packing = next((name for magic, name in _PACKINGS.items() if start.startswith(magic)), "")
    return _recognise(path.name, packing, lambda: _open_packed(path, packing))


def _open_packed(path: Path, packing: str) -> Any:
    if packing == "xz":
        return _XzReader(path.open("rb"))
    if packing == "gzip" and _ends_with_zero(path):
        # Arrow takes zeros after the end for damage, gzip for padding.
        return gzip.open(path)
    file = pa.OSFile(str(path))
    return pa.CompressedInputStream(file, packing) if packing else file


def _ends_with_zero(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, io.SEEK_END)
        return file.read() == b"\x00"


def _recognise(name: str, packing: str, opener: Callable[[], Any]) -> Content:
    with _naming_damage(name, packing), opener() as stream:
        head = _read_up_to(stream, HEAD_BYTES)
    if not head:
        raise BarsError(f"{name} is empty; check the file")
    _refuse_other_kinds(name, head)
    form = next((form for magic, form in _FORMS.items() if head.startswith(magic)), "text")
    if form == "text" and b"\x00" in head and not head.startswith(_UTF16):
        if _may_be_utf16(head):
            raise SourceError(
                f"{name} is text in UTF-16 without a byte order mark; save it as UTF-8"
            )
        raise SourceError(
            f"{name} is neither text nor Parquet (a zero at byte {head.index(0):,}); "
            "use .csv, .csv.gz or .parquet"
        )
    return Content(name, form, packing, head, opener)


def _may_be_utf16(head: bytes) -> bool:
    """Whether every second byte is a zero in most of the text, as of Latin letters and digits."""
    some = head[:200]
    return any(
        half.count(0) > 0.9 * len(half) and not other.count(0)
        for half, other in ((some[::2], some[1::2]), (some[1::2], some[::2]))
    )


def _refuse_other_kinds(name: str, head: bytes) -> None:
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:16].lower()
    kind = next((kind for magic, kind in _OTHERS.items() if head.startswith(magic)), None)
    kind = kind or next((kind for magic, kind in _PAGES.items() if text.startswith(magic)), None)
    if head[257:262] == b"ustar":
        kind = "a tar archive; unpack it"
    if kind is None and (head.startswith((*_PACKINGS, b"PK\x03\x04"))):
        kind = "packed twice; unpack it once"
    if kind is not None:
        raise SourceError(f"{name} is {kind}")


def _read_up_to(stream: Any, count: int) -> bytes:
    """Up to ``count`` bytes; fewer only at the end."""
    parts: list[bytes] = []
    while count and (part := stream.read(count)):
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


@contextmanager
def _naming_damage(name: str, packing: str) -> Iterator[None]:
    """Say which file could not be read, and of what kind its packing is."""
    try:
        yield
    except _DAMAGES as error:
        what = str(error) or type(error).__name__
        if not packing:
            raise SourceError(f"{name} cannot be read: {what}") from error
        raise SourceError(
            f"{name} is a damaged or unfinished {packing} archive: {what}; fetch the file again"
        ) from error


def _open_member(path: Path, member: str | None) -> Content:
    """The table of a zip archive: its only file, or the one that is named."""
    with _naming_damage(path.name, "zip"):
        _refuse_bytes_after_end(path)
        with zipfile.ZipFile(path) as archive:
            chosen = _choose_member(path.name, archive.infolist(), member)
    name = f"{path.name} ({chosen.filename})"
    if chosen.flag_bits & 1:
        raise SourceError(f"{name} is encrypted; unpack it with its password")
    if chosen.file_size > LARGEST_MEMBER:
        raise SourceError(
            f"{name} has {chosen.file_size:,} bytes when unpacked, at most {LARGEST_MEMBER:,} "
            "are read; check the archive"
        )
    return _recognise(name, "zip", lambda: _ZipReader(path, chosen.filename))


def _refuse_bytes_after_end(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        end = path.stat().st_size - _ZIP_END_BYTES - len(archive.comment)
    with path.open("rb") as file:
        file.seek(max(end, 0))
        if file.read(len(_ZIP_END)) != _ZIP_END:
            raise zipfile.BadZipFile("bytes that belong to no member lie after its end")


def _choose_member(
    name: str, members: list[zipfile.ZipInfo], wanted: str | None
) -> zipfile.ZipInfo:
    names = {info.filename for info in members}
    if "[Content_Types].xml" in names and any(entry.startswith("xl/") for entry in names):
        raise SourceError(f"{name} is an Excel workbook; save it as CSV")
    files = [info for info in members if _is_shown(info)]
    listed = ", ".join(repr(info.filename) for info in files[:10])
    listed += f" and {len(files) - 10:,} more" if len(files) > 10 else ""
    if not files:
        raise SourceError(f"{name} is an archive without a file; check what was packed")
    if wanted is None and len(files) > 1:
        raise SourceError(
            f"{name} holds {len(files):,} files: {listed}; say which with "
            f"member={files[0].filename!r}"
        )
    chosen = [info for info in files if wanted in (None, info.filename)]
    if len(chosen) != 1:
        count = "no file" if not chosen else f"{len(chosen)} files"
        raise SourceError(f"{name} holds {count} of the name member={wanted!r}, but {listed}")
    return chosen[0]


def _is_shown(info: zipfile.ZipInfo) -> bool:
    """Whether a member is a file of the user's, and none that a file manager added."""
    parts = info.filename.split("/")
    return not (
        info.is_dir()
        or parts[0] == "__MACOSX"
        or parts[-1].startswith(".")
        or parts[-1].lower() in ("thumbs.db", "desktop.ini")
    )


class _ZipReader(io.BufferedReader):
    """A member of a zip archive, which closes the archive with itself."""

    def __init__(self, path: Path, member: str) -> None:
        self._archive = zipfile.ZipFile(path)
        super().__init__(self._archive.open(member), _READ_BYTES)  # type: ignore[arg-type]

    def close(self) -> None:
        super().close()
        self._archive.close()


class _XzReader(io.RawIOBase):
    """The content of xz streams that follow each other; `lzma.open` passes over what is none."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._decompressor = lzma.LZMADecompressor(lzma.FORMAT_XZ)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._read_some(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _read_some(self, most: int) -> bytes:
        """Some bytes; none only at the end of the last stream."""
        while True:
            if self._decompressor.eof and not self._begin_next_stream():
                return b""
            more = self._file.read(_READ_BYTES) if self._decompressor.needs_input else b""
            if self._decompressor.needs_input and not more:
                raise EOFError("it ends before its end-of-stream marker")
            if data := self._decompressor.decompress(more, most):
                return data

    def _begin_next_stream(self) -> bool:
        """Whether another stream follows; between streams zeros may lie."""
        rest = self._decompressor.unused_data.lstrip(b"\x00")
        while not rest:
            if not (rest := self._file.read(_READ_BYTES)):
                return False
            rest = rest.lstrip(b"\x00")
        self._file.seek(-len(rest), io.SEEK_CUR)
        self._decompressor = lzma.LZMADecompressor(lzma.FORMAT_XZ)
        return True

    def close(self) -> None:
        self._file.close()
        super().close()

"""Decodes the bodies of requests, JSON, CSV and Parquet, at a cost that is linear in their bytes.

What cannot fit into a request is refused before anything is decoded: brackets, commas and line
ends are counted in the bytes, and a Parquet file is measured by the headers of its own pages.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from mlops.errors import RequestRefused
from mlops.serving.protocol.request_bars import (
    BAD,
    NAMES,
    OPEN_TIME,
    InputSpec,
    refuse_bar_count,
    refused,
)
from mlops.serving.protocol.request_times import INVALID, LONGEST_TEXT

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

MAX_COLUMNS = 64
"""Columns of a frame, and fields of a record."""

_NOT_PLAIN = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)
_BOM = b"\xef\xbb\xbf"
# Beside its bars a body has the few names, lists and objects of its form.
_FORM = 64


# JSON --------------------------------------------------------------------------------------------


def decode_json(body: bytes, spec: InputSpec) -> Any:
    """Decode a JSON body, with NaN and Infinity, so that their cell can be named.

    Raises:
        RequestRefused: when the body is no JSON, or holds more than a request may.
    """
    refuse_crowded_json(body, spec)
    try:
        return msgspec.json.decode(body.removeprefix(_BOM))
    except _NOT_PLAIN:
        pass
    text = _decode_text(body)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise refused(f"the body is no JSON: {error}", BAD) from None
    except (RecursionError, ValueError):
        raise refused("the body is no JSON that can be read: too deep or too long", BAD) from None


def refuse_crowded_json(body: bytes, spec: InputSpec) -> None:
    """Count what makes JSON large once it is decoded.

    Raises:
        RequestRefused: when there is more of one kind than the bars of a request have.
    """
    bars, frame = spec.max_total_bars, spec.max_bars
    if len(body) <= frame:
        return
    values = max((len(NAMES) + 1) * bars, (MAX_COLUMNS + 1) * frame)
    _refuse_marks(body, b"[", bars + 2 * spec.max_windows + _FORM, "lists ([)", spec)
    _refuse_marks(body, b"{", 2 * frame + _FORM, "objects ({)", spec)
    _refuse_marks(body, b",", values + _FORM, "commas", spec)
    # A time as text for each bar, and 16 names for each record.
    _refuse_marks(body, b'"', 2 * bars + 32 * frame + _FORM, "quotation marks", spec)


def _refuse_marks(body: bytes, mark: bytes, most: int, what: str, spec: InputSpec) -> None:
    # Most bodies are shorter than what they may hold, and need not be counted.
    count = body.count(mark) if len(body) > most else 0
    if count > most:
        raise RequestRefused(
            413,
            INVALID,
            f"the body has {count:,} {what}, at most {most:,} are read; send at most "
            f"{spec.max_bars:,} bars a window and {spec.max_total_bars:,} in all windows",
        )


def _decode_text(body: bytes) -> str:
    try:
        return body.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise refused(f"the body is not UTF-8 (byte {error.start})", BAD) from None


# CSV ---------------------------------------------------------------------------------------------


def decode_csv(body: bytes, spec: InputSpec) -> list[list[str]]:
    """Decode a CSV body to lines of cells, the names of the columns first.

    Raises:
        RequestRefused: when the body is no CSV, or holds more than a request may.
    """
    # Half of the lines may be empty.
    for line_end in (b"\n", b"\r"):
        _refuse_marks(body, line_end, 2 * spec.max_bars + _FORM, "line ends", spec)
    commas = (MAX_COLUMNS + 1) * (spec.max_bars + 1)
    _refuse_marks(body, b",", commas, "commas", spec)
    text = io.TextIOWrapper(io.BytesIO(body), "utf-8-sig", newline="")
    try:
        lines = [line for line in csv.reader(text, strict=True) if line]
    except (csv.Error, UnicodeDecodeError) as error:
        _decode_text(body)
        raise refused(f"the body is no CSV: {error}", BAD) from None
    if not lines:
        raise refused("the body is empty; send a line of column names and a line a bar", BAD)
    return lines


def csv_cell(cell: str) -> object:
    """A number where the cell is one, else its text: it may be a time."""
    try:
        # Python alone takes 1_000 for a number.
        return float(cell) if "_" not in cell else cell
    except ValueError:
        return cell


# Parquet -----------------------------------------------------------------------------------------

# The C++ structures of a file's description take some hundred times the bytes they are read from.
_MOST_DESCRIPTION_BYTES = 512 * 1024
# Columns, row groups and levels of nesting; Arrow reads levels by recursion, without a limit.
_MOST_LISTED = 1000
_MOST_PAGES = 10_000
_BYTES_A_BAR = 512
# Plain values and dictionaries of them. In other encodings a few bytes stand for long text.
_ENCODINGS = frozenset({0, 2, 3, 4, 8})
_NUMBER_ENCODINGS = _ENCODINGS | {5, 9}
_NO_PARQUET = "the body is no Parquet file; write it with DataFrame.to_parquet"
_DAMAGED = "the Parquet file is damaged; write it again"


def decode_parquet(body: bytes, spec: InputSpec) -> dict[str, list[object]]:
    """Decode the columns of bars and their time in a Parquet body, as pandas writes it.

    Raises:
        RequestRefused: when the body is no Parquet file, has columns of other types than numbers
            and times, or holds more than a request may.
    """
    import pyarrow as pa

    try:
        file = _open_parquet(body)
        groups = [file.metadata.row_group(at) for at in range(file.metadata.num_row_groups)]
        rows = max(file.metadata.num_rows, sum(group.num_rows for group in groups))
        schema = file.schema_arrow
    except RequestRefused:
        raise
    except (pa.ArrowException, OSError, ValueError):
        raise refused(_NO_PARQUET, BAD) from None
    refuse_bar_count(rows, spec)
    wanted = _find_columns(schema)
    texts = [name for name, plain in wanted.items() if _holds_text(schema.field(name).type)]
    _refuse_types(schema, wanted)
    try:
        _measure_pages(body, file, wanted, spec)
        if texts:
            file = _open_parquet(body, read_dictionary=texts, metadata=file.metadata)
        table = file.read(columns=list(wanted), use_threads=False)
        return {plain: _arrow_cells(table.column(name)) for name, plain in wanted.items()}
    except RequestRefused:
        raise
    except (pa.ArrowException, OSError, ValueError, LookupError, TypeError, RecursionError):
        raise refused(_DAMAGED, BAD) from None


def _open_parquet(body: bytes, **options: Any) -> pq.ParquetFile:
    import pyarrow as pa
    import pyarrow.parquet as pq

    size = int.from_bytes(body[-8:-4], "little")
    if size > _MOST_DESCRIPTION_BYTES and body.endswith(b"PAR1"):
        raise RequestRefused(
            413,
            INVALID,
            f"the Parquet file describes itself in {size:,} bytes, at most "
            f"{_MOST_DESCRIPTION_BYTES:,} are read; write fewer columns and row groups",
        )
    return pq.ParquetFile(
        pa.BufferReader(body),
        pre_buffer=False,
        thrift_container_size_limit=_MOST_LISTED,
        thrift_string_size_limit=_MOST_DESCRIPTION_BYTES,
        **options,
    )


def _find_columns(schema: pa.Schema) -> dict[str, str]:
    """The columns to read: their plain names by their own."""
    wanted: dict[str, str] = {}
    for name in schema.names:
        plain = name.strip().lower()
        if plain not in NAMES:
            continue
        if plain in wanted.values():
            raise refused(f"column {plain!r} occurs twice; send it once", BAD)
        wanted[name] = plain
    return wanted


def _refuse_types(schema: pa.Schema, wanted: Mapping[str, str]) -> None:
    """Refuse columns of any type that is not read; nothing is decoded to name a cell."""
    import pyarrow.types as kinds

    for name, plain in wanted.items():
        given = schema.field(name).type
        given = given.value_type if kinds.is_dictionary(given) else given
        number = kinds.is_integer(given) or kinds.is_floating(given)
        timed = plain == OPEN_TIME
        if number or (timed and (kinds.is_temporal(given) or _holds_text(given))):
            continue
        if kinds.is_boolean(given):
            what = "true or false"
        elif kinds.is_null(given):
            what = "null"
        else:
            what = "text" if _holds_text(given) else str(given)[:40]
        belongs = "time" if timed else "number"
        raise refused(f"row 0, column {plain!r}: {what} where a {belongs} belongs")


def _holds_text(given: pa.DataType) -> bool:
    import pyarrow.types as kinds

    given = given.value_type if kinds.is_dictionary(given) else given
    return bool(
        kinds.is_string(given) or kinds.is_large_string(given) or kinds.is_string_view(given)
    )


def _arrow_cells(column: pa.ChunkedArray) -> list[object]:
    """A column's values; times with a zone become epoch nanoseconds, text is cut."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_timestamp(column.type) and column.type.tz is not None:
        column = column.cast(pa.timestamp("ns", "UTC")).cast(pa.int64())
    elif _holds_text(column.type):
        # Every row may name one long text: cut the texts before a row gets its own.
        cut = [
            pc.utf8_slice_codeunits(chunk.dictionary, 0, LONGEST_TEXT + 1).take(chunk.indices)
            for chunk in column.chunks
        ]
        return [cell for chunk in cut for cell in chunk.to_pylist()]
    cells: list[object] = column.to_pylist()
    return cells


def _measure_pages(
    body: bytes, file: pq.ParquetFile, wanted: Mapping[str, str], spec: InputSpec
) -> None:
    """Refuse columns that unpack to more than bars need, by the headers of their pages.

    Arrow allocates what these headers say. The sizes in the file's description may differ.
    """
    paths = [file.schema.column(at).path for at in range(len(file.schema))]
    # Arrow reads all columns below a name, too.
    leaves = [at for at, path in enumerate(paths) if path.split(".")[0] in wanted]
    most, pages, size = _BYTES_A_BAR * spec.max_bars + 2**16, 0, 0
    for group in range(file.metadata.num_row_groups):
        for leaf in leaves:
            chunk = file.metadata.row_group(group).column(leaf)
            text = chunk.physical_type.endswith("BYTE_ARRAY")
            for unpacked, values, encoding in _page_headers(body, chunk):
                pages, size = pages + 1, size + unpacked
                if size > most or pages > _MOST_PAGES:
                    raise RequestRefused(
                        413,
                        INVALID,
                        f"the Parquet file unpacks to more than {most:,} bytes or {_MOST_PAGES:,} "
                        f"pages; send at most {spec.max_bars:,} bars of numbers",
                    )
                if not 0 <= values <= spec.max_bars:
                    raise ValueError(f"a page of {values} values")
                if encoding not in (_ENCODINGS if text else _NUMBER_ENCODINGS):
                    raise ValueError(f"a page of encoding {encoding}")


def _page_headers(body: bytes, chunk: pq.ColumnChunkMetaData) -> Iterator[tuple[int, int, int]]:
    """Unpacked bytes, values and encoding of each page of a column chunk."""
    starts = [chunk.data_page_offset]
    if chunk.has_dictionary_page and chunk.dictionary_page_offset > 0:
        starts.append(chunk.dictionary_page_offset)
    at = min(starts)
    end = min(at + chunk.total_compressed_size, len(body))
    if at < 0:
        raise ValueError("a page before the file")
    while at < end:
        header, at = _read_struct(body, at)
        unpacked, packed = header[2], header[3]
        if min(unpacked, packed) < 0:
            raise ValueError("a page of less than nothing")
        at += packed
        # Data pages of both versions, or a dictionary; in version 2 the encoding stands fourth.
        for field, place in ((5, 2), (8, 4), (7, 2)):
            if field in header:
                yield unpacked, header[field][1], header[field][place]
        if not header.keys() & {5, 7, 8}:
            yield unpacked, 0, 0


def _read_struct(data: bytes, at: int) -> tuple[dict[int, Any], int]:
    """Read a struct of Thrift's compact protocol: its fields by number, and where it ends."""
    fields: dict[int, Any] = {}
    field = 0
    while data[at]:
        kind, step = data[at] & 15, data[at] >> 4
        at += 1
        if step:
            field += step
        else:
            field, at = _read_whole(data, at)
        if kind in (1, 2):
            fields[field] = kind == 1
        elif kind in (4, 5, 6):
            fields[field], at = _read_whole(data, at)
        elif kind == 8:
            length, at = _read_varint(data, at)
            at += length
        elif kind == 12:
            fields[field], at = _read_struct(data, at)
        else:
            raise ValueError(f"a page header with a field of kind {kind}")
    return fields, at + 1


def _read_whole(data: bytes, at: int) -> tuple[int, int]:
    number, at = _read_varint(data, at)
    return number >> 1 ^ -(number & 1), at


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    number = 0
    for shift in range(0, 32, 7):
        number |= (data[at] & 127) << shift
        at += 1
        if data[at - 1] < 128:
            break
    if number >= 2**32 or data[at - 1] >= 128:
        # Arrow keeps the lower 32 bits, and would read another number.
        raise ValueError("a number of more than 32 bits in a page header")
    return number, at

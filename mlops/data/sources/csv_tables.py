"""The table of a CSV file, read by Arrow: numbers at once, and cells as text where that fails.

Both ways give the same values of the same file; the second one is slow, and can say what is wrong.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping
from typing import NoReturn

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from mlops.data.bar_columns import COLUMNS
from mlops.data.file_options import FileOptions
from mlops.data.sources.archives import Content
from mlops.data.sources.csv_header import Header, read_header, refuse_encoding, shorten
from mlops.data.time_columns import DATE_COLUMNS, UNIX_COLUMNS
from mlops.errors import BarsError

NO_VALUE = ["", "NaN", "nan", "null", "NULL", "N/A"]
_TIME_COLUMNS = frozenset((*UNIX_COLUMNS, *DATE_COLUMNS))
_UNIX = re.compile(r"\d{9,15}")
_ISO = re.compile(
    r"\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}(:\d{2}(\.\d{1,9})?)?(?P<zone>Z|[+-]\d{2}:?\d{2})?"
)
_GROUPED = r"[0-9]{1,3}(?:\.[0-9]{3})*"
_ALL_GROUPED = rf"^\s*{_GROUPED}\s*$"
_SHOWN = 5


def read_csv_table(content: Content, options: FileOptions) -> pd.DataFrame:
    """The rows of a CSV file; the columns of bars are numbers, or text that is none at once.

    Raises:
        SourceError: when the file is damaged.
        BarsError: when it is no regular table of UTF-8 text.
    """
    header = read_header(content, options)
    try:
        try:
            table = _convert(content, header, _plan_types(header, options), options.decimal or ".")
        except pa.ArrowInvalid:
            # Not each cell has the form that Arrow knows, or the lines differ in length.
            table = _convert(content, header, {}, options.decimal or ".")
    except pa.ArrowInvalid as error:
        _refuse_irregular_lines(content, header)
        raise BarsError(f"{content.name} is not a regular table: {error}") from error
    if any(_holds_line_break(column) for column in table.columns):
        _refuse_irregular_lines(content, header)
        raise BarsError(f"{content.name}: a cell holds a line break; write each row on one line")
    if options.decimal is None and header.separator == ";":
        _refuse_grouped_numbers(content.name, table)
    frame: pd.DataFrame = _drop_nameless(table).to_pandas(split_blocks=True, self_destruct=True)
    return frame


def _plan_types(header: Header, options: FileOptions) -> dict[str, pa.DataType]:
    """Types of the columns of bars and of their time; the first row shows the form of the time."""
    types: dict[str, pa.DataType] = {}
    cells = header.first_row or ("",) * len(header.names)
    wanted = (options.time_column or "").strip().lower()
    is_text = "%" in (options.time_format or "")
    for name, cell in zip(header.names, cells, strict=False):
        key = name.strip().lower()
        if key in COLUMNS:
            # Text shows later whether all cells of the column are such as 42.000.
            may_be_grouped = options.decimal is None and header.separator == ";"
            is_text_first = may_be_grouped and re.fullmatch(_GROUPED, cell.strip())
            types[name] = pa.string() if is_text_first else pa.float64()
        elif (key == wanted or key in _TIME_COLUMNS) and not is_text:
            types[name] = _time_type(cell.strip())
    return types


def _refuse_grouped_numbers(name: str, table: pa.Table) -> None:
    """Refuse numbers such as 42.000, which are 42 thousand where a semicolon separates cells."""
    for column in table.column_names:
        cells = table.column(column)
        if column.strip().lower() not in COLUMNS or not pa.types.is_string(cells.type):
            continue
        dotted = pc.match_substring(cells, ".")
        if pc.any(dotted).as_py() and pc.all(pc.match_substring_regex(cells, _ALL_GROUPED)).as_py():
            shown = cells.filter(dotted)[0].as_py().strip()
            raise BarsError(
                f"{name}: column {column!r} holds numbers such as {shown!r}; pass decimal=',' if "
                "their points group thousands, or decimal='.' if they are decimal marks",
                column=column.strip().lower(),
            )


def _time_type(cell: str) -> pa.DataType:
    if _UNIX.fullmatch(cell):
        # Whole numbers of so few digits are exact; as an integer Arrow would read 0x10 too.
        return pa.float64()
    if found := _ISO.fullmatch(cell):
        return pa.timestamp("ns", tz="UTC" if found["zone"] else None)
    return pa.string()


def _convert(
    content: Content, header: Header, types: Mapping[str, pa.DataType], decimal: str
) -> pa.Table:
    """Read the rows; a column whose type is not given is text."""
    with content.reading() as stream:
        return pacsv.read_csv(
            stream,
            read_options=pacsv.ReadOptions(
                column_names=header.names, skip_rows=header.lines, encoding=header.encoding
            ),
            # Without newlines in values Arrow would drop the rows that a quote left open swallows.
            parse_options=pacsv.ParseOptions(delimiter=header.separator, newlines_in_values=True),
            convert_options=pacsv.ConvertOptions(
                column_types={name: types.get(name, pa.string()) for name in header.names},
                null_values=NO_VALUE,
                strings_can_be_null=True,
                decimal_point=decimal,
            ),
        )


def _holds_line_break(column: pa.ChunkedArray) -> bool:
    return pa.types.is_string(column.type) and any(
        pc.any(pc.match_substring(column, mark)).as_py() for mark in "\n\r"
    )


def _drop_nameless(table: pa.Table) -> pa.Table:
    """Without the empty column that a separator at the end of each line makes."""
    last = table.column_names[-1]
    if last.startswith("Unnamed: ") and table.column(last).null_count == table.num_rows:
        return table.drop_columns([last])
    return table


def _refuse_irregular_lines(content: Content, header: Header) -> None:
    """Name the lines that have more or fewer cells than the header, or are no text.

    A line whose last quote is left open is named alone, for it swallows the lines after it.
    """
    with content.reading() as stream:
        text = io.TextIOWrapper(
            io.BufferedReader(stream) if isinstance(stream, io.RawIOBase) else stream,
            encoding="utf-8-sig" if header.encoding == "utf-8" else header.encoding,
            newline="",
        )
        bad: list[tuple[int, int]] = []
        count, line, raw = 0, 0, ""
        try:
            for line, raw in enumerate(text, start=1):
                if line <= header.lines or not raw.strip("\r\n"):
                    continue
                cells = next(csv.reader([raw], delimiter=header.separator))
                if cells[-1].endswith(("\n", "\r")):
                    _refuse_open_quote(content.name, line, cells[-1])
                if len(cells) != len(header.names):
                    count += 1
                    bad = [*bad, (line, len(cells))][:_SHOWN]
        except UnicodeDecodeError as error:
            refuse_encoding(content.name, line + 1, error)
    if bad:
        is_cut = bad == [(line, bad[0][1])] and not raw.endswith(("\n", "\r"))
        raise BarsError(_tell_lines(content.name, bad, count, len(header.names), is_cut=is_cut))


def _refuse_open_quote(name: str, line: int, cell: str) -> NoReturn:
    shown = shorten(cell.strip("\r\n"))
    raise BarsError(
        f"{name}: line {line:,} ends within the quoted cell '\"{shown}'; close its quote, or write "
        "the cell on one line"
    )


def _tell_lines(
    name: str, bad: list[tuple[int, int]], count: int, width: int, *, is_cut: bool
) -> str:
    shown = ", ".join(f"line {line:,} has {cells}" for line, cells in bad)
    more = f" and {count - len(bad):,} more lines differ" if count > len(bad) else ""
    remedy = (
        "it ends within its last line, so it was cut short; fetch the file again"
        if is_cut and bad[0][1] < width
        else "correct or remove these lines, or pass separator= or skip_rows="
    )
    return f"{name} is not a regular table: the header has {width} cells, {shown}{more}; {remedy}"

"""The header line of a CSV file: its separator and the names of the columns."""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from mlops.data.bar_columns import COLUMNS, rename_columns, tell_missing, tidy_name
from mlops.data.file_options import FileOptions
from mlops.data.sources.archives import Content
from mlops.data.time_columns import DATE_COLUMNS, UNIX_COLUMNS
from mlops.errors import BarsError

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
_LINE = re.compile(r"\r\n|\r|\n")
_VALUE = re.compile(r"\s*[+-]?\d[\d.,:/TZ +-]*\s*")
_PRICES = COLUMNS[:4]
_SHOWN_LETTERS = 60
_LINES_SEARCHED = 100
_NEEDED_ONCE = frozenset((*COLUMNS, *UNIX_COLUMNS, *DATE_COLUMNS))


@dataclass(frozen=True, slots=True)
class Header:
    """How the lines of a CSV file are cut into named cells.

    Args:
        names: Of the columns, renamed as the caller asked.
        lines: Above the first row of values.
        first_row: The cells of the first row, or none.
        encoding: As Python calls it.
    """

    names: tuple[str, ...]
    separator: str
    lines: int
    first_row: tuple[str, ...]
    encoding: str


def read_header(content: Content, options: FileOptions) -> Header:
    """Find the header below the skipped and the blank lines.

    Raises:
        BarsError: when there is none, or it can be read in two ways.
    """
    encoding = "utf-16" if content.head.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8"
    lines = _split_lines(content, encoding)
    row = next((n for n in range(options.skip_rows, len(lines)) if lines[n].strip()), None)
    if row is None:
        raise BarsError(
            f"{content.name} has no header line below skip_rows={options.skip_rows}; it has "
            f"{len(lines)} line(s)"
        )
    separator = options.separator or _recognise_separator(content.name, lines, row, options.columns)
    _refuse_separator(separator, options.decimal or ".")
    cells = split_line(lines[row], separator)
    below = next((line for line in lines[row + 1 :] if line.strip()), None)
    first_row = split_line(below, separator) if below is not None else []
    if _are_values(cells):
        names, first_row = _number_columns(content.name, cells, options.columns), cells
        return Header(names, separator, row, tuple(first_row), encoding)
    names = _refuse_repeated(
        content.name, list(rename_columns(content.name, cells, options.columns))
    )
    _refuse_missing(content.name, names, lines, row, options)
    _refuse_names_below(content.name, names, [split_line(one, separator) for one in lines], row)
    return Header(names, separator, row + 1, tuple(first_row), encoding)


def split_line(line: str, separator: str) -> list[str]:
    """The cells of one line, without their quotes."""
    return next(csv.reader([line], delimiter=separator), [])


def _split_lines(content: Content, encoding: str) -> list[str]:
    """The lines in the head of the file; the last one may go on beyond it."""
    decoder = codecs.getincrementaldecoder("utf-8-sig" if encoding == "utf-8" else encoding)()
    try:
        text = decoder.decode(content.head)
    except UnicodeDecodeError as error:
        line = len(re.findall(rb"\r\n|\r|\n", content.head[: error.start])) + 1
        refuse_encoding(content.name, line, error)
    lines = _LINE.split(text)
    return lines[:-1] if lines[-1] == "" else lines


def refuse_encoding(name: str, line: int, error: UnicodeDecodeError) -> NoReturn:
    """Refuse a byte that no UTF-8 text has."""
    byte = error.object[error.start]
    raise BarsError(
        f"{name} is not UTF-8: byte 0x{byte:02x} in line {line:,}; save the file as UTF-8"
    ) from error


def _recognise_separator(
    name: str, lines: Sequence[str], row: int, columns: Mapping[str, str]
) -> str:
    """The one separator that cuts the header into the columns of bars, or into columns at all."""
    cuts = {mark: split_line(lines[row], mark) for mark in SEPARATORS}
    cuts = {mark: cells for mark, cells in cuts.items() if len(cells) > 1}
    fit = [mark for mark, cells in cuts.items() if _name_bars(cells, columns)] or list(cuts)
    if len(fit) == 1:
        return fit[0]
    shown = shorten(lines[row])
    if not fit:
        raise BarsError(
            f"{name}: the header, line {row + 1}, is one cell, {shown!r}; "
            f"{_tell_where_header_is(lines, row, columns) or 'pass separator= or skip_rows='}"
        )
    marks = " or ".join(f"separator={mark!r} ({len(cuts[mark])} columns)" for mark in fit)
    raise BarsError(
        f"{name}: the header, line {row + 1}, {shown!r}, can be cut two ways; pass {marks}"
    )


def _refuse_separator(separator: str, decimal: str) -> None:
    if len(separator) != 1 or separator in "\r\n\"'":
        raise BarsError(
            f"separator={separator!r} is no single character; pass one such as ',', ';' or '\\t'"
        )
    if separator == decimal:
        raise BarsError(
            f"separator={separator!r} is the decimal mark too; pass another separator= or decimal="
        )


def _tell_where_header_is(lines: Sequence[str], row: int, columns: Mapping[str, str]) -> str | None:
    """The argument that makes the first line with all columns or prices of bars the header."""
    below = range(row + 1, min(len(lines), row + _LINES_SEARCHED))
    for needed, what in ((COLUMNS, "columns"), (_PRICES, "prices")):
        found = [number for number in (row, *below) if _line_names(lines[number], columns, needed)]
        if row in found:
            return None
        if found:
            return f"pass skip_rows={found[0]}, for line {found[0] + 1} names the {what} of bars"
    return None


def _line_names(line: str, columns: Mapping[str, str], needed: Sequence[str]) -> bool:
    return any(_name_bars(split_line(line, mark), columns, needed) for mark in SEPARATORS)


def _name_bars(
    cells: Sequence[str], columns: Mapping[str, str], needed: Sequence[str] = COLUMNS
) -> bool:
    renamed = {columns.get(cell, columns.get(cell.strip(), cell)) for cell in cells}
    return set(needed) <= {tidy_name(cell) for cell in renamed}


def _are_values(cells: Sequence[str]) -> bool:
    """Whether the line that should name the columns is a row of values."""
    return len(cells) >= len(COLUMNS) and sum(
        bool(_VALUE.fullmatch(cell)) for cell in cells
    ) >= len(COLUMNS)


def _number_columns(name: str, cells: Sequence[str], columns: Mapping[str, str]) -> tuple[str, ...]:
    """Names of the columns of a file without a header, which `columns` gives by position."""
    positions = [str(number) for number in range(len(cells))]
    if not columns or not set(columns) <= set(positions):
        raise BarsError(
            f"{name} has no header: its first line holds values, {shorten(', '.join(cells))!r}; "
            "name the columns by position with columns={'0': 'open_time', '1': 'open', ...}"
        )
    return _refuse_repeated(name, [columns.get(position, position) for position in positions])


def _refuse_repeated(name: str, names: list[str]) -> tuple[str, ...]:
    """Names without repetition; a repeated one that a bar needs is refused."""
    seen: dict[str, int] = {}
    unique = []
    for position, column in enumerate(names):
        key = tidy_name(column)
        first = seen.setdefault(key, position)
        if first != position and key in _NEEDED_ONCE:
            raise BarsError(
                f"{name}: column {key!r} occurs twice, at {first + 1} and {position + 1}; keep one",
                column=key,
            )
        unique.append(column if first == position else f"{column}.{position}")
    return tuple(unique)


def _refuse_missing(
    name: str, names: Sequence[str], lines: Sequence[str], row: int, options: FileOptions
) -> None:
    present = {tidy_name(column) for column in names}
    missing = [column for column in COLUMNS if column not in present]
    if missing:
        remedy = _tell_where_header_is(lines, row, options.columns) or (
            tell_missing(missing[0], names)
        )
        raise BarsError(
            f"{name}: column {missing[0]!r} is missing in line {row + 1}; got "
            f"{', '.join(names)}; {remedy}",
            column=missing[0],
        )


def _refuse_names_below(
    name: str, names: Sequence[str], cells: Sequence[Sequence[str]], row: int
) -> None:
    """Refuse the two lines of names that Yahoo's library writes below the header."""
    if len(cells) < row + 4:
        return
    symbols, index = cells[row + 1], cells[row + 2]
    if not index or not index[0] or any(index[1:]) or any(map(_VALUE.fullmatch, symbols)):
        return
    columns = {str(place): tidy_name(one) for place, one in enumerate(names)} | {"0": "open_time"}
    raise BarsError(
        f"{name}: lines {row + 2} and {row + 3} hold names and no bars, "
        f"{shorten(', '.join(symbols))!r}; pass skip_rows={row + 3} and columns={columns}"
    )


def shorten(line: str) -> str:
    """The beginning of a line, as much as a message shows."""
    return line if len(line) <= _SHOWN_LETTERS else f"{line[:_SHOWN_LETTERS]}..."

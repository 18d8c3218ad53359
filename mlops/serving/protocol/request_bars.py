"""The bars of a request: checks by the rules of training, and the windows made of them.

The checks run on whole arrays. Only where one fails are the cells looked at one by one, to name
the wrong one. Rows and windows are counted from 0.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import msgspec
import numpy as np

from mlops.arrays import BoolArray, FloatArray, IntArray, TimeArray
from mlops.data import bar_rules
from mlops.data.bars import COLUMNS
from mlops.data.calendar import Calendar
from mlops.errors import RequestRefused
from mlops.models.recipe import Recipe
from mlops.models.windows import Window
from mlops.service import Timeframe
from mlops.serving.protocol.request_times import (
    INVALID,
    find_gaps,
    from_epoch,
    on_minutes,
    parse_open_times,
    utc_text,
)

BAD = "BAD_REQUEST"
OPEN_TIME = "open_time"
NAMES = (OPEN_TIME, *COLUMNS)
MAX_TOTAL_BARS = 420_000
"""Bars of all windows of a request: as many as 16 MB of FP64 hold."""

# Bars that are sent without times get made-up ones, which end here.
_SOME_END = np.datetime64("2024-01-01T00:00:00", "ns")
_LONGEST_SHOWN = 40
_JSON_NAMES = {"dict": "an object", "list": "a list", "tuple": "a list"}

Cells: TypeAlias = Sequence[object]


@dataclass(frozen=True, slots=True)
class InputSpec:
    """What a version asks of a request.

    Args:
        min_bars: Bars that one forecast needs, its own bar included.
        needs_clock: Whether the bars must come with their times.
        unbroken_bars: So many of the last bars must follow one another without a gap.
    """

    timeframe: Timeframe
    calendar: Calendar
    min_bars: int
    max_bars: int
    max_windows: int
    needs_clock: bool
    unbroken_bars: int = 1

    @property
    def max_total_bars(self) -> int:
        """Bars that all windows of a request may have together."""
        return min(self.max_bars * self.max_windows, MAX_TOTAL_BARS)


def unbroken_bars(recipe: Recipe) -> int:
    """The longest sequence that a model or one of its members reads; no gap may lie in it."""
    return max([recipe.sequence_length, *(unbroken_bars(member) for member in recipe.members)])


def refused(message: str, code: str = INVALID) -> RequestRefused:
    """A 400 with a message that says what is wrong."""
    return RequestRefused(400, code, message)


def frame_window(values: FloatArray, opens: IntArray | None, spec: InputSpec) -> Window:
    """Make a window of one symbol's bars (n, 5); each bar with enough history yields a forecast.

    Args:
        opens: Open times (n,), epoch nanoseconds.

    Raises:
        RequestRefused: naming the row and column that is wrong.
    """
    _refuse_length(len(values), spec, "")
    _check_values(values)
    return _make_window(values, opens, spec, "", spec.min_bars)


def batch_windows(values: FloatArray, opens: IntArray | None, spec: InputSpec) -> list[Window]:
    """Make n windows of a batch (n, T, 5); only the last bar of each need yield a forecast.

    Args:
        opens: Open times (n, T), epoch nanoseconds.

    Raises:
        RequestRefused: naming the window, row and column that is wrong.
    """
    count, bars = values.shape[:2]
    refuse_window_count(count, spec)
    _refuse_length(bars, spec, "each window: ")
    refuse_total_bars(count * bars, spec)
    _check_values(values.reshape(count * bars, len(COLUMNS)), bars)
    if opens is None and not spec.needs_clock:
        times, holes = _make_up_times(spec, bars)
        return [Window(bar_values, times, holes, timed=False) for bar_values in values]
    return [
        _make_window(bar_values, None if opens is None else opens[k], spec, f"window {k}, ", bars)
        for k, bar_values in enumerate(values)
    ]


def tensor_windows(
    tensor: FloatArray, spec: InputSpec, times: IntArray | None = None
) -> list[Window]:
    """Make the windows of one symbol's bars (n, 5) or of a batch (n, T, 5).

    Args:
        tensor: With six columns instead of five, the first one is the time.
        times: Unix time of any unit, (n,) or (n, T).

    Raises:
        RequestRefused: naming the window, row and column that is wrong.
    """
    opens = None if times is None else _parse_times(times)
    if tensor.shape[-1] > len(COLUMNS):
        opens, tensor = _parse_times(tensor[..., 0]), np.ascontiguousarray(tensor[..., 1:])
    if tensor.ndim == 3:
        return batch_windows(tensor, opens, spec)
    return [frame_window(tensor, opens, spec)]


def _parse_times(times: FloatArray | IntArray) -> IntArray:
    try:
        return from_epoch(times.ravel()).reshape(times.shape)
    except RequestRefused:
        if times.ndim == 1:
            raise
    # Convert each window apart, to name the one that is wrong.
    return np.array([from_epoch(row, f"window {k}, ") for k, row in enumerate(times)])


def columns_window(
    columns: Mapping[str, Cells],
    spec: InputSpec,
    *,
    index: Cells | None = None,
    place: str = "",
    one_of_batch: bool = False,
) -> Window:
    """Make a window of one symbol's bars, given by column.

    Args:
        columns: Cells by name, in any order; columns that are no bar's are ignored.
        index: Used as the column of times where it holds times.
        place: Begins the message of a refusal, such as ``window 0, ``.
        one_of_batch: As in `batch_windows` only the last bar need yield a forecast.

    Raises:
        RequestRefused: naming the columns that are missing, or the cell that is wrong.
    """
    named = _index_columns(columns)
    times = _find_times(named, index)
    missing = [name for name in COLUMNS if name not in named]
    if spec.needs_clock and times is None:
        missing.append(OPEN_TIME)
    if missing:
        raise refused(
            f"{place}missing column{'s' if len(missing) > 1 else ''} {', '.join(missing)}; send "
            f"{', '.join(COLUMNS)}" + (f" and {OPEN_TIME}" if spec.needs_clock else "")
        )
    lengths = {name: len(named[name]) for name in COLUMNS}
    if len(set(lengths.values())) > 1:
        stated = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise refused(f"{place}the columns differ in length ({stated}); send one cell a bar", BAD)
    bars = lengths[COLUMNS[0]]
    _refuse_length(bars, spec, place)
    if times is not None and len(times) != bars:
        raise refused(f"{place}{len(times)} times for {bars} bars; send one each", BAD)
    values = np.empty((bars, len(COLUMNS)))
    for number, name in enumerate(COLUMNS):
        values[:, number] = _to_numbers(named[name], name, place)
    opens = None if times is None else parse_open_times(times, place)
    _check_values(values, place=place)
    return _make_window(values, opens, spec, place, bars if one_of_batch else spec.min_bars)


def refuse_window_count(count: int, spec: InputSpec) -> None:
    """Check the number of windows.

    Raises:
        RequestRefused: when there is no window, or more than a request may hold.
    """
    if count == 0:
        raise refused(f"no window; send at least one of {spec.min_bars} bars")
    if count > spec.max_windows:
        raise RequestRefused(
            413, INVALID, f"{count:,} windows, at most {spec.max_windows:,} a request; send fewer"
        )


def refuse_total_bars(bars: int, spec: InputSpec) -> None:
    """Count the bars of all windows together.

    Raises:
        RequestRefused: when there are more than a request may hold.
    """
    if bars > spec.max_total_bars:
        raise RequestRefused(
            413,
            INVALID,
            f"{bars:,} bars in all windows, at most {spec.max_total_bars:,} a request; send fewer "
            "windows",
        )


def refuse_bar_count(bars: int, spec: InputSpec, place: str = "") -> None:
    """Count the bars of one window, before anything else is looked at.

    Raises:
        RequestRefused: when there are more than a window may hold.
    """
    if bars > spec.max_bars:
        raise RequestRefused(
            413, INVALID, f"{place}{bars:,} bars, at most {spec.max_bars:,}; send the newest ones"
        )


def _refuse_length(bars: int, spec: InputSpec, place: str) -> None:
    if bars == 0:
        raise refused(f"{place}no bars; a forecast needs the last {spec.min_bars}")
    if bars < spec.min_bars:
        raise refused(
            f"{place}got {bars} bar{'s' if bars > 1 else ''}, a forecast needs {spec.min_bars}; "
            "send more history"
        )
    refuse_bar_count(bars, spec, place)


def _make_window(
    values: FloatArray, opens: IntArray | None, spec: InputSpec, place: str, needed: int
) -> Window:
    """A window of checked values; the times are checked here.

    Args:
        needed: A bar with so many bars up to its own must yield a forecast.
    """
    if opens is None:
        if spec.needs_clock:
            raise refused(
                f"{place}this model reads the clock: send {OPEN_TIME} with the bars, as ISO 8601 "
                "with a zone or as Unix time"
            )
        return Window(values, *_make_up_times(spec, len(values)), timed=False)
    opens = on_minutes(opens, spec.timeframe, place)
    holes = find_gaps(opens, spec.timeframe, spec.calendar, place)
    if holes.any():
        _refuse_gaps(opens, holes, spec, place, needed)
    return Window(values, opens.view("datetime64[ns]"), holes)


def _refuse_gaps(
    opens: IntArray, holes: BoolArray, spec: InputSpec, place: str, needed: int
) -> None:
    """Refuse bars of which none with enough history has a sequence without a gap."""
    positions = np.arange(len(holes))
    run_start = np.maximum.accumulate(np.where(holes, positions, 0))
    whole = positions - (spec.unbroken_bars - 1) >= run_start
    if whole[needed - 1 :].any():
        return
    row = int(run_start[-1])
    raise refused(
        f"{place}no forecast can be made: bars are missing between row {row - 1} "
        f"({utc_text(opens[row - 1])}) and row {row} ({utc_text(opens[row])}), and the last "
        f"{spec.unbroken_bars} bars must follow one another; fill the hole or send "
        f"{spec.unbroken_bars} bars since"
    )


def _make_up_times(spec: InputSpec, bars: int) -> tuple[TimeArray, BoolArray]:
    """Times for bars that were sent without, and their gaps: none."""
    times, holes = _make_up_longest(spec.timeframe, spec.max_bars)
    return times[-bars:], holes[-bars:]


@lru_cache(maxsize=64)
def _make_up_longest(timeframe: Timeframe, bars: int) -> tuple[TimeArray, BoolArray]:
    times = _SOME_END - np.arange(bars, 0, -1) * np.timedelta64(timeframe.step)
    times = times.astype("datetime64[ns]")
    holes = np.zeros(bars, bool)
    times.flags.writeable = holes.flags.writeable = False
    return times, holes


# Values ------------------------------------------------------------------------------------------


def _check_values(values: FloatArray, bars: int | None = None, *, place: str = "") -> None:
    """Refuse ``values`` (N, 5) that are no bars.

    Args:
        bars: Length of one window, where the values are those of a batch.
    """
    if not bar_rules.are_sound(values):
        for row, column, what in _wrong_cells(values, bars or len(values)):
            where = place if bars is None else f"window {row // bars}, "
            inner = row if bars is None else row % bars
            raise refused(f"{where}row {inner}, column {column!r}: {what}")


def _wrong_cells(values: FloatArray, window: int) -> Iterator[tuple[int, str, str]]:
    """The first row that breaks each rule of `mlops.data.bar_rules`, with column and message.

    Args:
        window: Bars of each window; no bar is compared with one of another window.
    """
    bars = dict(zip(COLUMNS, values.T, strict=True))
    high, low, volume = bars["high"], bars["low"], bars["volume"]
    for name, cells in bars.items():
        for row in _first_row(bar_rules.not_finite(cells)):
            yield row, name, f"{cells[row]} is no finite number"
    for name in COLUMNS[:4]:
        for row in _first_row(bar_rules.not_positive(bars[name])):
            yield row, name, f"{bars[name][row]} is no price; a price is positive"
    for row in _first_row(bar_rules.negative(volume)):
        yield row, "volume", f"{volume[row]} is no volume; it is 0 or more"
    for row in _first_row(high < low):
        yield row, "high", f"{high[row]} is below low {low[row]}"
    for name in ("open", "close"):
        for row in _first_row(bar_rules.below(high, bars[name])):
            yield row, "high", f"{high[row]} is below {name} {bars[name][row]}"
        for row in _first_row(bar_rules.above(low, bars[name])):
            yield row, "low", f"{low[row]} is above {name} {bars[name][row]}"
    yield from _extreme_cells(bars, window)


def _extreme_cells(bars: Mapping[str, FloatArray], window: int) -> Iterator[tuple[int, str, str]]:
    """The first row with what no market trades, of each kind."""
    high, low, close, volume = (bars[name] for name in COLUMNS[1:])
    least, largest = bar_rules.LEAST_PRICE, bar_rules.LARGEST_PRICE
    for name in COLUMNS[:4]:
        for row in _first_row(bar_rules.no_market_price(bars[name])):
            what = f"{bars[name][row]} is no price of a market; one is {least:g} to {largest:g}"
            yield row, name, what
    for row in _first_row(bar_rules.no_market_volume(volume)):
        what = f"is no volume of a market; it is at most {bar_rules.LARGEST_VOLUME:g}"
        yield row, "volume", f"{volume[row]} {what}"
    times = f"more than {bar_rules.LARGEST_RATIO:g} times"
    for row in _first_row(bar_rules.too_wide(high, low)):
        yield row, "high", f"{high[row]} is {times} low {low[row]}"
    far = bar_rules.too_far(high, low, close)
    far[::window] = False
    for row in _first_row(far):
        before = close[row - 1]
        if high[row] / bar_rules.LARGEST_RATIO > before:
            yield row, "high", f"{high[row]} is {times} the close before, {before}"
        yield row, "low", f"the close before, {before}, is {times} low {low[row]}"


def _first_row(wrong: BoolArray) -> list[int]:
    return [int(np.argmax(wrong))] if wrong.any() else []


# Columns -----------------------------------------------------------------------------------------


def _index_columns(columns: Mapping[str, Cells]) -> dict[str, Cells]:
    """Columns by lower-case name."""
    named: dict[str, Cells] = {}
    for name, cells in columns.items():
        plain = name.strip().lower()
        if plain in named and plain in NAMES:
            raise refused(f"column {plain!r} occurs twice; send it once", BAD)
        named[plain] = cells
    return named


def _find_times(named: Mapping[str, Cells], index: Cells | None) -> Cells | None:
    """The column of times, or else the index, unless it holds row numbers."""
    if OPEN_TIME in named:
        return named[OPEN_TIME]
    if index is None or not len(index):
        return None
    first = index[0]
    return None if first is None or is_row_number(first) else index


def is_row_number(cell: object) -> bool:
    """Whether the first entry of an index is the number of a row: that of a bar has ten digits."""
    return isinstance(cell, int | float) and abs(cell) < 1e9


def _to_numbers(cells: Cells, column: str, place: str) -> FloatArray:
    """Cells as an array; a cell that is no number is refused by name."""
    numbers = pack_numbers(cells)
    if numbers is not None:
        return numbers
    for row, cell in enumerate(cells):
        what = not_a_number(cell)
        if what is not None:
            raise refused(f"{place}row {row}, column {column!r}: {what}")
    raise AssertionError("every cell that is a number is packed")


def pack_numbers(cells: Cells) -> FloatArray | None:
    """Numbers as an array (n,); None where a cell is none, or is too large for a float.

    `np.array` takes three times as long, and takes True for a number.
    """
    try:
        return np.frombuffer(struct.pack(f"{len(cells)}d", *msgspec.convert(cells, list[float])))
    except ValueError:
        # Among them is half a surrogate pair in text, for which UTF-8 has no bytes.
        return None


def not_a_number(cell: object) -> str | None:
    """Says what a cell is that is no number; None for a number."""
    if isinstance(cell, bool):
        return "true or false where a number belongs"
    if isinstance(cell, int | float):
        try:
            float(cell)
        except OverflowError:
            return "a number too large to be one"
        return None
    if cell is None:
        return "null where a number belongs"
    if isinstance(cell, str):
        return f"text {shown(cell)} where a number belongs" if cell else "no number"
    kind = type(cell).__name__
    return f"{_JSON_NAMES.get(kind, kind)} where a number belongs"


def shown(text: str) -> str:
    """A client's text as a message may repeat it: printable ASCII, cut to 40 characters."""
    return ascii(text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + "...")

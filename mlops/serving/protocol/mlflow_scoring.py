"""MLflow's scoring protocol: bytes to windows, forecasts to bytes.

A right request is read and answered as MLflow's own server does. A wrong one gets a better message:
a cell that is no number is refused by name, and the message repeats neither the body nor a
traceback. A frame holds one symbol's bars; rows of rows of rows are a batch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from mlops.arrays import FloatArray
from mlops.data.bars import COLUMNS
from mlops.errors import ModelError, RequestRefused
from mlops.models.windows import Window
from mlops.serving.protocol.request_bars import (
    BAD,
    NAMES,
    OPEN_TIME,
    InputSpec,
    columns_window,
    is_row_number,
    pack_numbers,
    refuse_bar_count,
    refuse_total_bars,
    refuse_window_count,
    refused,
    shown,
    tensor_windows,
)
from mlops.serving.protocol.request_body import (
    MAX_COLUMNS,
    csv_cell,
    decode_csv,
    decode_json,
    decode_parquet,
)

JSON, CSV, PARQUET = "application/json", "text/csv", "application/vnd.apache.parquet"
CONTENT_TYPES = (JSON, CSV, PARQUET)
SPLIT, RECORDS, INSTANCES, INPUTS = "dataframe_split", "dataframe_records", "instances", "inputs"
FORMS = (SPLIT, RECORDS, INSTANCES, INPUTS)
BARS = "bars"
"""Name of the tensor of bars, in forms that name their tensors."""

_ONE_OF = f"send a JSON object with exactly one of {', '.join(FORMS)}"


def parse(body: bytes, content_type: str | None, spec: InputSpec) -> list[Window]:
    """Read the windows of a request.

    Args:
        content_type: None stands for JSON.

    Raises:
        RequestRefused: when the request is wrong; the message says what, where and what is allowed.
    """
    media = _parse_media_type(content_type)
    if media == JSON:
        return _document_windows(decode_json(body, spec), spec)
    if media == CSV:
        names, *lines = decode_csv(body, spec)
        return [_frame_window(names, lines, spec, read_cell=csv_cell)]
    return [columns_window(decode_parquet(body, spec), spec)]


def render(forecasts: Sequence[FloatArray]) -> bytes:
    """Write the reply: a record for each bar that has a forecast, of all windows in order.

    Raises:
        RequestRefused: when a window has no forecast.
        ModelError: when a forecast is infinite.
    """
    records = [{"forecast": value} for value in finite_values(forecasts)]
    return msgspec.json.encode({"predictions": records})


def finite_values(forecasts: Sequence[FloatArray]) -> list[float]:
    """The forecasts of all windows in order; NaN, which stands for none, is left out.

    Raises:
        RequestRefused: when a window has no forecast.
        ModelError: when a forecast is infinite.
    """
    kept: list[float] = []
    for number, window in enumerate(forecasts):
        # Lists are faster than arrays for so few values.
        values = [value for value in window.tolist() if not math.isnan(value)]
        if not values:
            raise refused(
                f"window {number}: no bar has enough history without a hole for a forecast; "
                "send more bars since the last hole"
            )
        if math.inf in values or -math.inf in values:
            raise ModelError(f"a forecast of window {number} is infinite")
        kept += values
    return kept


def error_body(status: int, code: str, message: str, request_id: str) -> bytes:
    """Write the body of an error: JSON, but plain text for an unknown content type (415)."""
    if status == 415:
        return message.encode("ascii", "backslashreplace")
    # json escapes half a surrogate pair, which a message may repeat; UTF-8 has no bytes for it.
    return json.dumps({"error_code": code, "message": message, "request_id": request_id}).encode()


def _parse_media_type(content_type: str | None) -> str:
    if content_type is None or content_type == JSON:
        return JSON
    media, *parameters = (part.strip() for part in content_type.split(";"))
    for parameter in filter(None, parameters):
        name, _, value = parameter.partition("=")
        if name.strip().lower() != "charset":
            raise _unsupported(f"content type parameter {ascii(name)[:40]} is not known")
        if value.strip(' "').lower() not in ("utf-8", "utf8"):
            raise _unsupported(f"charset {ascii(value)[:40]} is not known")
    if media.lower() not in CONTENT_TYPES:
        raise _unsupported(f"content type {ascii(media)[:80]} is not known")
    return media.lower()


def _unsupported(what: str) -> RequestRefused:
    allowed = ", ".join(CONTENT_TYPES)
    return RequestRefused(
        415, "BAD_REQUEST", f"{what}; send one of {allowed}, with no parameter but charset=utf-8"
    )


# Forms of JSON -----------------------------------------------------------------------------------


def _document_windows(document: object, spec: InputSpec) -> list[Window]:
    if not isinstance(document, dict):
        raise refused(f"the body is {_json_kind(document)}; {_ONE_OF}", BAD)
    given = [name for name in FORMS if name in document]
    if len(given) != 1:
        got = " and ".join(given) or "none of them"
        raise refused(f"the body has {got}; {_ONE_OF}", BAD)
    _refuse_params(document.get("params"))
    form = given[0]
    if form == SPLIT:
        return [_split_window(document[form], spec)]
    if form == RECORDS:
        return [_records_window(_require_list(document[form], form), form, spec)]
    if form == INPUTS and isinstance(document[form], dict):
        return _named_windows(document[form], spec)
    rows = _require_list(document[form], form)
    if not (rows and isinstance(rows[0], dict)):
        return _tensor_windows(rows, None, form, spec)
    if form == INSTANCES and BARS in rows[0]:
        return _named_rows_windows(rows, spec)
    return [_records_window(rows, form, spec)]


def _refuse_params(params: object) -> None:
    if params is None or params == {}:
        return
    if not isinstance(params, dict):
        raise refused(f"params is {_json_kind(params)}; leave it out", BAD)
    names = ", ".join(shown(str(name)) for name in list(params)[:5])
    raise refused(f"params has {names}, but this model takes none; leave params out")


def _split_window(given: object, spec: InputSpec) -> Window:
    if not isinstance(given, dict):
        raise refused(f"{SPLIT} is {_json_kind(given)}; send an object with columns and data", BAD)
    extra = [name for name in given if name not in ("columns", "index", "data")]
    if extra or "data" not in given:
        got = ", ".join(shown(name) for name in list(given)[:5]) or "nothing"
        raise refused(f"{SPLIT} has {got}; it has data, columns and, if need be, index", BAD)
    data = _require_list(given["data"], f"{SPLIT}.data")
    columns = given.get("columns")
    if columns is None:
        width = len(data[0]) if data and isinstance(data[0], list) else 0
        columns = [str(number) for number in range(width)]
    index = given.get("index")
    if index is not None:
        index = _require_list(index, f"{SPLIT}.index")
        if len(index) != len(data):
            raise refused(f"{SPLIT}.index has {len(index)} entries for {len(data)} rows", BAD)
    return _frame_window(_require_list(columns, f"{SPLIT}.columns"), data, spec, index=index)


def _named_windows(given: Mapping[str, Any], spec: InputSpec) -> list[Window]:
    """Windows of named tensors, or the window of named columns."""
    if BARS in given:
        times = given.get(OPEN_TIME)
        times = None if times is None else _require_list(times, OPEN_TIME)
        return _tensor_windows(_require_list(given[BARS], BARS), times, INPUTS, spec)
    _refuse_many_columns(len(given), INPUTS)
    columns = {
        name: _require_list(cells, name if len(name) <= 40 else shown(name))
        for name, cells in given.items()
    }
    return [columns_window(columns, spec)]


def _named_rows_windows(rows: list[Any], spec: InputSpec) -> list[Window]:
    """Windows of named tensors that are given by row."""
    _require_records(rows, INSTANCES, spec)
    timed = any(OPEN_TIME in row for row in rows)
    times = [row.get(OPEN_TIME) for row in rows] if timed else None
    return _tensor_windows([row.get(BARS) for row in rows], times, INSTANCES, spec)


def _records_window(rows: list[Any], what: str, spec: InputSpec) -> Window:
    """A window of records; a field that a record lacks is None."""
    _require_records(rows, what, spec)
    spelled: dict[str, str] = {}
    for fields in dict.fromkeys(map(tuple, rows)):
        for field in fields:
            name = field.strip().lower()
            if name in NAMES and spelled.setdefault(name, field) != field:
                raise refused(f"column {name!r} occurs twice; send it once", BAD)
    columns = {name: [row.get(field) for row in rows] for name, field in spelled.items()}
    return columns_window(columns, spec)


def _require_records(rows: list[Any], what: str, spec: InputSpec) -> None:
    refuse_bar_count(len(rows), spec)
    if set(map(type, rows)) - {dict}:
        number = next(at for at, row in enumerate(rows) if not isinstance(row, dict))
        kind = _json_kind(rows[number])
        raise refused(f"{what}: row {number} is {kind}; send an object a bar", BAD)
    _refuse_many_columns(max(map(len, rows), default=0), f"{what}: a row")


def _refuse_many_columns(count: int, what: str) -> None:
    if count > MAX_COLUMNS:
        raise refused(
            f"{what} has {count:,} columns, at most {MAX_COLUMNS} are read; "
            f"send {', '.join(COLUMNS)} and, if need be, {OPEN_TIME}",
            BAD,
        )


# Tensors and frames ------------------------------------------------------------------------------


def _tensor_windows(
    rows: list[Any], times: list[Any] | None, what: str, spec: InputSpec
) -> list[Window]:
    """Windows of a tensor: rows of one symbol's bars, or windows of such rows."""
    if not (rows and isinstance(rows[0], list) and rows[0] and isinstance(rows[0][0], list)):
        return [_unnamed_window(rows, times, spec, "")]
    refuse_window_count(len(rows), spec)
    refuse_bar_count(len(rows[0]), spec, "each window: ")
    refuse_total_bars(len(rows) * len(rows[0]), spec)
    if times is not None and len(times) != len(rows):
        raise refused(f"{len(times)} lists of times for {len(rows)} windows; send one each", BAD)
    tensor = _pack_windows(rows) if times is None else None
    if tensor is not None:
        return tensor_windows(tensor, spec)
    windows = []
    for number, window in enumerate(rows):
        place = f"window {number}, "
        bars = _require_list(window, f"{what}: window {number}")
        stamps = None if times is None else _require_list(times[number], f"{place}{OPEN_TIME}")
        if len(bars) != len(rows[0]):
            raise refused(f"{place}{len(bars)} bars, but {len(rows[0])} in window 0", BAD)
        windows.append(_unnamed_window(bars, stamps, spec, place))
    return windows


def _unnamed_window(
    rows: list[Any], times: list[Any] | None, spec: InputSpec, place: str
) -> Window:
    """A window of rows without names: five numbers of a bar, or its time and these five."""
    timed = rows and isinstance(rows[0], list) and len(rows[0]) == len(NAMES)
    return _frame_window(NAMES if timed else COLUMNS, rows, spec, index=times, place=place)


def _frame_window(
    columns: Sequence[Any],
    rows: list[Any],
    spec: InputSpec,
    *,
    index: list[Any] | None = None,
    place: str = "",
    read_cell: Callable[[Any], object] | None = None,
) -> Window:
    """A window of named rows; a name may occur twice unless it is a bar's.

    Args:
        read_cell: Reads the cells of a bar, where they are text.
    """
    refuse_bar_count(len(rows), spec, place)
    _refuse_many_columns(len(columns), f"{place}the frame")
    names = tuple(map(_column_name, columns))
    if not place and (not index or is_row_number(index[0])):
        tensor = _pack_bars(names, rows)
        if tensor is not None:
            return tensor_windows(tensor, spec)[0]
    _refuse_ragged(names, rows, place)
    for name in NAMES:
        if names.count(name) > 1:
            raise refused(f"{place}column {name!r} occurs twice; send it once", BAD)
    cells = {name: [row[at] for row in rows] for at, name in enumerate(names) if name in NAMES}
    if read_cell is not None:
        cells = {name: list(map(read_cell, column)) for name, column in cells.items()}
    return columns_window(cells, spec, index=index, place=place, one_of_batch=bool(place))


def _refuse_ragged(names: Sequence[str], rows: list[Any], place: str) -> None:
    if set(map(type, rows)) <= {list} and set(map(len, rows)) <= {len(names)}:
        return
    for number, row in enumerate(rows):
        if not isinstance(row, list):
            raise refused(
                f"{place}row {number} is {_json_kind(row)}; send a list of cells a bar", BAD
            )
        if len(row) != len(names):
            raise refused(
                f"{place}row {number} has {len(row)} cells for {len(names)} columns; "
                f"send {', '.join(COLUMNS)}, or {OPEN_TIME} and these"
            )


def _pack_bars(names: tuple[str, ...], rows: list[Any]) -> FloatArray | None:
    """Rows as a tensor (n, 5 or 6); None unless they have a bar's columns alone, all numbers."""
    for wanted in (COLUMNS, NAMES):
        if names == wanted:
            return _pack_rows(rows, len(names))
        if sorted(names) == sorted(wanted):
            tensor = _pack_rows(rows, len(names))
            return None if tensor is None else tensor[:, [names.index(name) for name in wanted]]
    return None


def _pack_windows(windows: list[Any]) -> FloatArray | None:
    """Windows as a tensor (n, T, 5 or 6); None where lengths differ or a cell is no number."""
    bars, width = len(windows[0]), len(windows[0][0])
    if width not in (len(COLUMNS), len(NAMES)):
        return None
    if len(windows) == 1:
        # Of one window a copy would take as long as packing it.
        packed = _pack_rows(windows[0], width)
        return None if packed is None else packed[np.newaxis]
    tensor = np.empty((len(windows), bars, width))
    for number, rows in enumerate(windows):
        packed = _pack_rows(rows, width) if isinstance(rows, list) and len(rows) == bars else None
        if packed is None:
            return None
        tensor[number] = packed
    return tensor


def _pack_rows(rows: list[Any], width: int) -> FloatArray | None:
    cells: list[object] = []
    try:
        if set(map(len, rows)) != {width}:
            return None
        for row in rows:
            cells += row
    except TypeError:
        return None
    # Rows that are text or objects have cells of text here.
    numbers = pack_numbers(cells)
    return None if numbers is None else numbers.reshape(-1, width)


def _column_name(name: object) -> str:
    if not isinstance(name, str | int):
        raise refused(f"a column is named by {_json_kind(name)}; name it by text", BAD)
    return str(name).strip().lower()


def _require_list(given: object, what: str) -> list[Any]:
    if not isinstance(given, list):
        raise refused(f"{what} is {_json_kind(given)}; send a list", BAD)
    return given


def _json_kind(value: object) -> str:
    """The kind of a value, in the words of JSON."""
    if isinstance(value, bool):
        return "true or false"
    kinds = {dict: "an object", list: "a list", str: "text", int: "a number", float: "a number"}
    return "null" if value is None else kinds.get(type(value), type(value).__name__)

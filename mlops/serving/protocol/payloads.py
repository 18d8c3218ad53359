"""Reads every form of JSON, CSV and Parquet that MLflow's clients send, and says what is wrong.

A frame holds one symbol's bars; rows of rows of rows are a batch. `mlflow_scoring` reads plain
numbers faster by itself, and leaves every other body, right or wrong, to this module.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from mlops.data.bars import COLUMNS
from mlops.errors import RequestRefused
from mlops.models.windows import Window
from mlops.serving.protocol.request_bars import (
    BAD,
    OPEN_TIME,
    InputSpec,
    columns_window,
    refuse_window_count,
    refused,
    shown,
)
from mlops.serving.protocol.request_times import INVALID

SPLIT, RECORDS, INSTANCES, INPUTS = "dataframe_split", "dataframe_records", "instances", "inputs"
FORMS = (SPLIT, RECORDS, INSTANCES, INPUTS)
BARS = "bars"
"""Name of the tensor of bars, in forms that name their tensors."""


def json_windows(document: object, spec: InputSpec) -> list[Window]:
    """Read the windows of a decoded JSON body.

    Raises:
        RequestRefused: when the body is wrong; the message says what and where.
    """
    if not isinstance(document, dict):
        raise refused(f"the body is {_json_kind(document)}; {_ONE_OF}", BAD)
    given = [name for name in FORMS if name in document]
    if len(given) != 1:
        got = " and ".join(given) or "none of them"
        raise refused(f"the body has {got}; {_ONE_OF}", BAD)
    _refuse_params(document.get("params"))
    form = given[0]
    if form == SPLIT:
        return _split_windows(document[form], spec)
    if form == RECORDS:
        return [_records_window(_require_list(document[form], form), form, spec)]
    read = _instances_windows if form == INSTANCES else _inputs_windows
    return read(document[form], spec)


def csv_windows(text: str, spec: InputSpec) -> list[Window]:
    """Read the window of a CSV body whose first line names the columns.

    Raises:
        RequestRefused: when the body is wrong; the message says what and where.
    """
    try:
        lines = [line for line in csv.reader(io.StringIO(text, newline=""), strict=True) if line]
    except csv.Error as error:
        raise refused(f"the body is no CSV: {error}", BAD) from None
    if not lines:
        raise refused("the body is empty; send a line of column names and a line a bar", BAD)
    return [
        _frame_window(lines[0], [[_csv_cell(cell) for cell in line] for line in lines[1:]], spec)
    ]


def parquet_windows(body: bytes, spec: InputSpec) -> list[Window]:
    """Read the window of a Parquet body as pandas writes it, index included.

    Raises:
        RequestRefused: when the body is wrong; the message says what and where.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(pa.BufferReader(body))
        rows, names = file.metadata.num_rows, list(file.schema_arrow.names)
    except (pa.ArrowException, OSError, ValueError):
        raise refused(
            "the body is no Parquet file; write it with DataFrame.to_parquet", BAD
        ) from None
    if rows > spec.max_bars:
        raise RequestRefused(
            413, INVALID, f"{rows:,} bars, at most {spec.max_bars:,}; send the newest ones"
        )
    wanted = [name for name in names if name.strip().lower() in (*COLUMNS, OPEN_TIME)]
    try:
        table = file.read(columns=wanted)
        columns = {name: _arrow_cells(table.column(name)) for name in wanted}
    except (pa.ArrowException, OSError, ValueError):
        raise refused("the Parquet file is damaged; write it again", BAD) from None
    return [columns_window(columns, spec)]


_ONE_OF = f"send a JSON object with exactly one of {', '.join(FORMS)}"


def _refuse_params(params: object) -> None:
    if params is None or params == {}:
        return
    if not isinstance(params, dict):
        raise refused(f"params is {_json_kind(params)}; leave it out", BAD)
    names = ", ".join(shown(str(name)) for name in list(params)[:5])
    raise refused(f"params has {names}, but this model takes none; leave params out")


def _split_windows(given: object, spec: InputSpec) -> list[Window]:
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
    return [_frame_window(_require_list(columns, f"{SPLIT}.columns"), data, spec, index=index)]


def _instances_windows(given: object, spec: InputSpec) -> list[Window]:
    rows = _require_list(given, INSTANCES)
    if rows and isinstance(rows[0], dict) and BARS in rows[0]:
        return _tensor_windows(
            *_bars_and_times(_records_to_columns(rows, INSTANCES)), INSTANCES, spec
        )
    if rows and isinstance(rows[0], dict):
        return [_records_window(rows, INSTANCES, spec)]
    return _tensor_windows(rows, None, INSTANCES, spec)


def _inputs_windows(given: object, spec: InputSpec) -> list[Window]:
    if isinstance(given, dict) and BARS in given:
        return _tensor_windows(*_bars_and_times(given), INPUTS, spec)
    if isinstance(given, dict):
        return [columns_window({name: _require_list(given[name], name) for name in given}, spec)]
    rows = _require_list(given, INPUTS)
    if rows and isinstance(rows[0], dict):
        return [_records_window(rows, INPUTS, spec)]
    return _tensor_windows(rows, None, INPUTS, spec)


def _bars_and_times(given: Mapping[str, Any]) -> tuple[list[Any], list[Any] | None]:
    times = given.get(OPEN_TIME)
    bars = _require_list(given[BARS], BARS)
    return bars, None if times is None else _require_list(times, OPEN_TIME)


def _records_window(rows: list[Any], what: str, spec: InputSpec) -> Window:
    return columns_window(_records_to_columns(rows, what), spec)


def _records_to_columns(rows: list[Any], what: str) -> dict[str, list[Any]]:
    """Cells by column; a field that a record lacks is None."""
    names: dict[str, None] = {}
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise refused(f"{what}: row {number} is {_json_kind(row)}; send an object a bar", BAD)
        names.update(dict.fromkeys(row))
    return {name: [row.get(name) for row in rows] for name in names}


def _tensor_windows(
    rows: list[Any], times: list[Any] | None, what: str, spec: InputSpec
) -> list[Window]:
    """Windows of a tensor: rows of one symbol's bars, or windows of such rows."""
    if not (rows and isinstance(rows[0], list) and rows[0] and isinstance(rows[0][0], list)):
        return [_unnamed_window(rows, times, spec, "")]
    refuse_window_count(len(rows), spec)
    if times is not None and len(times) != len(rows):
        raise refused(f"{len(times)} lists of times for {len(rows)} windows; send one each", BAD)
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
    names = list(COLUMNS)
    if rows and isinstance(rows[0], list) and len(rows[0]) == len(COLUMNS) + 1:
        names.insert(0, OPEN_TIME)
    return _frame_window(names, rows, spec, index=times, place=place)


def _frame_window(
    columns: Sequence[Any],
    rows: list[Any],
    spec: InputSpec,
    *,
    index: list[Any] | None = None,
    place: str = "",
) -> Window:
    """A window of named rows; a name may occur twice unless it is a bar's."""
    names = [_column_name(name) for name in columns]
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
    for name in (*COLUMNS, OPEN_TIME):
        if names.count(name) > 1:
            raise refused(f"{place}column {name!r} occurs twice; send it once", BAD)
    cells = list(zip(*rows, strict=True)) if rows else [() for _ in names]
    return columns_window(
        dict(zip(names, cells, strict=True)),
        spec,
        index=index,
        place=place,
        one_of_batch=bool(place),
    )


def _column_name(name: object) -> str:
    if not isinstance(name, str | int):
        raise refused(f"a column is named by {_json_kind(name)}; name it by text", BAD)
    return str(name).strip().lower()


def _csv_cell(cell: str) -> object:
    """A number where the cell is one, else its text: it may be a time."""
    try:
        # Python alone takes 1_000 for a number.
        return float(cell) if "_" not in cell else cell
    except ValueError:
        return cell


def _arrow_cells(column: Any) -> list[object]:
    """A column's values; times with a zone become epoch nanoseconds."""
    import pyarrow as pa

    if pa.types.is_timestamp(column.type) and column.type.tz is not None:
        column = column.cast(pa.timestamp("ns", "UTC")).cast(pa.int64())
    cells: list[object] = column.to_pylist()
    return cells


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

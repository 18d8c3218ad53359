"""Requests to score, in every form of JSON, CSV and Parquet: right ones, and each refusal."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import Any

import pandas as pd

from mlops.data.bars import COLUMNS
from mlops.data.calendar import load_calendar

from .stored_requests import (
    BARS,
    BATCH,
    CLOCK,
    CSV,
    FIRST,
    FRAME,
    ISO,
    PARQUET,
    ROWS,
    Requests,
    frame_of,
    hours,
    invoke,
    rows_of,
    split_of,
    timed,
    with_cell,
)

FX = load_calendar("FX")


def json_forms() -> Requests:
    """Every form of JSON that is answered."""
    records = FRAME.to_dict(orient="records")
    documents = {
        "instances of rows": {"instances": ROWS},
        "instances of one more bar than needed": {"instances": rows_of(27)},
        "instances of windows": {"instances": BATCH},
        "instances of one window": {"instances": BATCH[:1]},
        "instances of windows with the time first": {
            "instances": [
                [[FIRST.timestamp() + 3600 * at, *row] for at, row in enumerate(rows)]
                for rows in BATCH
            ]
        },
        "instances of windows with times as text": {
            "instances": [[[ISO[at], *row] for at, row in enumerate(rows)] for rows in BATCH]
        },
        "instances of records": {"instances": records},
        "instances of named rows": {"instances": [{"bars": row} for row in ROWS]},
        "inputs of rows": {"inputs": ROWS},
        "inputs of windows": {"inputs": BATCH},
        "inputs of columns": {"inputs": FRAME.to_dict(orient="list")},
        "inputs of records": {"inputs": records},
        "inputs of a named tensor": {"inputs": {"bars": ROWS}},
        "inputs of named windows with times": {
            "inputs": {"bars": BATCH, "open_time": [ISO, ISO, ISO]}
        },
        "a split frame": split_of(FRAME),
        "a split frame with times": split_of(timed(FRAME)),
        "a split frame with row numbers": split_of(FRAME, index=list(range(BARS))),
        "a split frame with an index of times": split_of(FRAME, index=ISO),
        "a split frame with an index in milliseconds": split_of(
            FRAME, index=[stamp.value // 10**6 for stamp in FRAME.index]
        ),
        "a split frame in another order": split_of(FRAME[list(COLUMNS)[::-1]]),
        "a split frame with more columns": split_of(FRAME.assign(note="x")),
        "records": {"dataframe_records": records},
        "records with times": {"dataframe_records": timed(FRAME).to_dict(orient="records")},
        "whole numbers": {"instances": [[100, 103, 99, 101, 10]] * BARS},
        "params that are empty": {"instances": ROWS, "params": {}},
        "params that are null": {"instances": ROWS, "params": None},
        "a key that no form has": {"instances": ROWS, "signature": [1, 2]},
    }
    requests = {name: invoke(document) for name, document in documents.items()}
    body = json.dumps({"instances": ROWS}).encode()
    large = body + b" " * 70_000
    requests |= {
        "no content type": invoke(body, None),
        "a content type with a charset": invoke(body, "application/json; charset=UTF-8"),
        "a content type in capitals": invoke(body, "Application/JSON"),
        "a byte order mark and space": invoke(b"\xef\xbb\xbf \n" + body),
        "a body in three chunks": invoke(body, chunks=(100, 200)),
        "a body above 64 KiB": invoke(large),
        "a body of the v1 protocol": replace(invoke(body), path="/v1/models/{service}:predict"),
        "the only service without its name": replace(invoke(body), path="/invocations"),
        "the service by its header": replace(
            invoke(body), path="/invocations", headers={"x-service": "{service}"}
        ),
        "a version by its header": invoke(body, headers={"x-model-version": "{baseline}"}),
        "the champion by its header": invoke(body, headers={"x-model-version": "{champion}"}),
        "a session by its header": invoke(body, headers={"x-session-id": "someone"}),
    }
    return requests


def json_refusals() -> Requests:
    """Every way in which a JSON body is wrong."""
    records: list[Any] = FRAME.to_dict(orient="records")
    lacking = [dict(record) for record in records]
    del lacking[3]["volume"]
    capital = FRAME.assign(OPEN=FRAME["open"])
    short = {"open": [1.0] * 29, **{name: [1.0] * 30 for name in COLUMNS[1:]}}
    documents: dict[str, object] = {
        "a number": 1,
        "a text": "1",
        "a list": [1],
        "null": None,
        "true": True,
        "an object without a form": {"not": "a frame"},
        "two forms": {"instances": ROWS, "inputs": ROWS},
        "two forms of which one is null": {"instances": ROWS, "dataframe_split": None},
        "params with a parameter": {"instances": ROWS, "params": {"x": 1}},
        "params with six parameters": {"instances": ROWS, "params": dict.fromkeys("abcdef", 1)},
        "params that are a list": {"instances": ROWS, "params": [1]},
        "a split frame that is a list": {"dataframe_split": []},
        "a split frame without data": {"dataframe_split": {"columns": list(COLUMNS)}},
        "a split frame with nothing": {"dataframe_split": {}},
        "a split frame with a key it has not": split_of(FRAME, dtype="f8"),
        "a split frame whose data is text": {"dataframe_split": {"data": "x"}},
        "a split frame without columns": {"dataframe_split": {"data": ROWS}},
        "a split frame whose columns are text": split_of(FRAME, columns="x"),
        "a split frame with a column named by a list": split_of(
            FRAME, columns=[["open"], *COLUMNS[1:]]
        ),
        "a split frame with an index that is short": split_of(FRAME, index=[1, 2]),
        "a split frame with an index that is text": split_of(FRAME, index="x"),
        "a split frame with two columns": split_of(FRAME[["open", "low"]]),
        "a split frame with a column twice": split_of(capital),
        "a split frame with a row that is a number": {
            "dataframe_split": {"columns": list(COLUMNS), "data": [*ROWS, 3]}
        },
        "a split frame with a row that is short": {
            "dataframe_split": {"columns": list(COLUMNS), "data": [*ROWS, [1, 2]]}
        },
        "a split frame without rows": split_of(FRAME.iloc[:0]),
        "records that are an object": {"dataframe_records": FRAME.to_dict(orient="list")},
        "no records": {"dataframe_records": []},
        "a record that is a number": {"dataframe_records": [*records, 3]},
        "records without a field": {"dataframe_records": lacking},
        "records with other fields": {"dataframe_records": [{"a": 1}, {"b": 2}]},
        "no instances": {"instances": []},
        "instances that are a number": {"instances": 5},
        "instances that are null": {"instances": None},
        "instances of numbers": {"instances": [1.0] * BARS},
        "instances of two columns": {"instances": [[1, 2]] * BARS},
        "instances of four levels": {"instances": [BATCH]},
        "instances with a row that is short": {"instances": [*ROWS, [1]]},
        "instances with a row that is an object": {"instances": [*ROWS, {}]},
        "instances of windows of two lengths": {"instances": [BATCH[0], rows_of(31)]},
        "instances of a window that is a number": {"instances": [BATCH[0], 5]},
        "instances of a window without bars": {"instances": [[], []]},
        "instances of windows whose cell is text": {
            "instances": [BATCH[0], with_cell(4, "high", "x")]
        },
        "instances of windows whose price is negative": {
            "instances": [BATCH[0], with_cell(4, "low", -1.0)]
        },
        "instances of 29 windows and a short one": {"instances": [*[ROWS] * 29, rows_of(5)]},
        "inputs that are text": {"inputs": "x"},
        "inputs with bars that are a number": {"inputs": {"bars": 1}},
        "inputs with a column that is a number": {"inputs": {"open": 1}},
        "inputs with columns of two lengths": {"inputs": short},
        "inputs with times that are a number": {"inputs": {"bars": ROWS, "open_time": 1}},
        "inputs with times of one window in two": {
            "inputs": {"bars": BATCH[:2], "open_time": [ISO]}
        },
        "inputs with too few times": {"inputs": {"bars": ROWS, "open_time": ISO[:-1]}},
        "a bar too few": {"instances": rows_of(25)},
        "one bar": {"instances": rows_of(1)},
        "windows with a bar too few": {"instances": [rows_of(25)] * 2},
        "bars too many": {"instances": rows_of(20_001)},
        "records too many": {"dataframe_records": [records[0]] * 20_001},
        "columns too long": {"inputs": dict.fromkeys(COLUMNS, [1] * 20_001)},
        "windows too many": {"instances": [ROWS] * 513},
        "windows too many as text": {"instances": [with_cell(0, "open", "x")] * 513},
    }
    return {f"refused: {name}": invoke(document) for name, document in documents.items()}


def cell_refusals() -> Requests:
    """Every cell that is no price and no volume; bare literals are put into the text."""
    literals = {
        "NaN": "NaN",
        "infinity": "Infinity",
        "minus infinity": "-Infinity",
        "null": "null",
        "a number above the largest": "1e999",
        "text": '"1.5"',
        "long text": json.dumps("x" * 100),
        "empty text": '""',
        "a text that is no ASCII": '"\\u00e9\\ud800"',
        "true": "true",
        "a list": "[1]",
        "an object": "{}",
        "a whole number without end": "1" + "0" * 400,
        "zero": "0",
        "a negative price": "-1.5",
        "a price below the others": "1e-9",
    }
    forms: dict[str, object] = {
        "instances": {"instances": with_cell(3, "high", 987654321.25)},
        "a record": {
            "dataframe_records": [
                dict(zip(COLUMNS, row, strict=True)) for row in with_cell(3, "high", 987654321.25)
            ]
        },
    }
    requests = {
        f"refused: {name} as high of {form}": invoke(
            json.dumps(document).replace("987654321.25", literal).encode()
        )
        for form, document in forms.items()
        for name, literal in literals.items()
        if form == "instances" or name in ("NaN", "null", "true", "zero")
    }
    cells = {
        "a negative volume": ("volume", -1.0),
        "a low above the open": ("low", 103.5),
        "an open above the high": ("open", 200.0),
        "a close below the low": ("close", 50.0),
        "a low above the high": ("low", 500.0),
    }
    for name, (column, cell) in cells.items():
        requests[f"refused: {name}"] = invoke({"instances": with_cell(3, column, cell)})
    return requests


def body_refusals() -> Requests:
    """Bodies that cannot be decoded, and content types that are not known."""
    bodies = {
        "an empty body": b"",
        "text that is no JSON": b"this is,,,, not valid json",
        "JSON that ends too early": b'{"instances": [[1, 2',
        "bytes that are no UTF-8": b"\xff\xfe",
        "brackets without end": b"[" * 100_000,
        "digits without end": b"9" * 5000,
        "two documents": b"{} {}",
    }
    requests = {f"refused: {name}": invoke(body) for name, body in bodies.items()}
    types = {
        "an unknown content type": "not_a_supported_content_type",
        "HTML": "text/html",
        "an unknown parameter": "application/json; something=something",
        "another charset": "application/json; charset=latin-1",
        "an empty content type": "",
        "a semicolon": ";",
        "a long content type": "x" * 200,
    }
    for name, content_type in types.items():
        requests[f"refused: {name}"] = invoke({"instances": ROWS}, content_type)
    requests["refused: a body above the limit"] = invoke(b"x" * (2 * 1024**2 + 1))
    requests["refused: chunks above the limit"] = invoke(
        b"x" * (2 * 1024**2 + 10), chunks=(1024**2, 1024**2, 5)
    )
    requests["refused: a stated length above the limit"] = invoke(
        b"{}", headers={"content-length": "99999999"}
    )
    return requests


def times() -> Requests:
    """Times that are read, and times that are refused."""
    column: dict[str, list[Any]] = {
        "in seconds": [FIRST.timestamp() + 3600 * at for at in range(BARS)],
        "in microseconds": [FIRST.value // 1000 + 3_600_000_000 * at for at in range(BARS)],
        "in nanoseconds": [FIRST.value + 3_600_000_000_000 * at for at in range(BARS)],
        "with a space and a zone": [text.replace("T", " ") for text in ISO],
        "with a zone of Kolkata": [
            (FIRST + pd.Timedelta(hours=at)).tz_convert("Asia/Kolkata").isoformat()
            for at in range(BARS)
        ],
        "a moment after their minute": [f"{text[:13]}:00:00.001Z" for text in ISO],
        "with a gap at their begin": hours(0, *range(3, BARS + 2)),
    }
    wrong: dict[str, Any] = {
        "without a zone": ISO[0][:19],
        "that are a word": "tomorrow",
        "that are empty": "",
        "that are null": None,
        "that are true": True,
        "that are a list": [1],
        "of a thirteenth month": "2024-13-05T13:00:00Z",
        "of a day that is none": "2024-02-30T00:00:00Z",
        "of the year 1999": "1999-03-05T13:00:00Z",
        "of an ambiguous day": "03/04/2024 10:00Z",
        "of long text": "9" * 400,
        "of a number": 5,
    }
    column |= {f"{name}, in the last row": [*ISO[:-1], cell] for name, cell in wrong.items()}
    column |= {
        "of numbers of which one is none": [*[FIRST.timestamp()] * 29, 3.5],
        "of whole numbers without end": [*[FIRST.value] * 29, 10**30],
        "of numbers and NaN": [*[FIRST.timestamp()] * 29, float("nan")],
        "that occur twice": hours(*range(28), 27, 28),
        "that go back": hours(*range(28), 20, 29),
        "off the step": hours(*range(28), 28.5, 29.5),
        "of half the step": hours(*[at / 2 for at in range(BARS)]),
        "off the minute": hours(*range(29), 29 + 1 / 120),
        "decades apart": hours(*range(29), 90_000),
        "with a gap in the last sequence": hours(*range(29), 31),
    }
    requests = {
        f"times {name}": invoke({"inputs": {**FRAME.to_dict(orient="list"), "open_time": cells}})
        for name, cells in column.items()
    }
    stamped = [[*ISO[:-1], "x"], ISO]
    weekend = hours(*range(96 - 5, 96 - 5 + 2), *range(96 + 40, 96 + 68))
    requests |= {
        "times of windows of which one is wrong": invoke(
            {"inputs": {"bars": BATCH[:2], "open_time": stamped}}
        ),
        "times of windows as numbers of which one is wrong": invoke(
            {"instances": [[[5.0 if at == 2 else 1.7e9, *row] for at, row in enumerate(ROWS)]]}
        ),
        "times after many gaps": invoke(
            {
                "inputs": {
                    **pd.DataFrame(rows_of(60), columns=list(COLUMNS)).to_dict(orient="list"),
                    "open_time": hours(*range(0, 60, 2), *range(60, 90)),
                }
            }
        ),
        "times across the weekend of FX": invoke(
            split_of(FRAME, index=hours(*range(68, 94), *range(142, 146))), spec={"calendar": FX}
        ),
        "times beyond the calendar of FX": invoke(
            split_of(FRAME, index=[f"2190-{text[5:]}" for text in hours(*range(29), 31)]),
            spec={"calendar": FX},
        ),
        "times across a day of rest": invoke(split_of(FRAME, index=weekend)),
        "no times for a model that reads the clock": invoke({"instances": ROWS}, spec=CLOCK),
        "no times in records for a model that reads the clock": invoke(
            {"dataframe_records": FRAME.to_dict(orient="records")}, spec=CLOCK
        ),
        "no times in windows for a model that reads the clock": invoke(
            {"instances": BATCH}, spec=CLOCK
        ),
        "times for a model that reads the clock": invoke(split_of(timed(FRAME)), spec=CLOCK),
        "no columns for a model that reads the clock": invoke({"inputs": {"a": []}}, spec=CLOCK),
    }
    return requests


def tables() -> Requests:
    """CSV and Parquet."""
    header = b"open,high,low,close,volume\n"
    texts = {
        "CSV": FRAME.to_csv(index=False).encode(),
        "CSV with times": FRAME.to_csv().encode(),
        "CSV with a column more": FRAME.assign(note="a,b").to_csv(index=False).encode(),
        "CSV with empty lines": FRAME.to_csv(index=False).replace("\n", "\n\n").encode(),
        "refused: empty CSV": b"",
        "refused: CSV of one line": b"open,high\n",
        "refused: CSV without rows": header,
        "refused: CSV with an open quote": b'a,"b',
        "refused: CSV with a short row": header + b"1,1,1\n",
        "refused: CSV with an underscore": header + b"1,1,1,1_0,1\n" * BARS,
        "refused: CSV with an empty cell": header + b"1,1,1,1,\n" * BARS,
        "refused: CSV with nan": header + b"1,1,1,nan,1\n" * BARS,
        "refused: CSV with a column twice": b"open," + header + b"1,1,1,1,1,1\n" * BARS,
        "refused: CSV that is no UTF-8": b"\xff",
        "refused: CSV of too many rows": header + b"1,1,1,1,1\n" * 20_001,
        "refused: CSV of a negative price": header + b"1,1,-1,1,1\n" * BARS,
    }
    stamps = FRAME.index
    files = {
        "Parquet": parquet_of(FRAME),
        "Parquet with times as a column": parquet_of(FRAME.reset_index()),
        "Parquet without times": parquet_of(FRAME.reset_index(drop=True)),
        "Parquet of whole numbers": parquet_of(FRAME.round().astype("int64")),
        "Parquet of half precision": parquet_of(FRAME.astype("float32")),
        "Parquet with a column more": parquet_of(FRAME.assign(note="x")),
        "refused: bytes that are no Parquet": b"PAR1 and more",
        "refused: an empty Parquet file": b"",
        "refused: Parquet that is cut": parquet_of(FRAME)[:-50],
        "refused: Parquet of two columns": parquet_of(FRAME[["open", "high"]]),
        "refused: Parquet of text": parquet_of(FRAME.astype({"open": str})),
        "refused: Parquet with a null": parquet_of(FRAME.assign(low=[*FRAME["low"][:-1], None])),
        "refused: Parquet of true": parquet_of(FRAME.assign(volume=True)),
        "refused: Parquet of times without a zone": parquet_of(
            FRAME.set_axis(stamps.tz_localize(None))
        ),
        "refused: Parquet of too few rows": parquet_of(frame_of(5)),
        "refused: Parquet of too many rows": parquet_of(frame_of(20_001)),
    }
    damaged = bytearray(parquet_of(FRAME))
    damaged[20:400] = bytes(380)
    files["refused: Parquet that is damaged"] = bytes(damaged)
    return {name: invoke(text, CSV) for name, text in texts.items()} | {
        name: invoke(body, PARQUET) for name, body in files.items()
    }


def parquet_of(frame: pd.DataFrame) -> bytes:
    sink = io.BytesIO()
    frame.to_parquet(sink, compression=None)
    return sink.getvalue()

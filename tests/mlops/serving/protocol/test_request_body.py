"""Bodies are counted before they are decoded, and Parquet files by what they would unpack to."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlops.data.bars import COLUMNS
from mlops.errors import RequestRefused
from mlops.serving.protocol import request_bars, request_body
from mlops.serving.protocol.mlflow_scoring import CSV, JSON, PARQUET, parse
from mlops.serving.protocol.open_inference import parse_infer
from tests.mlops.serving.example_requests import CLOCKED, SPEC, frame_of, values_of
from tests.mlops.serving.protocol.test_cost import nested_levels

HEADER = b"open,high,low,close,volume\n"
ROWS = values_of(50).tolist()
ISO = [stamp.isoformat() for stamp in frame_of().index]


def refusal(body, content_type=JSON, spec=SPEC):
    with pytest.raises(RequestRefused) as caught:
        parse(body if isinstance(body, bytes) else json.dumps(body).encode(), content_type, spec)
    assert len(str(caught.value)) < 250
    return caught.value


def parquet_of(table, **options):
    sink = io.BytesIO()
    pq.write_table(pa.table(table), sink, **options)
    return sink.getvalue()


def columns_of(rows=5):
    return dict(zip(COLUMNS, values_of(rows).T, strict=True))


@pytest.mark.parametrize(
    ("body", "content_type", "message"),
    [
        (b'{"instances":[' + b"[]," * 300 + b"[]]}", JSON, "302 lists ([), at most 272 are read"),
        (b"{}" * 200, JSON, "200 objects ({), at most 164"),
        (b'{"instances":[' + b"1," * 9000 + b"1]}", JSON, "9,000 commas, at most 3,314"),
        (b'{"instances":[' + b'"",' * 3000 + b"1]}", JSON, "6,002 quotation marks, at most 2,064"),
        (HEADER + b"\n" * 200, CSV, "201 line ends, at most 164"),
        (HEADER + b"\r" * 200, CSV, "200 line ends, at most 164"),
        (b"," * 5000, CSV, "5,000 commas, at most 3,315"),
    ],
    ids=["lists", "objects", "commas", "texts", "lines", "carriage returns", "cells"],
)
def test_what_cannot_fit_is_refused_before_it_is_decoded(monkeypatch, body, content_type, message):
    monkeypatch.setattr(request_body.msgspec.json, "decode", None)
    monkeypatch.setattr(request_body.csv, "reader", None)

    refused = refusal(body, content_type)

    assert refused.status == 413
    assert str(refused).startswith(f"the body has {message}")
    assert "send at most 50 bars a window and 200 in all windows" in str(refused)


def test_a_request_of_open_inference_is_counted_too():
    with pytest.raises(RequestRefused, match=r"302 lists \(\[\), at most 272"):
        parse_infer(b'{"inputs":[' + b"[]," * 301 + b"]}", SPEC, "model")


@pytest.mark.parametrize(
    "document",
    [
        {"dataframe_records": [{"a": 1}] * 51},
        {"instances": [{"bars": None}] * 51},
        {"instances": ["x"] * 51},
        {"inputs": [[]] * 51},
        {"dataframe_split": {"columns": ["a"], "data": [None] * 51}},
        {"inputs": dict.fromkeys(COLUMNS, ["x"] * 51)},
    ],
    ids=["records", "named rows", "text", "rows", "frame", "columns"],
)
def test_rows_are_counted_before_anything_else_is_looked_at(document):
    refused = refusal(document)

    assert refused.status == 413
    assert str(refused) == "51 bars, at most 50; send the newest ones"


def test_the_bars_of_all_windows_are_counted_together(monkeypatch):
    monkeypatch.setattr(request_bars, "MAX_TOTAL_BARS", 120)

    refused = refusal({"instances": [[["x"]] * 50] * 3})

    assert refused.status == 413
    assert str(refused) == "150 bars in all windows, at most 120 a request; send fewer windows"


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (
            {"dataframe_records": [dict.fromkeys(map(str, range(65)), 1)]},
            "dataframe_records: a row",
        ),
        ({"inputs": {str(at): [1] for at in range(65)}}, "inputs"),
        ({"dataframe_split": {"columns": [*map(str, range(65))], "data": []}}, "the frame"),
        ({"instances": [{"bars": 1, **dict.fromkeys(map(str, range(64)))}]}, "instances: a row"),
    ],
)
def test_more_columns_than_a_frame_may_have_are_refused(document, message):
    refused = refusal(document)

    assert (refused.status, refused.code) == (400, "BAD_REQUEST")
    assert str(refused).startswith(f"{message} has 65 columns, at most 64 are read; send open,")


def test_a_frame_of_64_columns_is_read():
    extra = dict.fromkeys(map(str, range(58)), 1.0)
    records = [
        {**dict(zip(COLUMNS, row, strict=True)), "open_time": time, **extra}
        for row, time in zip(ROWS[:5], ISO, strict=True)
    ]

    (window,) = parse(json.dumps({"dataframe_records": records}).encode(), JSON, CLOCKED)

    assert window.values.tolist() == ROWS[:5]


def test_names_that_differ_in_space_are_one_column():
    records = [{" " * at + "open": 1.0} for at in range(5)]

    assert "column 'open' occurs twice" in str(refusal({"dataframe_records": records}))


@pytest.mark.parametrize("nested", ["[", '{"a":'])
def test_a_cell_of_many_levels_is_refused_by_name(nested):
    cell = nested * 300 + "1" + ("]" if nested == "[" else "}") * 300
    body = json.dumps({"inputs": {**dict.fromkeys(COLUMNS, [1.0] * 5), "open_time": "CELLS"}})

    spec = replace(SPEC, max_bars=1000)
    refused = refusal(body.replace('"CELLS"', f"[{cell},1,1,1,1]").encode(), spec=spec)

    assert str(refused).startswith("row 0, column 'open_time': ")


def test_a_long_text_is_no_time_and_is_not_read_by_an_expression():
    """It took 43 s: the time of the expression grew with the square of the spaces."""
    times = [*ISO[:4], ISO[4] + " " * 64_000 + "x"]
    body = {"inputs": {**dict.fromkeys(COLUMNS, [1.0] * 5), "open_time": times}}

    assert "row 4, column 'open_time': '2" in str(refusal(body))


def test_lines_of_csv_may_end_as_on_any_system():
    text = HEADER + b"".join(b"%r,%r,%r,%r,%r\n" % tuple(row) for row in ROWS)

    for end in (b"\n", b"\r\n", b"\r", b"\n\n"):
        (window,) = parse(b"\xef\xbb\xbf" + text.replace(b"\n", end), CSV, SPEC)
        assert window.values.tolist() == ROWS


# Parquet -----------------------------------------------------------------------------------------


def test_levels_that_would_end_the_process_are_no_parquet():
    """Arrow reads them by recursion: 160 KB ended the process."""
    assert "no Parquet file" in str(refusal(nested_levels(160_000).content, PARQUET))


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (["1.5"] * 5, "row 0, column 'open': text where a number belongs"),
        ([True] * 5, "row 0, column 'open': true or false where a number belongs"),
        ([None] * 5, "row 0, column 'open': null where a number belongs"),
        ([b"x"] * 5, "row 0, column 'open': binary where a number belongs"),
        ([[1.5]] * 5, "row 0, column 'open': list<element: double> where a number belongs"),
        ([{"a": 1}] * 5, "row 0, column 'open': struct<a: int64> where a number belongs"),
    ],
    ids=["text", "booleans", "nulls", "bytes", "lists", "structs"],
)
def test_prices_of_other_types_are_refused_without_being_read(monkeypatch, cells, message):
    body = parquet_of({**columns_of(), "open": pa.array(cells)})
    monkeypatch.setattr(pq.ParquetFile, "read", None)

    assert str(refusal(body, PARQUET)) == message


def test_times_of_other_types_are_refused_without_being_read(monkeypatch):
    body = parquet_of({**columns_of(), "open_time": [[1]] * 5})
    monkeypatch.setattr(pq.ParquetFile, "read", None)

    assert "column 'open_time': list<element: int64> where a time belongs" in str(
        refusal(body, PARQUET)
    )


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())]
)
@pytest.mark.parametrize("compression", ["none", "snappy", "zstd"])
def test_times_as_text_are_read_from_a_parquet_file(kind, compression):
    times = pa.array(ISO).cast(kind)

    for options in ({}, {"use_dictionary": False}, {"data_page_version": "2.0"}):
        body = parquet_of({**columns_of(), "open_time": times}, compression=compression, **options)
        (window,) = parse(body, PARQUET, CLOCKED)
        assert window.values.tolist() == ROWS[:5]
        assert window.open_time[0] == np.datetime64(ISO[0][:19])


def test_a_long_text_as_time_is_not_given_to_each_row():
    rows = pa.array(np.zeros(5, np.int32))
    text = pa.DictionaryArray.from_arrays(rows, pa.array(["2024" * 10_000]))

    refused = refusal(parquet_of({**columns_of(), "open_time": text}), PARQUET)

    assert "row 0, column 'open_time': '2024" in str(refused)


def test_text_in_an_encoding_that_repeats_itself_is_refused():
    """Each of its texts is a few bytes and the beginning of the text before."""
    texts = {"use_dictionary": False, "column_encoding": {"open_time": "DELTA_BYTE_ARRAY"}}
    body = parquet_of({**columns_of(), "open_time": ISO}, **texts)

    assert "damaged" in str(refusal(body, PARQUET))


def test_numbers_in_other_encodings_are_read():
    for encoding in ("BYTE_STREAM_SPLIT", "PLAIN"):
        body = parquet_of(columns_of(), use_dictionary=False, column_encoding=encoding)
        assert len(parse(body, PARQUET, SPEC)[0]) == 5


def varint(number):
    low = bytes([number & 127 | (128 if number > 127 else 0)])
    return low + varint(number >> 7) if number > 127 else low


def test_a_page_is_measured_by_its_own_header_not_by_the_description():
    """The header says a megabyte, the description says what was written."""
    cells = np.zeros(50 * 1100)
    spec = replace(SPEC, max_bars=len(cells), max_windows=1)
    body = parquet_of(
        dict.fromkeys(COLUMNS, cells),
        use_dictionary=False,
        compression="zstd",
        write_statistics=False,
    )
    size = pq.ParquetFile(io.BytesIO(body)).metadata.row_group(0).column(0).data_page_offset
    small = replace(spec, max_bars=50)
    start = body.index(b"\x15\x00\x15", size) + 3
    end = start + next(at for at, byte in enumerate(body[start:]) if byte < 128) + 1
    lie = varint((1 << 7 * (end - start)) - 2)
    assert len(lie) == end - start

    file = pq.ParquetFile(io.BytesIO(body[:start] + lie + body[end:]))

    wanted = {name: name for name in COLUMNS}
    with pytest.raises(RequestRefused, match="unpacks to more than 91,136 bytes"):
        request_body._measure_pages(body[:start] + lie + body[end:], file, wanted, small)


def test_rows_are_the_sum_of_row_groups_where_the_file_says_fewer():
    body = parquet_of(columns_of(60), row_group_size=30)
    few = body.replace(b"\x16" + varint(120), b"\x16" + varint(10), 1)
    assert pq.ParquetFile(io.BytesIO(few)).metadata.num_rows == 5

    assert str(refusal(few, PARQUET)) == "60 bars, at most 50; send the newest ones"


def test_a_description_that_is_too_long_is_not_read(monkeypatch):
    body = b"PAR1" + bytes(600_000) + (600_000).to_bytes(4, "little") + b"PAR1"
    monkeypatch.setattr(pq, "ParquetFile", None)

    refused = refusal(body, PARQUET)

    assert refused.status == 413
    assert str(refused).startswith("the Parquet file describes itself in 600,000 bytes, at most")


def test_more_pages_than_bars_need_are_refused(monkeypatch):
    monkeypatch.setattr(request_body, "_MOST_PAGES", 9)

    assert refusal(parquet_of(columns_of(), row_group_size=1), PARQUET).status == 413


@pytest.mark.parametrize("names", [["open", "OPEN"], ["open", " open "]])
def test_a_column_that_occurs_twice_is_refused(names):
    body = parquet_of({**columns_of(), names[1]: [1.0] * 5})

    assert "column 'open' occurs twice" in str(refusal(body, PARQUET))


def test_columns_that_are_no_bars_are_not_measured():
    body = parquet_of({**columns_of(), "note": ["x" * 10**6] * 5, "tags": [["a"]] * 5})

    assert len(parse(body, PARQUET, SPEC)[0]) == 5

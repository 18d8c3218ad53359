"""The scoring protocol in its every form, right and wrong."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops.data.bars import COLUMNS
from mlops.errors import ModelError, RequestRefused
from mlops.models.windows import window_of
from mlops.serving.protocol.mlflow_scoring import FORMS, error_body, parse, render
from tests.mlops.serving.example_requests import (
    CLOCKED,
    MIN_BARS,
    SPEC,
    batch_of,
    frame_of,
    values_of,
)

FRAME = frame_of()
VALUES = values_of()
ISO = [stamp.isoformat() for stamp in FRAME.index]
JSON, CSV, PARQUET = "application/json", "text/csv", "application/vnd.apache.parquet"


def body_of(document):
    return json.dumps(document).encode()


def split_of(frame, **more):
    split = {"columns": list(frame.columns), "data": frame.to_numpy().tolist()}
    return {"dataframe_split": {**split, **more}}


def timed(frame=FRAME):
    """The frame with ISO times as a column."""
    return frame.reset_index().assign(open_time=[stamp.isoformat() for stamp in frame.index])


def parquet_of(frame):
    sink = io.BytesIO()
    frame.to_parquet(sink)
    return sink.getvalue()


def refusal(body, content_type=JSON, spec=SPEC):
    with pytest.raises(RequestRefused) as caught:
        parse(body if isinstance(body, bytes) else body_of(body), content_type, spec)
    return caught.value


def plain(values):
    """The same bars in every form of JSON."""
    frame, rows = pd.DataFrame(values, columns=list(COLUMNS)), values.tolist()
    return {
        "instances": {"instances": rows},
        "inputs": {"inputs": rows},
        "split": split_of(frame),
        "split with row numbers": split_of(frame, index=list(range(len(rows)))),
        "split in another order": split_of(frame[list(COLUMNS)[::-1]]),
        "split with more columns": split_of(frame.assign(note="x")),
        "records": {"dataframe_records": frame.to_dict(orient="records")},
        "records as instances": {"instances": frame.to_dict(orient="records")},
        "records as inputs": {"inputs": frame.to_dict(orient="records")},
        "columns": {"inputs": frame.to_dict(orient="list")},
        "a named tensor": {"inputs": {"bars": rows}},
        "named tensors by row": {"instances": [{"bars": row} for row in rows]},
        "no params": {"instances": rows, "params": {}},
        "null params": {"instances": rows, "params": None},
        "other keys": {"instances": rows, "signature": [1, 2]},
    }


PLAIN = plain(VALUES)

TIMED = {
    "split": split_of(timed()),
    "index": split_of(FRAME, index=ISO),
    "index in ms": split_of(FRAME, index=[stamp.value // 10**6 for stamp in FRAME.index]),
    "records": {"dataframe_records": timed().to_dict(orient="records")},
    "columns": {"inputs": timed().to_dict(orient="list")},
    "instances": {"instances": timed().to_numpy().tolist()},
    "seconds": {
        "instances": [
            [stamp.timestamp(), *row]
            for stamp, row in zip(FRAME.index, VALUES.tolist(), strict=True)
        ]
    },
    "tensors": {"inputs": {"bars": VALUES.tolist(), "open_time": ISO}},
}


@pytest.mark.parametrize("form", PLAIN)
@pytest.mark.parametrize("content_type", [JSON, None, "application/json; charset=UTF-8"])
def test_every_form_of_json_gives_the_same_window(form, content_type):
    (window,) = parse(body_of(PLAIN[form]), content_type, SPEC)

    assert np.array_equal(window.values, VALUES)


@pytest.mark.parametrize("form", TIMED)
def test_every_form_may_carry_times(form):
    (window,) = parse(body_of(TIMED[form]), JSON, CLOCKED)

    expected = window_of(FRAME, CLOCKED.timeframe, CLOCKED.calendar)
    assert np.array_equal(window.values, expected.values)
    assert np.array_equal(window.open_time, expected.open_time)


def test_a_byte_order_mark_and_space_are_ignored():
    body = b"\xef\xbb\xbf \n" + json.dumps(PLAIN["split"], indent=3).encode()

    assert len(parse(body, JSON, SPEC)) == 1


@pytest.mark.parametrize("frame", [timed(), FRAME], ids=["column", "index"])
def test_csv_and_parquet_are_read(frame):
    expected = window_of(FRAME, CLOCKED.timeframe, CLOCKED.calendar)
    bodies = {CSV: frame.to_csv(index="open_time" not in frame).encode()}
    bodies[PARQUET] = parquet_of(frame)

    for content_type, body in bodies.items():
        (window,) = parse(body, content_type, CLOCKED)
        assert np.array_equal(window.values, expected.values)
        assert np.array_equal(window.open_time, expected.open_time)


@pytest.mark.parametrize("name", ["instances", "inputs"])
def test_rows_of_rows_of_rows_are_a_batch(name):
    batch = batch_of(3, MIN_BARS + 2)

    windows = parse(body_of({name: batch.tolist()}), JSON, SPEC)

    assert np.array_equal([window.values for window in windows], batch)


def test_a_batch_may_carry_times_as_its_first_column():
    stamps = [[stamp.value / 1e9] for stamp in FRAME.index]
    batch = np.stack([np.hstack([stamps, values]) for values in batch_of(2)])
    texts = [[[ISO[at], *row] for at, row in enumerate(rows)] for rows in batch_of(2).tolist()]

    for rows in (batch.tolist(), texts):
        windows = parse(body_of({"instances": rows}), JSON, CLOCKED)
        assert len(windows) == 2
        for window in windows:
            assert np.array_equal(window.open_time.view(np.int64), FRAME.index.as_unit("ns").asi8)


def test_more_bars_than_needed_are_one_window():
    (window,) = parse(body_of({"instances": values_of(20).tolist()}), JSON, SPEC)

    assert len(window) == 20


NO_JSON = [b"", b"this is,,,, not valid json", b"{", b"\xff\xfe", b"[" * 100_000, b"9" * 5000]
NO_FORM = [1, "1", [1], None, True, {}, {"not": "a frame"}]


@pytest.mark.parametrize("body", NO_JSON, ids=range(len(NO_JSON)))
def test_what_is_no_json_is_a_bad_request(body):
    refused = refusal(body, spec=replace(SPEC, max_bars=20_000, max_windows=512))

    assert (refused.status, refused.code) == (400, "BAD_REQUEST")
    assert len(str(refused)) < 200


@pytest.mark.parametrize("document", NO_FORM, ids=str)
def test_exactly_one_form_must_be_there(document):
    refused = refusal(document)

    assert (refused.status, refused.code) == (400, "BAD_REQUEST")
    assert "exactly one of dataframe_split" in str(refused)


@pytest.mark.parametrize("second", FORMS[1:])
def test_two_forms_in_one_body_are_refused(second):
    assert "exactly one" in str(refusal({**PLAIN["split"], second: VALUES.tolist()}))
    assert "exactly one" in str(refusal({**PLAIN["split"], second: None}))


@pytest.mark.parametrize(
    ("document", "code", "message"),
    [
        ({"dataframe_split": []}, "BAD_REQUEST", "dataframe_split is a list"),
        ({"dataframe_split": {"columns": list(COLUMNS)}}, "BAD_REQUEST", "dataframe_split has"),
        (split_of(FRAME, dtype="f8"), "BAD_REQUEST", "'dtype'"),
        (split_of(FRAME, index=[1, 2]), "BAD_REQUEST", "2 entries for 5 rows"),
        (split_of(FRAME[["open", "low"]]), "INVALID_PARAMETER_VALUE", "high, close, volume"),
        ({"dataframe_split": {"data": VALUES.tolist()}}, "INVALID_PARAMETER_VALUE", "missing"),
        ({"dataframe_records": FRAME.to_dict("list")}, "BAD_REQUEST", "is an object; send a list"),
        ({"dataframe_records": []}, "INVALID_PARAMETER_VALUE", "missing column"),
        ({"dataframe_records": [{}, 3]}, "BAD_REQUEST", "row 1 is a number"),
        ({"instances": []}, "INVALID_PARAMETER_VALUE", "no bars"),
        ({"instances": 5}, "BAD_REQUEST", "instances is a number; send a list"),
        ({"instances": [[1, 2]] * 5}, "INVALID_PARAMETER_VALUE", "row 0 has 2 cells"),
        ({"instances": [*VALUES.tolist(), [1]]}, "INVALID_PARAMETER_VALUE", "row 5 has 1 cells"),
        ({"instances": [[[1] * 5] * 5, [[1] * 5] * 6]}, "BAD_REQUEST", "window 1, 6 bars"),
        ({"inputs": {"bars": 1}}, "BAD_REQUEST", "bars is a number"),
        ({"inputs": {"open": 1}}, "BAD_REQUEST", "open is a number"),
        ({**PLAIN["split"], "params": {"x": 1}}, "INVALID_PARAMETER_VALUE", "takes none"),
        ({**PLAIN["split"], "params": [1]}, "BAD_REQUEST", "params is a list"),
    ],
)  # fmt: skip
def test_a_malformed_frame_is_refused(document, code, message):
    refused = refusal(document)

    assert (refused.status, refused.code) == (400, code)
    assert message in str(refused)


@pytest.mark.parametrize(
    "content_type",
    ["not_a_supported_content_type", "application/json; something=something", "text/html",
     "application/json; charset=latin-1", "", ";"],
)  # fmt: skip
def test_other_content_types_are_415(content_type):
    assert refusal(PLAIN["split"], content_type).status == 415


@pytest.mark.parametrize(
    "literal", ["NaN", "Infinity", "-Infinity", "null", "1e999", '"1.5"', "true"]
)
@pytest.mark.parametrize("form", PLAIN)
@settings(deadline=None, max_examples=10)
@given(row=st.integers(0, MIN_BARS - 1), column=st.sampled_from(COLUMNS))
def test_what_is_no_number_is_named_in_every_form(literal, form, row, column):
    values = values_of()
    values[row, COLUMNS.index(column)] = 987654321.25
    text = json.dumps(plain(values)[form])

    refused = refusal(text.replace("987654321.25", literal).encode())

    assert refused.status == 400
    assert f"row {row}, column {column!r}" in str(refused)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "empty"), (b"open,high\n", "missing columns low"), (b'a,"b', "no CSV"),
        (b"open,high,low,close,volume\n1,1,1\n", "row 0 has 3 cells"),
        (b"open,high,low,close,volume\n" + b"1,1,1,1_0,1\n" * 5, "row 0, column 'close': text"),
        (b"open,high,low,close,volume\n" + b"1,1,1,1,\n" * 5, "row 0, column 'volume': no number"),
        (b"open,high,low,close,volume\n" + b"1,1,1,nan,1\n" * 5, "row 0, column 'close': nan"),
        (b"open,open,high,low,close,volume\n" + b"1,1,1,1,1,1\n" * 5, "'open' occurs twice"),
        (b"\xff", "not UTF-8"),
    ],
)  # fmt: skip
def test_a_wrong_csv_is_refused(text, message):
    assert message in str(refusal(text, CSV))


def test_a_parquet_file_of_too_many_rows_is_refused_unread():
    refused = refusal(parquet_of(frame_of(60)), PARQUET)

    assert refused.status == 413
    assert "60 bars" in str(refused)


def test_naive_stamps_of_a_parquet_file_are_refused():
    body = parquet_of(FRAME.tz_localize(None))

    assert "row 0, column 'open_time'" in str(refusal(body, PARQUET))


def test_the_reply_leaves_out_bars_without_a_forecast():
    reply = render([np.array([np.nan, 0.25, 0.5]), np.array([1e-300])])

    assert json.loads(reply) == {
        "predictions": [{"forecast": 0.25}, {"forecast": 0.5}, {"forecast": 1e-300}]
    }


def test_a_window_without_any_forecast_is_refused():
    with pytest.raises(RequestRefused, match="window 1: no bar has enough history"):
        render([np.array([1.0]), np.array([np.nan])])


@pytest.mark.parametrize("infinite", [math.inf, -math.inf])
def test_an_infinite_forecast_is_no_reply(infinite):
    with pytest.raises(ModelError, match="infinite"):
        render([np.array([1.0, infinite])])


@settings(deadline=None)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1))
def test_forecasts_arrive_to_the_last_bit(forecasts):
    predictions = json.loads(render([np.array(forecasts)]))["predictions"]

    assert [record["forecast"] for record in predictions] == forecasts


def test_errors_have_the_shape_that_clients_read():
    body = json.loads(error_body(400, "BAD_REQUEST", "no \ud800", "r-1"))

    assert body == {"error_code": "BAD_REQUEST", "message": "no \ud800", "request_id": "r-1"}
    assert error_body(415, "BAD_REQUEST", "no such type", "r-1") == b"no such type"


prices = st.floats(1e-3, 1e9)


@st.composite
def bar_rows(draw):
    """Any bars that are bars."""
    rows = []
    for _ in range(draw(st.integers(MIN_BARS, 12))):
        four = sorted(draw(st.tuples(prices, prices, prices, prices)))
        middle = [four[1], four[2]] if draw(st.booleans()) else [four[2], four[1]]
        rows.append([middle[0], four[3], four[0], middle[1], draw(st.floats(0, 1e12))])
    return rows


@settings(deadline=None)
@given(rows=bar_rows(), form=st.sampled_from(["instances", "split", "records", "csv"]))
def test_whatever_bars_are_sent_arrive_to_the_last_bit(rows, form):
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    documents = {
        "instances": {"instances": rows},
        "split": split_of(frame),
        "records": {"dataframe_records": frame.to_dict("records")},
    }
    if form == "csv":
        (window,) = parse(frame.to_csv(index=False).encode(), CSV, SPEC)
    else:
        (window,) = parse(body_of(documents[form]), JSON, SPEC)

    assert window.values.tolist() == rows


leaves = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8),
    st.sampled_from([*COLUMNS, "open_time", "bars", *FORMS, "columns", "data", "index"]),
)  # fmt: skip
trees = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=6)
        | st.dictionaries(
            st.sampled_from([*COLUMNS, "open_time", "bars", "columns", "data", "index"]), inner
        )
    ),
    max_leaves=30,
)


def only_refuses(body, content_type, spec):
    try:
        parse(body, content_type, spec)
    except RequestRefused as caught:
        refused = caught
    else:
        return
    assert refused.status in (400, 413, 415)
    assert len(str(refused)) < 500
    assert error_body(refused.status, refused.code, str(refused), "r")


@settings(deadline=None)
@given(form=st.sampled_from(FORMS), tree=trees, clock=st.booleans())
def test_no_tree_raises_anything_but_a_refusal(form, tree, clock):
    only_refuses(body_of({form: tree}), JSON, replace(SPEC, min_bars=1, needs_clock=clock))


@settings(deadline=None)
@given(body=st.binary(max_size=200), content_type=st.sampled_from([JSON, CSV, PARQUET]))
def test_no_bytes_raise_anything_but_a_refusal(body, content_type):
    only_refuses(body, content_type, SPEC)


@settings(deadline=None)
@given(content_type=st.text(max_size=30))
def test_no_content_type_raises_anything_but_a_refusal(content_type):
    only_refuses(body_of(PLAIN["instances"]), content_type, SPEC)


VALID = {
    JSON: [body_of(PLAIN[form]) for form in ("instances", "split", "records", "columns")]
    + [body_of(TIMED["split"])],
    CSV: [timed().to_csv(index=False).encode()],
    PARQUET: [parquet_of(FRAME)],
}


@pytest.mark.parametrize("content_type", VALID)
@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_no_damaged_body_raises_anything_but_a_refusal(content_type, data):
    body = bytearray(data.draw(st.sampled_from(VALID[content_type])))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(body) - 1))
        body[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))

    only_refuses(bytes(body), content_type, CLOCKED)

"""The Open Inference Protocol, as its specification and a client of another house speak it."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops.data.bars import COLUMNS
from mlops.errors import RequestRefused
from mlops.serving.protocol import open_inference
from mlops.serving.protocol.open_inference import (
    error_body,
    model_metadata,
    parse_infer,
    render_infer,
    server_metadata,
)
from tests.mlops.serving.example_requests import (
    CLOCKED,
    MIN_BARS,
    SPEC,
    batch_of,
    frame_of,
    values_of,
)

NAME = "binance.btc-usdt.1h.volatility.24"
VALUES, BATCH = values_of(), batch_of(3, MIN_BARS + 1)
OPENS = frame_of().index.as_unit("ns").asi8


def bars(data, shape=None, datatype="FP64", **more):
    array = np.asarray(data)
    return {
        "name": "bars",
        "shape": list(array.shape if shape is None else shape),
        "datatype": datatype,
        "data": array.ravel().tolist() if shape is None else data,
        **more,
    }


def times(opens=OPENS, **more):
    opens = np.asarray(opens)
    return {
        "name": "open_time",
        "shape": list(opens.shape),
        "datatype": "INT64",
        "data": opens.ravel().tolist(),
        **more,
    }


def asked(*inputs, spec=SPEC, header_length=None, **more):
    body = json.dumps({"inputs": list(inputs), **more}).encode()
    return parse_infer(body, spec, NAME, header_length=header_length)


def refusal(*inputs, **more):
    with pytest.raises(RequestRefused) as caught:
        asked(*inputs, **more)
    return caught.value


def replied(infer, forecasts):
    body = render_infer(
        infer, forecasts, model_name=NAME, model_version="m-1", parameters={"variant": "champion"}
    )
    return json.loads(body)


@pytest.mark.parametrize("datatype", ["FP64", "FP32"])
def test_one_symbol_is_one_window(datatype):
    (window,) = asked(bars(VALUES, datatype=datatype)).windows

    assert np.array_equal(window.values, VALUES)


def test_flat_and_nested_data_are_the_same():
    flat = asked(bars(BATCH)).windows
    nested = asked(bars(BATCH.tolist(), BATCH.shape)).windows

    for one, other, values in zip(flat, nested, BATCH, strict=True):
        assert np.array_equal(one.values, values)
        assert np.array_equal(other.values, one.values)


def test_times_come_beside_the_bars():
    (window,) = asked(times(), bars(VALUES), spec=CLOCKED).windows

    assert np.array_equal(window.open_time.view(np.int64), OPENS)


def test_times_of_a_batch_have_its_shape():
    values = np.stack([VALUES, VALUES])
    windows = asked(bars(values), times(np.stack([OPENS, OPENS])), spec=CLOCKED).windows

    assert [window.open_time[0] for window in windows] == [OPENS.view("datetime64[ns]")[0]] * 2


@pytest.mark.parametrize("scale", [1, 10**9])
def test_times_may_be_the_first_of_six_columns(scale):
    stamped = np.column_stack([OPENS // scale, VALUES])

    (window,) = asked(bars(stamped), spec=CLOCKED).windows

    assert np.array_equal(window.open_time.view(np.int64), OPENS)
    assert np.array_equal(window.values, VALUES)


def test_a_model_that_reads_the_clock_asks_for_times():
    assert "send open_time" in str(refusal(bars(VALUES), spec=CLOCKED))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([], "input bars is missing"),
        ([bars(VALUES), bars(VALUES)], "input bars occurs twice"),
        ([bars(VALUES), {**times(), "name": "clock"}], "there is no input 'clock'"),
        ([times()], "input bars is missing"),
        ([bars(VALUES[:, :4])], "has shape [5, 4]"),
        ([bars(VALUES[0])], "has shape [5]"),
        ([bars(BATCH[None])], "has shape [1, 3, 6, 5]"),
        ([bars(VALUES.tolist(), [5, 6])], "not nested as its shape"),
        ([bars(VALUES.ravel().tolist(), [6, 5])], "has 25 numbers, but its shape [6, 5] has 30"),
        ([bars([], [-5, -5])], "has shape [-5, -5]"),
        ([bars(VALUES, datatype="INT64")], "datatype 'INT64'; send FP64 or FP32"),
        ([bars(VALUES, datatype="BYTES")], "datatype 'BYTES'"),
        ([bars(VALUES), times(datatype="FP64")], "datatype 'FP64'; send INT64"),
        ([bars(VALUES), times(OPENS[:4])], "input open_time has shape [4]"),
        ([bars(np.column_stack([OPENS, VALUES])), times()], "times come twice"),
        ([bars(VALUES), times(data=[2**63, 0, 0, 0, 0])], "row 0: more than an INT64 holds"),
        ([bars(VALUES), times(data=[1.7e9] * 5)], "row 0: 1700000000.0 where a whole number"),
        ([bars([*VALUES.ravel()[:7].tolist(), None], [5, 5])], "row 1, column 'low': null"),
        ([bars({}, [5, 5])], "its data is no list"),
        ([{"name": "bars", "shape": [5, 5], "datatype": "FP64"}], "has no data"),
        ([bars(VALUES[:4])], "got 4 bars, a forecast needs 5"),
        ([bars([], [0, 5])], "no bars"),
        ([bars([], [0, 5, 5])], "no window"),
        ([{"name": 5}], "not as the protocol has it"),
    ],
)  # fmt: skip
def test_a_request_against_the_protocol_is_refused(inputs, message):
    refused = refusal(*inputs)

    assert refused.status == 400
    assert message in str(refused)


@pytest.mark.parametrize(
    ("shape", "message"),
    [([5, 5, 5], "5 windows, at most 4"), ([51, 5], "51 bars, at most 50"),
     ([10**15, 10**15, 5], "windows, at most 4"), ([2, 10**15, 5], "bars, at most 50")],
)  # fmt: skip
def test_too_much_is_a_413_before_a_number_is_read(shape, message):
    refused = refusal(bars(["not read"], shape))

    assert refused.status == 413
    assert message in str(refused)


@pytest.mark.parametrize(
    "literal", ["NaN", "Infinity", "-Infinity", "null", "1e999", '"1"', "true"]
)
@pytest.mark.parametrize("nested", [True, False])
@settings(deadline=None, max_examples=15)
@given(window=st.integers(0, 2), row=st.integers(0, MIN_BARS), column=st.sampled_from(COLUMNS))
def test_what_is_no_number_is_named(literal, nested, window, row, column):
    batch = BATCH.copy()
    batch[window, row, COLUMNS.index(column)] = 987654321.25
    given_bars = bars(batch.tolist(), batch.shape) if nested else bars(batch)
    text = json.dumps({"inputs": [given_bars]}).replace("987654321.25", literal)

    with pytest.raises(RequestRefused) as caught:
        parse_infer(text.encode(), SPEC, NAME)

    assert caught.value.status == 400
    assert f"window {window}, row {row}, column {column!r}" in str(caught.value)


def test_the_reply_repeats_id_and_names_what_answered():
    reply = replied(asked(bars(VALUES), id="r-7"), [np.array([np.nan, 0.25])])

    assert reply == {
        "model_name": NAME,
        "model_version": "m-1",
        "id": "r-7",
        "parameters": {"variant": "champion"},
        "outputs": [{"name": "forecast", "shape": [1], "datatype": "FP64", "data": [0.25]}],
    }


def test_a_reply_to_a_request_without_id_has_none():
    assert "id" not in replied(asked(bars(VALUES)), [np.array([0.25])])


def test_a_batch_is_answered_in_its_order():
    reply = replied(asked(bars(BATCH)), [np.array([3.0]), np.array([1.0]), np.array([2.0])])

    assert reply["outputs"][0]["shape"] == [3]
    assert reply["outputs"][0]["data"] == [3.0, 1.0, 2.0]


@pytest.mark.parametrize("outputs", [None, [], [{"name": "forecast"}]])
def test_the_outputs_asked_for_are_sent(outputs):
    reply = replied(asked(bars(VALUES), outputs=outputs), [np.array([1.0])])

    assert [output["name"] for output in reply["outputs"]] == ["forecast"]


def test_an_output_that_is_not_there_is_refused():
    assert "has no output 'variance'" in str(refusal(bars(VALUES), outputs=[{"name": "variance"}]))


def test_unknown_parameters_are_ignored():
    given_bars = bars(VALUES, parameters=None)

    assert asked(given_bars, parameters={"priority": 3}, extra=1).windows


def test_shared_memory_is_not_implemented():
    given_bars = bars(VALUES, parameters={"shared_memory_region": "a"})

    assert refusal(given_bars).status == 501


def test_metadata_tells_what_to_send():
    metadata = json.loads(model_metadata(NAME, ["m-1", "m-2"], CLOCKED))

    assert metadata["name"] == NAME
    assert metadata["versions"] == ["m-1", "m-2"]
    assert {"name": "bars", "datatype": "FP64", "shape": [-1, -1, 5]} in metadata["inputs"]
    assert {"name": "open_time", "datatype": "INT64", "shape": [-1, -1]} in metadata["inputs"]
    assert metadata["outputs"] == [{"name": "forecast", "datatype": "FP64", "shape": [-1]}]
    assert len(json.loads(model_metadata(NAME, [], SPEC))["inputs"]) == 1


def test_the_server_tells_its_name_and_release():
    metadata = json.loads(server_metadata())

    assert metadata["name"] == "trading-mlops"
    assert set(metadata) == {"name", "version", "extensions"}


def test_an_error_is_one_text():
    assert json.loads(error_body("no \ud800")) == {"error": "no \ud800"}


# A client of another house -----------------------------------------------------------------------


def triton_body(binary, *, values=VALUES, opens=None, datatype="FP64", outputs=None):
    """A body as NVIDIA's client builds it, and its header."""
    from tritonclient.http import InferenceServerClient, InferInput

    kinds = {"FP64": np.float64, "FP32": np.float32}
    tensors = [("bars", values.astype(kinds[datatype]), datatype)]
    if opens is not None:
        tensors.append(("open_time", opens, "INT64"))
    inputs = []
    for name, array, kind in tensors:
        tensor = InferInput(name, list(array.shape), kind)
        tensor.set_data_from_numpy(array, binary_data=binary)
        inputs.append(tensor)
    body, length = InferenceServerClient.generate_request_body(
        inputs, outputs=outputs, request_id="t-1"
    )
    return body, None if length is None else str(length)


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("datatype", ["FP64", "FP32"])
def test_requests_of_tritons_client_are_read(binary, datatype):
    body, length = triton_body(binary, values=BATCH, datatype=datatype)

    infer = parse_infer(body, SPEC, NAME, header_length=length)

    assert infer.id == "t-1"
    sent = BATCH if datatype == "FP64" else BATCH.astype(np.float32).astype(np.float64)
    for window, values in zip(infer.windows, sent, strict=True):
        assert np.array_equal(window.values, values)


@pytest.mark.parametrize("binary", [False, True])
def test_times_of_tritons_client_are_read(binary):
    body, length = triton_body(binary, opens=OPENS)

    (window,) = parse_infer(body, CLOCKED, NAME, header_length=length).windows

    assert np.array_equal(window.open_time.view(np.int64), OPENS)


def test_tritons_client_reads_the_reply():
    from tritonclient.http import InferenceServerClient, InferRequestedOutput

    body, _ = triton_body(False, outputs=[InferRequestedOutput("forecast", binary_data=False)])
    reply = render_infer(
        parse_infer(body, SPEC, NAME),
        [np.array([0.25])],
        model_name=NAME,
        model_version="m-1",
        parameters={},
    )

    result = InferenceServerClient.parse_response_body(reply)

    assert result.as_numpy("forecast").tolist() == [0.25]
    assert result.get_response()["id"] == "t-1"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda body, length: (body, None), "no JSON"),
        (lambda body, length: (body, "x"), "no number of bytes"),
        (lambda body, length: (body, "99999"), "but the body has"),
        (lambda body, length: (body[:-1], length), "but 199 bytes follow"),
        (lambda body, length: (body + b"1", length), "1 bytes follow that belong to no input"),
        (
            lambda body, length: (
                body.replace(b'"binary_data_size":200', b'"binary_data_size": -1'),
                length,
            ),
            "no number of bytes",
        ),
        (
            lambda body, length: (
                body.replace(b'"binary_data_size":200', b'"binary_data_size":199')[:-1],
                length,
            ),
            "no whole FP64",
        ),
    ],
)
def test_bytes_that_do_not_add_up_are_refused(change, message):
    body, length = change(*triton_body(True))

    with pytest.raises(RequestRefused, match=message):
        parse_infer(body, SPEC, NAME, header_length=length)


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -1.0])
def test_a_wrong_number_among_bytes_is_named(wrong):
    values = VALUES.copy()
    values[3, 4] = wrong
    body, length = triton_body(True, values=values)

    with pytest.raises(RequestRefused, match="row 3, column 'volume'"):
        parse_infer(body, SPEC, NAME, header_length=length)


# Anything at all ---------------------------------------------------------------------------------

leaves = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5),
    st.sampled_from(["bars", "open_time", "FP64", "INT64", "forecast", *COLUMNS]),
)  # fmt: skip
trees = st.recursive(leaves, lambda inner: st.lists(inner, max_size=5), max_leaves=25)
tensors = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["bars", "open_time"]),
        "shape": st.one_of(st.lists(st.integers(-1, 6), max_size=4), st.just([1, 5]), trees),
        "datatype": st.sampled_from(["FP64", "FP32", "INT64"]),
    },
    optional={
        "data": trees,
        "parameters": st.dictionaries(st.sampled_from(["binary_data_size", "x"]), leaves),
    },
)


@settings(deadline=None, max_examples=300)
@given(
    inputs=st.lists(tensors, max_size=3) | trees,
    more=st.dictionaries(st.sampled_from(["id", "outputs", "parameters"]), trees),
    tail=st.binary(max_size=20),
    header=st.none() | st.text(max_size=4) | st.just("all"),
)
def test_no_request_raises_anything_but_a_refusal(inputs, more, tail, header):
    body = json.dumps({"inputs": inputs, **more}).encode()
    header = str(len(body)) if header == "all" else header

    with suppress(RequestRefused):
        parse_infer(body + tail, replace(SPEC, min_bars=1), NAME, header_length=header)


@settings(deadline=None, max_examples=300)
@given(data=st.data(), binary=st.booleans())
def test_no_damaged_request_raises_anything_but_a_refusal(data, binary):
    body, length = triton_body(binary, opens=OPENS)
    damaged = bytearray(body)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        damaged[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))

    with suppress(RequestRefused):
        parse_infer(bytes(damaged), CLOCKED, NAME, header_length=length)


@settings(deadline=None)
@given(st.binary(max_size=100))
def test_no_bytes_raise_anything_but_a_refusal(body):
    with suppress(RequestRefused):
        parse_infer(body, SPEC, NAME)


@settings(deadline=None)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1))
def test_forecasts_arrive_to_the_last_bit(forecasts):
    reply = replied(open_inference.InferRequest(None, [], ("forecast",)), [np.array(forecasts)])

    assert reply["outputs"][0]["data"] == forecasts
    assert msgspec.json.encode(reply)

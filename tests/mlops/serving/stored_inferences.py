"""Requests of the Open Inference protocol: right ones, and each refusal."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np

from .stored_requests import (
    BARS,
    BATCH,
    CLOCK,
    FRAME,
    INFER,
    JSON,
    ROWS,
    Requests,
    StoredRequest,
    infer,
    rows_of,
    tensor,
    with_cell,
)


def binary(*arrays: tuple[str, np.ndarray, str], change: Any = None, tail: bytes = b"") -> Any:
    """A request whose tensors follow the JSON as bytes; ``change`` edits the document."""
    inputs = [
        {
            "name": name,
            "shape": list(array.shape),
            "datatype": datatype,
            "parameters": {"binary_data_size": array.nbytes},
        }
        for name, array, datatype in arrays
    ]
    document = {"inputs": inputs}
    if change is not None:
        change(document)
    head = json.dumps(document).encode()
    body = head + b"".join(array.tobytes() for _, array, _ in arrays) + tail
    length = {"inference-header-content-length": str(len(head))}
    return StoredRequest("POST", INFER, body, "application/octet-stream", length)


def opens() -> list[int]:
    return [stamp.value for stamp in FRAME.index]


def inferences() -> Requests:
    """Every form of the Open Inference protocol that is answered."""
    values, batch = np.array(ROWS), np.array(BATCH)
    stamped = np.column_stack([np.array(opens()) // 10**9, values])
    moments = tensor(opens(), "INT64", name="open_time")
    body = infer(tensor(ROWS), id="r-7")
    return {
        "v2: flat bars": infer(tensor(ROWS)),
        "v2: flat windows": infer(tensor(BATCH)),
        "v2: nested bars": infer(tensor(ROWS, shape=[BARS, 5])),
        "v2: nested windows": infer(tensor(BATCH, shape=[3, BARS, 5])),
        "v2: bars of FP32": infer(tensor(ROWS, "FP32")),
        "v2: bars with times": infer(tensor(ROWS), moments),
        "v2: times before the bars": infer(moments, tensor(ROWS)),
        "v2: windows with times": infer(
            tensor(BATCH), tensor([opens()] * 3, "INT64", name="open_time")
        ),
        "v2: six columns": infer(tensor(stamped)),
        "v2: an id": body,
        "v2: an output": infer(tensor(ROWS), outputs=[{"name": "forecast"}]),
        "v2: an output twice": infer(tensor(ROWS), outputs=[{"name": "forecast"}] * 2),
        "v2: parameters that are not known": infer(tensor(ROWS, parameters=None), extra=1),
        "v2: a version in the path": replace(
            body, path="/v2/models/{service}/versions/{baseline}/infer"
        ),
        "v2: a version by its header": replace(body, headers={"x-model-version": "{baseline}"}),
        "v2: bytes of FP64": binary(("bars", values, "FP64")),
        "v2: bytes of FP32": binary(("bars", batch.astype(np.float32), "FP32")),
        "v2: bytes with times": binary(
            ("bars", values, "FP64"), ("open_time", np.array(opens()), "INT64")
        ),
        "v2: bytes with times before": binary(
            ("open_time", np.array(opens()), "INT64"), ("bars", values, "FP64")
        ),
    }


def inference_refusals() -> Requests:
    """Every way in which a request of the Open Inference protocol is wrong."""
    bars, moments = tensor(ROWS), tensor(opens(), "INT64", name="open_time")
    inputs: dict[str, list[Any]] = {
        "no input": [],
        "bars twice": [bars, bars],
        "an unknown input": [bars, {**moments, "name": "clock"}],
        "times alone": [moments],
        "four columns": [tensor([row[:4] for row in ROWS])],
        "one level": [tensor(ROWS[0])],
        "four levels": [tensor([BATCH])],
        "nested data of another shape": [tensor(ROWS, shape=[BARS, 6])],
        "numbers that do not fill the shape": [tensor([1.0] * 25, shape=[BARS, 5])],
        "a negative length": [tensor([], shape=[-5, -5, 5])],
        "a shape that is text": [tensor([], shape="x")],
        "bars of INT64": [tensor(ROWS, "INT64")],
        "bars of BYTES": [tensor(ROWS, "BYTES")],
        "times of FP64": [bars, tensor(opens(), "FP64", name="open_time")],
        "times of another shape": [bars, tensor(opens()[:4], "INT64", name="open_time")],
        "times twice": [tensor([[1.7e9, *row] for row in ROWS]), moments],
        "a time above INT64": [
            bars, tensor([2**63, *opens()[1:]], "INT64", name="open_time", shape=[BARS])
        ],
        "a time with a fraction": [
            bars, tensor([1.5, *opens()[1:]], "INT64", name="open_time", shape=[BARS])
        ],
        "a time of the year 1999": [bars, tensor([1] * BARS, "INT64", name="open_time")],
        "null in flat data": [tensor([1.0, None], shape=[BARS, 5])],
        "text in nested data": [tensor(with_cell(2, "low", "x"), shape=[BARS, 5])],
        "data that is an object": [tensor({}, shape=[BARS, 5])],
        "no data": [{"name": "bars", "shape": [BARS, 5], "datatype": "FP64"}],
        "a name that is a number": [{"name": 5}],
        "shared memory": [tensor(ROWS, parameters={"shared_memory_region": "a"})],
        "a size without bytes": [tensor(ROWS, parameters={"binary_data_size": 8})],
        "a size that is text": [tensor(ROWS, parameters={"binary_data_size": "8"})],
        "too few bars": [tensor(rows_of(4))],
        "no bars": [tensor([], shape=[0, 5])],
        "no windows": [tensor([], shape=[0, 5, 5])],
        "too many windows": [tensor([], shape=[513, BARS, 5])],
        "too many bars": [tensor([], shape=[20_001, 5])],
        "a negative price": [tensor(with_cell(3, "low", -1.0))],
    }  # fmt: skip
    requests = {f"v2 refused: {name}": infer(*given) for name, given in inputs.items()}
    bodies = {
        "an empty body": b"",
        "text that is no JSON": b"{,",
        "a list": b"[]",
        "no key inputs": b"{}",
        "bytes that are no UTF-8": b"\xff\xfe",
        "brackets without end": b"[" * 100_000,
        "NaN among the numbers": infer(bars).body.replace(b"102.5", b"NaN"),
        "a number above the largest": infer(bars).body.replace(b"102.5", b"1e999"),
        "two documents": b"{} {}",
    }
    requests |= {
        f"v2 refused: {name}": StoredRequest("POST", INFER, body, JSON)
        for name, body in bodies.items()
    }
    whole = binary(("bars", np.array(ROWS), "FP64"))
    nan = np.array(with_cell(3, "volume", float("nan")))
    requests |= {
        "v2 refused: an unknown output": infer(bars, outputs=[{"name": "variance"}]),
        "v2 refused: bytes without their header": replace(whole, headers={}),
        "v2 refused: a header that is no number": replace(
            whole, headers={"inference-header-content-length": "x"}
        ),
        "v2 refused: a header beyond the body": replace(
            whole, headers={"inference-header-content-length": "99999"}
        ),
        "v2 refused: a byte too few": replace(whole, body=whole.body[:-1]),
        "v2 refused: a byte too many": replace(whole, body=whole.body + b"1"),
        "v2 refused: a negative size": binary(
            ("bars", np.array(ROWS), "FP64"),
            change=lambda document: document["inputs"][0].update(
                parameters={"binary_data_size": -1}
            ),
        ),
        "v2 refused: half a number": binary(
            ("bars", np.array(ROWS), "FP64"),
            tail=b"1234",
            change=lambda document: document["inputs"][0].update(
                parameters={"binary_data_size": 1204}
            ),
        ),
        "v2 refused: data and bytes": binary(
            ("bars", np.array(ROWS), "FP64"),
            change=lambda document: document["inputs"][0].update(data=[1.0]),
        ),
        "v2 refused: NaN among the bytes": binary(("bars", nan, "FP64")),
        "v2 refused: a version that is not there": replace(
            infer(bars), path="/v2/models/{service}/versions/nobody/infer"
        ),
        "v2 refused: a service that is not there": replace(
            infer(bars), path="/v2/models/other/infer"
        ),
        "v2 refused: a model that reads the clock without times": replace(infer(bars), spec=CLOCK),
        "v2 refused: a body above the limit": replace(infer(bars), body=b"x" * (2 * 1024**2 + 1)),
    }
    return requests

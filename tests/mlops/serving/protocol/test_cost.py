"""Time and memory of reading a request are linear in its bytes, whatever stands in them.

Each body is read at n and at 4n bytes: CPU time of the process, and the peaks of Python's memory
and of Arrow's own pool, grow at most sixfold, and stay in proportion to the bytes. What takes next
to nothing at both sizes is not compared.
"""

from __future__ import annotations

import gc
import io
import json
import struct
import time
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import count

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlops.data.bars import COLUMNS
from mlops.errors import RequestRefused
from mlops.serving.protocol.mlflow_scoring import CSV, JSON, PARQUET, parse
from mlops.serving.protocol.open_inference import parse_infer
from tests.mlops.serving.example_requests import SPEC, values_of

SPEC_OF_A_REPLICA = replace(SPEC, max_bars=20_000, max_windows=512)
SMALL, LARGE = 24 * 1024, 4 * 1024**2
RATIO = 6.0
"""For four times the bytes, of CPU time and of memory."""

LEAST_CPU_S, LEAST_BYTES = 0.008, 256 * 1024
"""Below them a ratio would compare noise, or what a first call keeps for the next."""

MOST_TIMES = 40
"""Bytes of memory for a byte of the body; beside it Arrow may unpack the bars of one window."""

ONE_WINDOW = 512 * 20_000 + 2**20
ROW = b"[101.25,103.5,99.75,102.125,1250.5],"
RNG = np.random.default_rng(0)


@dataclass(frozen=True)
class Body:
    """A body, and how it is read."""

    content: bytes
    content_type: str = JSON
    header_length: str | None = None
    infer: bool = False

    def read(self) -> None:
        with suppress(RequestRefused):
            if self.infer:
                parse_infer(
                    self.content, SPEC_OF_A_REPLICA, "model", header_length=self.header_length
                )
            else:
                parse(self.content, self.content_type, SPEC_OF_A_REPLICA)


Build = Callable[[int], Body]


def fill(
    size: int, unit: bytes, head: bytes = b"", tail: bytes = b"", kind: str = JSON, **more: object
) -> Body:
    """As many units between head and tail as fit; the last one without its comma."""
    units = unit * max((size - len(head) - len(tail)) // len(unit), 1)
    return Body(head + units.removesuffix(b",") + tail, kind, **more)  # type: ignore[arg-type]


def number(size: int, unit: str, head: bytes = b"", tail: bytes = b"", **more: object) -> Body:
    """Units that differ in a number."""
    units, length = [], len(head) + len(tail)
    for at in count():
        units.append(unit % at)
        length += len(units[-1]) + 1
        if length > size:
            return Body(head + ",".join(units).encode() + tail, **more)  # type: ignore[arg-type]
    raise AssertionError


def instances(size: int, unit: bytes) -> Body:
    return fill(size, unit, b'{"instances":[', b"]}")


def windows(size: int) -> Body:
    window = b"[" + (ROW * 12).removesuffix(b",") + b"],"
    return instances(size, window)


def with_times(size: int) -> Body:
    rows = size // 70
    times = pd.date_range("2024-01-01", periods=rows, freq="1h", tz="UTC")
    data = [[time.isoformat(), 101.25, 103.5, 99.75, 102.125, 1.5] for time in times]
    split = {"columns": ["open_time", *COLUMNS], "data": data}
    return Body(json.dumps({"dataframe_split": split}).encode())


def columns(size: int) -> Body:
    cells = [1.5] * (size // 25)
    return Body(json.dumps({"inputs": dict.fromkeys(COLUMNS, cells)}).encode())


def nested_times(size: int) -> Body:
    bars, times = size // 1000, b",".join([b"[" * 400 + b"]" * 400] * (size // 1000))
    rest = json.dumps(dict.fromkeys(COLUMNS, [1.5] * bars))[1:].encode()
    return Body(b'{"inputs":{"open_time":[' + times + b"]," + rest + b"}")


def parquet(table: dict[str, object], **options: object) -> Body:
    sink = io.BytesIO()
    pq.write_table(pa.table(table), sink, **options)
    return Body(sink.getvalue(), PARQUET)


def prices(rows: int) -> dict[str, object]:
    return dict(zip(COLUMNS, values_of(min(rows, 20_000)).T, strict=True))


def many_columns(size: int) -> Body:
    return parquet(prices(5) | {f"feature_{at}": [1.0] * 5 for at in range(size // 600)})


def many_row_groups(size: int) -> Body:
    return parquet(prices(size // 1500), row_group_size=1)


def long_text(size: int, column: str) -> Body:
    """One text, which the dictionary holds once and each of 20,000 rows names."""
    rows = pa.array(np.zeros(20_000, np.int32))
    text = pa.DictionaryArray.from_arrays(rows, pa.array([RNG.bytes(size // 2).hex()]))
    return parquet(prices(20_000) | {column: text})


def lists_as_prices(size: int) -> Body:
    return parquet(prices(5) | {"open": [[1.5] * (size // 40)] * 5}, compression="none")


def nested_levels(size: int) -> Body:
    """A file that describes a column within a column within a column, and so on."""
    level, leaf = b"\x35\x00\x18\x01a\x15\x02\x00", b"\x15\x02\x25\x00\x18\x01a\x00"
    levels = size // len(level)
    length, varint = levels + 1, b""
    while length >= 128:
        length, varint = length >> 7, varint + bytes([length & 127 | 128])
    listed = b"\x19\xfc" + varint + bytes([length]) + level * levels + leaf
    described = b"\x15\x02" + listed + b"\x16\x00\x19\x0c\x00"
    return Body(b"PAR1" + described + struct.pack("<I", len(described)) + b"PAR1", PARQUET)


def infer(size: int, *, nested: bool) -> Body:
    rows = size // 40
    values = values_of(min(rows, 19_000)).round(3)
    data = (values if nested else values.ravel()).tolist()
    bars = {"name": "bars", "shape": list(values.shape), "datatype": "FP64", "data": data}
    return Body(json.dumps({"inputs": [bars]}).encode(), infer=True)


def binary(size: int, *, stated: int | None = None) -> Body:
    tail = np.ones((size // 40, 5)).tobytes()
    parameters = {"binary_data_size": len(tail) if stated is None else stated}
    shape = [1, size // 40, 5] if size // 40 <= 20_000 else [size // 40_000, 1000, 5]
    bars = {"name": "bars", "shape": shape, "datatype": "FP64", "parameters": parameters}
    head = json.dumps({"inputs": [bars]}).encode()
    return Body(head + tail, header_length=str(len(head)), infer=True)


RECORD = b'{"open":1.5,"high":1.5,"low":1.5,"close":1.5,"volume":1.5},'
CSV_HEAD = b"open,high,low,close,volume\n"
INFER_HEAD = b'{"inputs":[{"name":"bars","shape":[1,5,5],"datatype":"FP64","data":'
RIGHT: dict[str, Build] = {
    "rows": partial(instances, unit=ROW),
    "windows": windows,
    "records": partial(fill, unit=RECORD, head=b'{"dataframe_records":[', tail=b"]}"),
    "rows with times as text": with_times,
    "columns": columns,
    "CSV": partial(fill, unit=b"1.5,1.5,1.5,1.5,1.5\n", head=CSV_HEAD, kind=CSV),
    "Parquet": lambda size: parquet(prices(size // 40)),
    "flat data of Open Inference": partial(infer, nested=False),
    "nested data of Open Inference": partial(infer, nested=True),
    "bytes of Open Inference": binary,
}
HOSTILE: dict[str, Build] = {
    "records with other fields each": partial(
        number, unit='{"a%d":1}', head=b'{"dataframe_records":[', tail=b"]}"
    ),
    "records whose names differ in space": lambda size: Body(
        b'{"dataframe_records":['
        + b",".join(b'{"' + b" " * at + b'open":1}' for at in range(int((2 * size) ** 0.5)))
        + b"]}"
    ),
    "instances with other fields each": partial(
        number, unit='{"bars":[1],"a%d":1}', head=b'{"instances":[', tail=b"]}"
    ),
    "one object of many keys": partial(number, unit='"%d":1', head=b'{"inputs":{', tail=b"}}"),
    "one record of many keys": partial(number, unit='"%d":1', head=b'{"inputs":[{', tail=b"}]}"),
    "lists of one number": partial(instances, unit=b"[1],"),
    "empty lists": partial(instances, unit=b"[],"),
    "empty objects": partial(instances, unit=b"{},"),
    "windows of one empty row": partial(instances, unit=b"[[]],"),
    "numbers": partial(instances, unit=b"1.5,"),
    "text": partial(instances, unit=b'"ab",'),
    "lists within lists": lambda size: Body(b"[" * (size // 2) + b"]" * (size // 2)),
    "objects within objects": lambda size: Body(b'{"a":' * (size // 6) + b"1" + b"}" * (size // 6)),
    "lists within lists as times": nested_times,
    "one long text": partial(fill, unit=b"x", head=b'{"instances":[["', tail=b'"]]}'),
    "one long name": partial(fill, unit=b"x", head=b'{"inputs":{"', tail=b'":1}}'),
    "one long number": partial(fill, unit=b"7", head=b'{"instances":[[1.', tail=b"]]}"),
    "whole numbers of 400 digits": partial(instances, unit=b"7" * 400 + b","),
    "a time that is mostly space": lambda size: Body(
        json.dumps(
            {
                "inputs": {
                    **dict.fromkeys(COLUMNS, [1.5] * 5),
                    "open_time": ["2024-01-31"] * 4 + ["2024-01-31" + " " * size + "x"],
                }
            }
        ).encode()
    ),
    "not a number in the end": partial(fill, unit=ROW, head=b'{"instances":[', tail=b",[NaN]]}"),
    "no UTF-8 in the end": partial(fill, unit=ROW, head=b'{"instances":[', tail=b"\xff"),
    "no end": partial(fill, unit=ROW, head=b'{"instances":['),
    "params of many names": partial(
        number, unit='"%d":1', head=b'{"instances":[],"params":{', tail=b"}}"
    ),
    "a frame of many columns": partial(
        number, unit='"%d"', head=b'{"dataframe_split":{"data":[],"columns":[', tail=b"]}}"
    ),
    "CSV of empty lines": partial(fill, unit=b"\n", head=CSV_HEAD, kind=CSV),
    "CSV of short lines": partial(fill, unit=b"1\n", head=CSV_HEAD, kind=CSV),
    "CSV of one line of commas": partial(fill, unit=b",", kind=CSV),
    "CSV of many columns": partial(fill, unit=b"1," * 500 + b"1\n", kind=CSV),
    "CSV of one quoted text": partial(fill, unit=b"x\n", head=b'"', kind=CSV),
    "CSV of long numbers": partial(fill, unit=b"7" * 5000 + b",1,1,1,1\n", head=CSV_HEAD, kind=CSV),
    "Parquet of many columns": many_columns,
    "Parquet of many row groups": many_row_groups,
    "Parquet of a long text as price": partial(long_text, column="open"),
    "Parquet of a long text as time": partial(long_text, column="open_time"),
    "Parquet of lists": lists_as_prices,
    "Parquet of nested levels": nested_levels,
    "Parquet of nothing": partial(fill, unit=b"\0", head=b"PAR1", tail=b"PAR1", kind=PARQUET),
    "Open Inference with many inputs": partial(
        number,
        unit='{"name":"a%d","shape":[],"datatype":"FP64"}',
        head=b'{"inputs":[',
        tail=b"]}",
        infer=True,
    ),
    "Open Inference with many outputs": partial(
        fill,
        unit=b'{"name":"forecast"},',
        head=INFER_HEAD + b'[]}],"outputs":[',
        tail=b"]}",
        infer=True,
    ),
    "Open Inference with a long shape": partial(
        fill,
        unit=b"1,",
        head=b'{"inputs":[{"name":"bars","datatype":"FP64","shape":[',
        tail=b"]}]}",
        infer=True,
    ),
    "Open Inference with many parameters": partial(
        number,
        unit='"%d":1',
        head=INFER_HEAD + b'[],"parameters":{',
        tail=b"}}]}",
        infer=True,
    ),
    "Open Inference with lists of one number": partial(
        fill, unit=b"[1],", head=INFER_HEAD + b"[", tail=b"]}]}", infer=True
    ),
    "Open Inference with a tail of no input": partial(binary, stated=0),
    "Open Inference with a tail that is short": partial(binary, stated=10**12),
}
FORMS = RIGHT | HOSTILE


def least_cpu(body: Body, least: float = float("inf")) -> float:
    """CPU time in seconds, the least of some readings.

    It is that of this thread: readers start no other, and threads of other tests would be counted.
    """
    gc.disable()
    try:
        for _ in range(3):
            began = time.thread_time()
            body.read()
            least = min(least, time.thread_time() - began)
    finally:
        gc.enable()
    return least


def peak_memory(body: Body) -> tuple[int, int]:
    """Peaks in bytes, of Python's memory and of Arrow's pool."""
    usual, pool = pa.default_memory_pool(), pa.proxy_memory_pool(pa.default_memory_pool())
    pa.set_memory_pool(pool)
    tracemalloc.start()
    try:
        body.read()
        return tracemalloc.get_traced_memory()[1], pool.max_memory()
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(usual)


def assert_linear(build: Build, size: int) -> None:
    small, large = build(size), build(4 * size)
    # The first call of all imports what it needs.
    small.read()

    cpu = least_cpu(small), least_cpu(large)
    # Other tests share the processor's caches: what costs too much is read again for a while.
    for _ in range(20):
        if cpu[1] > max(RATIO * cpu[0], LEAST_CPU_S):
            cpu = least_cpu(small, cpu[0]), least_cpu(large, cpu[1])
    python, arrow = zip(peak_memory(small), peak_memory(large), strict=True)

    assert cpu[1] <= max(RATIO * cpu[0], LEAST_CPU_S), cpu
    for first, second in (python, arrow):
        assert second <= max(RATIO * first, LEAST_BYTES), (python, arrow)
    assert python[1] + arrow[1] <= MOST_TIMES * len(large.content) + ONE_WINDOW, (python, arrow)


@pytest.mark.parametrize("form", FORMS)
def test_reading_a_body_costs_in_proportion_to_its_bytes(form):
    assert_linear(FORMS[form], SMALL)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_reading_a_large_body_costs_in_proportion_to_its_bytes(form):
    assert_linear(FORMS[form], LARGE)


@pytest.mark.parametrize("form", RIGHT)
def test_the_right_bodies_are_read(form):
    """Else the bodies that are right would be measured as refusals."""
    body = RIGHT[form](SMALL)

    if body.infer:
        parse_infer(body.content, SPEC_OF_A_REPLICA, "model", header_length=body.header_length)
    else:
        parse(body.content, body.content_type, SPEC_OF_A_REPLICA)

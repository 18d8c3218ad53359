"""Mutated requests of every protocol, and what no reply to one may be.

Each request depends on the seed and its number only, so that one that found a fault can be made
again. The sound requests that are mutated are those whose replies are stored.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mlops.data.bars import COLUMNS
from tests.fuzz.mutations import LEAVES, NUMBERS, Mutator, json_bytes
from tests.mlops.serving.stored_inferences import binary
from tests.mlops.serving.stored_paths import serving
from tests.mlops.serving.stored_requests import (
    CSV,
    INFER,
    INVOKE,
    JSON,
    PARQUET,
    StoredRequest,
    infer,
    tensor,
)

LARGEST_SEED = 40_000
"""Bytes of the largest sound request that is mutated; larger ones cost time and find no more."""

WORDS = (
    "dataframe_split", "dataframe_records", "instances", "inputs", "params", "columns", "data",
    "index", "bars", "open_time", "shape", "datatype", "parameters", "binary_data_size", "outputs",
    "name", "id", *COLUMNS,
)  # fmt: skip
METHODS = ("GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "TRACE", "get", "FOO")
HEADERS: Mapping[str, tuple[str, ...]] = {
    "x-model-version": ("nobody", "", "challenger", "{baseline}", "{champion}", "x" * 3000, "\xff"),
    "x-variant": ("challenger", "champion", "x", ""),
    "x-session-id": ("a", "", "s" * 5000, "\xe9"),
    "x-service": ("{service}", "other", "", "../x"),
    "x-request-id": ("r", "r" * 129, "\xe9", ""),
    "inference-header-content-length": ("0", "1", "-1", "99999999999999", "x", "", "5", "1e3"),
    "content-encoding": ("gzip", "identity", "br", ""),
    "content-type": ("", ";", "text/csv", JSON, PARQUET, "application/json;charset=x", "x" * 500),
    "expect": ("100-continue",),
    "accept": ("text/html", "*/*;q=0"),
    "range": ("bytes=0-1",),
}
TYPES = (CSV, PARQUET, JSON, "application/json; charset=utf-8", "text/plain", "")
EXTREMES = (1e-300, 1e300, 5e-324, 1.7e308, 1.0, 1e-30, 1e30, 2.2e-308, 100.0)


class RequestMaker:
    """Makes the mutated requests of a seed.

    Args:
        names: What ``{service}``, ``{champion}`` and ``{baseline}`` in a request stand for.
        bars: Bars that one forecast of the champion needs.
    """

    def __init__(self, seed: int, names: Mapping[str, str], bars: int) -> None:
        self.seed = seed
        self.names = names
        self.bars = bars
        self.sound = [
            request
            for request in serving().values()
            if len(request.body) <= LARGEST_SEED and not request.spec
        ]
        self.bodies = [request.body for request in self.sound]

    def make(self, number: int) -> StoredRequest:
        """The request of a number."""
        random = Random(f"{self.seed}:request:{number}")
        mutator = Mutator(random)
        kinds = (
            self._mutate_body, self._mutate_body, self._mutate_body, self._mutate_head,
            self._extreme_bars, self._parquet, self._binary, self._irregular_rows,
        )  # fmt: skip
        request = random.choice(kinds)(mutator)
        if random.random() < 0.1:
            request = self._change_head(mutator, request)
        if random.random() < 0.2:
            sizes = [random.choice((0, 1, 7, 500)) for _ in range(random.randint(1, 5))]
            request = replace(request, chunks=tuple(sizes))
        return self._fill(request)

    def _fill(self, request: StoredRequest) -> StoredRequest:
        def filled(text: str) -> str:
            for name, value in self.names.items():
                text = text.replace(name, value)
            return text

        headers = {name: filled(value) for name, value in request.headers.items()}
        return replace(request, path=filled(request.path), headers=headers)

    def _mutate_body(self, mutator: Mutator) -> StoredRequest:
        request = mutator.random.choice([r for r in self.sound if r.method == "POST"])
        return replace(request, body=self._other_body(mutator, request.body))

    def _other_body(self, mutator: Mutator, body: bytes) -> bytes:
        kind = mutator.random.randrange(4)
        if kind == 0:
            return mutator.mutate_bytes(body, self.bodies)
        if kind == 1:
            return mutator.mutate_numbers(body)
        try:
            return json_bytes(mutator.mutate_json(json.loads(body), WORDS))
        except (ValueError, RecursionError):
            return mutator.mutate_bytes(body, self.bodies)

    def _mutate_head(self, mutator: Mutator) -> StoredRequest:
        return self._change_head(mutator, mutator.random.choice(self.sound))

    def _change_head(self, mutator: Mutator, request: StoredRequest) -> StoredRequest:
        random = mutator.random
        match random.randrange(4):
            case 0:
                return replace(request, method=random.choice(METHODS))
            case 1:
                path = mutator.mutate_bytes(request.path.encode(), [b"/v2/models/../%2e%2e?a=/"])
                return replace(request, path="/" + path.decode("latin-1").replace("\x00", ""))
            case 2:
                return replace(request, content_type=random.choice(TYPES))
            case _:
                names = random.sample(list(HEADERS), random.randint(1, 3))
                more = {name: random.choice(HEADERS[name]) for name in names}
                return replace(request, headers=request.headers | more)

    def _extreme_bars(self, mutator: Mutator) -> StoredRequest:
        """Bars that are right by every rule and of a size that no market has."""
        rows = self._rows(mutator)
        form = mutator.random.randrange(4)
        if form == 0:
            return infer(tensor(rows))
        if form == 1:
            return self._binary(mutator, np.array(rows))
        if form == 2:
            text = "\n".join([",".join(COLUMNS), *(",".join(map(repr, row)) for row in rows)])
            return StoredRequest("POST", INVOKE, text.encode(), CSV)
        return StoredRequest("POST", INVOKE, json_bytes({"instances": rows}), JSON)

    def _rows(self, mutator: Mutator) -> list[list[float]]:
        random = mutator.random
        few = random.sample(EXTREMES, random.randint(1, 3))
        rows = []
        for _ in range(self.bars + random.choice((0, 0, 1, 10))):
            four = sorted(random.choice(few) * random.choice((1.0, 1.0, 1.5)) for _ in range(4))
            low, one, other, high = four
            volume = random.choice((0.0, *EXTREMES))
            rows.append([one, high, low, other, volume])
        return rows

    def _irregular_rows(self, mutator: Mutator) -> StoredRequest:
        """Rows of other keys, lengths or kinds, which a reader may be slow to refuse."""
        random = mutator.random
        count = random.choice((1, 30, 300, 1000))
        rows: list[Any] = []
        match random.randrange(5):
            case 0:
                rows = [{f"k{number}": 1} for number in range(count)]
            case 1:
                rows = [[1.0] * random.randrange(8) for _ in range(count)]
            case 2:
                rows = [random.choice(LEAVES) for _ in range(count)]
            case 3:
                rows = [[[1]] * count]
            case _:
                rows = [dict.fromkeys((*COLUMNS, *map(str, range(50))), 1.0)] * count
        form = random.choice(WORDS[:4])
        document: Any = {"columns": list(COLUMNS), "data": rows} if form == WORDS[0] else rows
        return StoredRequest("POST", INVOKE, json_bytes({form: document}), JSON)

    def _parquet(self, mutator: Mutator) -> StoredRequest:
        body = parquet_of_odd_columns(mutator, self.bars)
        if mutator.random.random() < 0.3:
            body = mutator.mutate_bytes(body)
        return StoredRequest("POST", INVOKE, body, PARQUET)

    def _binary(self, mutator: Mutator, values: np.ndarray | None = None) -> StoredRequest:
        """Tensors as bytes behind the JSON."""
        random = mutator.random
        if values is None:
            values = np.array(self._rows(mutator))
        datatype = random.choice(("FP64", "FP64", "FP32"))
        with np.errstate(over="ignore"):
            array = values.astype("<f8" if datatype == "FP64" else "<f4")
        if random.random() < 0.3:
            array = np.stack([array] * random.randint(1, 3))
        request: StoredRequest = binary(("bars", array, datatype))
        if random.random() < 0.3:
            return replace(request, body=mutator.mutate_bytes(request.body, self.bodies))
        if random.random() < 0.3:
            length = random.choice(NUMBERS)
            return replace(request, headers={"inference-header-content-length": length})
        return replace(request, path=INFER)


def parquet_of_odd_columns(mutator: Mutator, rows: int) -> bytes:
    """A Parquet file whose columns have types, nulls, groups and codecs of many kinds."""
    random = mutator.random
    columns = {name: _odd_array(random, rows) for name in COLUMNS if random.random() < 0.98}
    if random.random() < 0.5:
        columns[random.choice(("open_time", "OPEN", "note"))] = _odd_array(random, rows)
    sink = io.BytesIO()
    pq.write_table(
        pa.table(columns),
        sink,
        compression=random.choice(("none", "snappy", "zstd", "gzip")),
        row_group_size=random.choice((1, 7, 1000)),
        use_dictionary=random.random() < 0.5,
    )
    return sink.getvalue()


def _odd_array(random: Random, rows: int) -> pa.Array:
    plain = [100.0] * rows
    kinds: tuple[Callable[[], pa.Array], ...] = (
        lambda: pa.array(["x" * random.choice((1, 10_000))] * rows),
        lambda: pa.array([[1.0, 2.0]] * rows),
        lambda: pa.array([{"a": 1.0}] * rows),
        lambda: pa.array([None] * rows, pa.float64()),
        lambda: pa.array([None] * rows),
        lambda: pa.array(range(rows), pa.timestamp("ns", random.choice((None, "UTC")))),
        lambda: pa.array([True] * rows),
        lambda: pa.array([float("nan"), *plain[1:]]),
        lambda: pa.array([2**63 - 1] * rows),
        lambda: pa.array(plain, pa.float32()),
        lambda: pa.array([b"\xff"] * rows),
        lambda: pa.array(["a"] * rows).dictionary_encode(),
    )
    return pa.array(plain) if random.random() < 0.3 else random.choice(kinds)()

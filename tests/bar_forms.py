"""One window of bars in every form that a request may have."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import pandas as pd

from mlops.data.bars import COLUMNS


class Form(NamedTuple):
    """A request but for its service: the protocol, the headers and the body."""

    is_inference: bool
    headers: Mapping[str, str]
    body: bytes

    def path(self, service: str) -> str:
        return (
            f"/v2/models/{service}/infer"
            if self.is_inference
            else f"/services/{service}/invocations"
        )


def _json(document: object) -> Form:
    return Form(False, {"content-type": "application/json"}, json.dumps(document).encode())


def _values(bars: pd.DataFrame) -> list[list[float]]:
    return bars[list(COLUMNS)].to_numpy().tolist()


def _times(bars: pd.DataFrame) -> list[str]:
    return [stamp.isoformat() for stamp in bars.index]


def _with_times(bars: pd.DataFrame) -> pd.DataFrame:
    frame = bars[list(COLUMNS)].reset_index(drop=True)
    frame.insert(0, "open_time", _times(bars))
    return frame


def _columns(bars: pd.DataFrame) -> dict[str, list[Any]]:
    return {name: list(cells) for name, cells in _with_times(bars).to_dict("list").items()}


def _records(bars: pd.DataFrame) -> list[dict[str, Any]]:
    return [
        {str(name): cell for name, cell in row.items()}
        for row in _with_times(bars).to_dict("records")
    ]


def _split(bars: pd.DataFrame) -> Form:
    frame = _with_times(bars)
    data = frame.to_numpy().tolist()
    return _json({"dataframe_split": {"columns": list(frame.columns), "data": data}})


def _csv(bars: pd.DataFrame) -> Form:
    text = _with_times(bars).to_csv(index=False)
    return Form(False, {"content-type": "text/csv"}, text.encode())


def _parquet(bars: pd.DataFrame) -> Form:
    buffer = io.BytesIO()
    bars[list(COLUMNS)].rename_axis("open_time").reset_index().to_parquet(buffer)
    kind = "application/vnd.apache.parquet"
    return Form(False, {"content-type": kind}, buffer.getvalue())


def _tensor(bars: pd.DataFrame, shape: list[int], **more: object) -> dict[str, Any]:
    return {"name": "bars", "shape": shape, "datatype": "FP64", **more}


def _infer(bars: pd.DataFrame) -> Form:
    tensor = _tensor(bars, [1, len(bars), 5], data=[_values(bars)])
    return _json({"inputs": [tensor]})._replace(is_inference=True)


def _infer_binary(bars: pd.DataFrame) -> Form:
    raw = bars[list(COLUMNS)].to_numpy(dtype="<f8").tobytes()
    tensor = _tensor(bars, [len(bars), 5], parameters={"binary_data_size": len(raw)})
    head = json.dumps({"inputs": [tensor]}).encode()
    length = {"inference-header-content-length": str(len(head))}
    return Form(True, {"content-type": "application/octet-stream", **length}, head + raw)


FORMS: Mapping[str, Callable[[pd.DataFrame], Form]] = {
    "instances, rows": lambda bars: _json({"instances": _values(bars)}),
    "instances, windows": lambda bars: _json({"instances": [_values(bars)] * 2}),
    "instances, records": lambda bars: _json({"instances": _records(bars)}),
    "instances, named windows": lambda bars: _json({"instances": [{"bars": _values(bars)}]}),
    "inputs, windows": lambda bars: _json({"inputs": [_values(bars)]}),
    "inputs, named windows": lambda bars: _json({"inputs": {"bars": [_values(bars)]}}),
    "inputs, columns": lambda bars: _json({"inputs": _columns(bars)}),
    "dataframe_split": _split,
    "dataframe_records": lambda bars: _json({"dataframe_records": _records(bars)}),
    "csv": _csv,
    "parquet": _parquet,
    "infer, windows": _infer,
    "infer, binary": _infer_binary,
}

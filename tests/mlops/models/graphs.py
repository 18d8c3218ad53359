"""ONNX graphs for tests: sound ones, and ones that ask for too much."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

STEPS, FEATURES = 3, 2
FLOAT = TensorProto.FLOAT


def write_graph(
    nodes: Sequence[Any],
    tensors: dict[str, np.ndarray] | None = None,
    *,
    shape: Sequence[object] = ("n", STEPS, FEATURES),
    out: Sequence[object] = ("n", 1),
    kinds: tuple[int, int] = (FLOAT, FLOAT),
    opset: int = 17,
    domain: str = "",
) -> bytes:
    """A graph from ``x`` to ``y`` as bytes."""
    graph = helper.make_graph(
        list(nodes),
        "graph",
        [helper.make_tensor_value_info("x", kinds[0], list(shape))],
        [helper.make_tensor_value_info("y", kinds[1], list(out))],
        [numpy_helper.from_array(value, name) for name, value in (tensors or {}).items()],
    )
    opsets = [helper.make_opsetid(domain, opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


def linear_graph(weights: np.ndarray) -> bytes:
    """Flattens a window (3, 2) and multiplies it with ``weights`` (6, 1)."""
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"], axis=1),
        helper.make_node("MatMul", ["flat", "w"], ["y"]),
    ]
    return write_graph(nodes, {"w": weights.astype(np.float32)})


def lstm_graph(seed: int = 0, width: int = 4) -> bytes:
    """One LSTM layer over the window, and a linear head on its last step."""
    draw = np.random.default_rng(seed)

    def drawn(*shape: int) -> np.ndarray:
        return draw.normal(scale=0.3, size=shape).astype(np.float32)

    nodes = [
        helper.make_node("Transpose", ["x"], ["time_first"], perm=[1, 0, 2]),
        helper.make_node("LSTM", ["time_first", "w", "r", "b"], ["", "last"], hidden_size=width),
        helper.make_node("Squeeze", ["last", "first"], ["hidden"]),
        helper.make_node("Gemm", ["hidden", "head", "bias"], ["y"]),
    ]
    tensors = {
        "w": drawn(1, 4 * width, FEATURES), "r": drawn(1, 4 * width, width),
        "b": drawn(1, 8 * width), "first": np.array([0]), "head": drawn(width, 1), "bias": drawn(1),
    }  # fmt: skip
    return write_graph(nodes, tensors)


def outer_products(times: int) -> bytes:
    """Allowed operators only: each product squares the size of a window."""
    nodes, last = [helper.make_node("Flatten", ["x"], ["f0"], axis=1)], "f0"
    tensors = {"one": np.array([1]), "two": np.array([2]), "flat": np.array([0, -1])}
    for number in range(times):
        nodes += [
            helper.make_node("Unsqueeze", [last, "one"], [f"row{number}"]),
            helper.make_node("Unsqueeze", [last, "two"], [f"column{number}"]),
            helper.make_node("MatMul", [f"column{number}", f"row{number}"], [f"square{number}"]),
            helper.make_node("Reshape", [f"square{number}", "flat"], [f"f{number + 1}"]),
        ]
        last = f"f{number + 1}"
    nodes.append(helper.make_node("ReduceMean", [last], ["y"], axes=[1]))
    return write_graph(nodes, tensors)


def with_external_data(content: bytes) -> bytes:
    """The graph with its first tensor said to lie in another file."""
    model = onnx.load_model_from_string(content)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "/etc/passwd"
    return model.SerializeToString()

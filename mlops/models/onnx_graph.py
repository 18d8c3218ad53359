"""Checks an ONNX graph that a stranger wrote, before a runtime runs it.

A list of operators alone does not bound a graph: a few products of reshaped tensors ask for any
amount of memory, and a condition hides them from an example. So no operator decides by values what
is computed, and the shape of every tensor is inferred for one window. A graph is run for one window
at a time: what was measured is what is run, and no window changes the forecast of another.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from mlops.errors import ModelFileError, ModelUnavailable

MAX_BYTES = 64_000_000
MAX_NODES = 10_000
MAX_ELEMENTS = 8_000_000
"""Numbers that all tensors made for one window may have together."""

OPSETS = range(11, 24)
DOMAINS = frozenset({"", "ai.onnx"})
OPERATORS = frozenset((
    "Abs", "Add", "And", "AveragePool", "BatchNormalization", "Cast", "Ceil", "Clip",
    "Concat", "Constant", "Conv", "Div", "Dropout", "Elu", "Equal", "Erf", "Exp", "Flatten",
    "Floor", "GRU", "Gather", "Gelu", "Gemm", "GlobalAveragePool", "GlobalMaxPool",
    "Greater", "GreaterOrEqual", "HardSigmoid", "HardSwish", "Identity", "LSTM",
    "LayerNormalization", "LeakyRelu", "Less", "LessOrEqual", "Log", "LogSoftmax", "MatMul",
    "Max", "MaxPool", "Mean", "Min", "Mish", "Mul", "Neg", "Not", "Or", "PRelu", "Pow",
    "RNN", "Reciprocal", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "Relu",
    "Reshape", "Round", "Selu", "Shape", "Sigmoid", "Sign", "Slice", "Softmax", "Softplus",
    "Softsign", "Split", "Sqrt", "Squeeze", "Sub", "Sum", "Tanh", "Transpose", "Unsqueeze",
    "Where",
))  # fmt: skip


def check_graph(content: bytes, *, steps: int, features: int) -> str:
    """Check that a graph turns a window (1, steps, features) into a forecast (1, 1).

    Returns:
        The name of its input.

    Raises:
        ModelFileError: naming what is not allowed.
        ModelUnavailable: when the package onnx is not installed here.
    """
    if len(content) > MAX_BYTES:
        raise ModelFileError(
            f"the ONNX graph has {len(content):,} bytes; at most {MAX_BYTES:,} are allowed"
        )
    onnx = import_package("onnx")
    try:
        model = onnx.load_model_from_string(content)
        _check_parts(onnx, model)
        onnx.checker.check_model(model)
        name = _check_ports(onnx, model, steps, features)
        elements = _count_made(onnx, model, (1, steps, features))
    except ModelFileError:
        raise
    except Exception as error:
        # Protobuf, checker and inference raise what they like on a graph that is none.
        raise ModelFileError(
            f"the ONNX graph is not sound ({type(error).__name__}: {str(error)[:300]})"
        ) from error
    if elements > MAX_ELEMENTS:
        raise ModelFileError(
            f"the graph makes {elements:,} numbers of one window; at most {MAX_ELEMENTS:,} are "
            "allowed"
        )
    return name


def import_package(name: str) -> Any:
    """A package of the extra ``onnx``.

    Raises:
        ModelUnavailable: when it is not installed here.
    """
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError as error:
        raise ModelUnavailable(
            f"{name} is not installed here; install the extra: pip install 'trading-mlops[onnx]'"
        ) from error


def _check_parts(onnx: Any, model: Any) -> None:
    domains = {opset.domain: opset.version for opset in model.opset_import}
    if not domains or not domains.keys() <= DOMAINS:
        raise ModelFileError(
            f"the graph uses the domains {', '.join(sorted(domains)) or 'none'}; only ONNX's own "
            "operators are run"
        )
    if any(version not in OPSETS for version in domains.values()):
        raise ModelFileError(
            f"the graph uses opset {max(domains.values())}; {OPSETS[0]} to {OPSETS[-1]} are run"
        )
    graph = model.graph
    if model.functions or model.training_info or graph.sparse_initializer:
        raise ModelFileError("the graph has functions, training steps or sparse tensors")
    if len(graph.node) > MAX_NODES:
        raise ModelFileError(f"the graph has {len(graph.node):,} nodes; at most {MAX_NODES:,}")
    _check_inside(onnx, graph.initializer)
    for node in graph.node:
        _check_node(onnx, node)


def _check_node(onnx: Any, node: Any) -> None:
    if node.op_type not in OPERATORS or node.domain not in DOMAINS:
        raise ModelFileError(
            f"the graph has the operator {node.domain}{'.' if node.domain else ''}"
            f"{node.op_type[:80]}, which is not run here; allowed are "
            f"{', '.join(sorted(OPERATORS))}"
        )
    kinds = onnx.AttributeProto
    graphs = {kinds.GRAPH, kinds.GRAPHS, kinds.SPARSE_TENSOR, kinds.SPARSE_TENSORS}
    for attribute in node.attribute:
        if attribute.type in graphs:
            raise ModelFileError(f"the operator {node.op_type} holds a graph or a sparse tensor")
        _check_inside(onnx, [attribute.t, *attribute.tensors])


def _check_inside(onnx: Any, tensors: Iterable[Any]) -> None:
    """Refuse tensors whose numbers lie in another file."""
    for tensor in tensors:
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            raise ModelFileError("the graph has numbers in another file; save it as one file")


def _check_ports(onnx: Any, model: Any, steps: int, features: int) -> str:
    """Check input and output; returns the input's name."""
    graph = model.graph
    held = {tensor.name for tensor in graph.initializer}
    inputs = [port for port in graph.input if port.name not in held]
    number = onnx.TensorProto.FLOAT
    types = [port.type.tensor_type.elem_type for port in (*inputs, *graph.output)]
    if (len(inputs), len(graph.output), types) != (1, 1, [number, number]):
        raise ModelFileError(
            f"the graph has {len(inputs)} inputs and {len(graph.output)} outputs; one of each is "
            "needed, both of float32"
        )
    dims = list(inputs[0].type.tensor_type.shape.dim)
    named = [dim.dim_value if dim.HasField("dim_value") else None for dim in dims]
    wanted = [1, steps, features]
    if len(named) != 3 or any(
        got not in (None, need) for got, need in zip(named, wanted, strict=True)
    ):
        raise ModelFileError(
            f"the graph's input has the shape {tuple(named)}; (1, {steps}, {features}) is needed, "
            "or a name for a dimension: windows, sequence_length bars, one column a feature. Name "
            "features and sequence_length in metadata"
        )
    return str(inputs[0].name)


def _count_made(onnx: Any, model: Any, shape: tuple[int, int, int]) -> int:
    """The number of elements of all tensors that the nodes make of an input of this shape."""
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    graph = copied.graph
    # What the file says of its own shapes is not believed.
    del graph.value_info[:]
    held = {tensor.name for tensor in graph.initializer}
    port = next(port for port in graph.input if port.name not in held)
    for dim, size in zip(port.type.tensor_type.shape.dim, shape, strict=True):
        dim.dim_value = size
    graph.output[0].type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(
        copied, check_type=True, strict_mode=True, data_prop=True
    ).graph
    known = {info.name: _count_elements(info) for info in (*inferred.value_info, *inferred.output)}
    made = [name for node in inferred.node for name in node.output if name]
    unknown = [name for name in made if known.get(name) is None]
    if unknown:
        raise ModelFileError(
            f"the shape of the tensor {unknown[0][:80]!r} depends on values; the shapes of a "
            "window must be fixed"
        )
    out = inferred.output[0].type.tensor_type.shape.dim
    if [dim.dim_value for dim in out] != [shape[0], 1]:
        raise ModelFileError(
            f"the graph's output has the shape {tuple(dim.dim_value for dim in out)} for one "
            "window; one forecast a window, (n, 1), is needed"
        )
    return sum(known[name] or 0 for name in made)


def _count_elements(info: Any) -> int | None:
    """The number of elements of a tensor; None where a dimension is not known."""
    tensor = info.type.tensor_type
    dims = tensor.shape.dim
    if not tensor.HasField("shape") or any(not dim.HasField("dim_value") for dim in dims):
        return None
    return math.prod(int(dim.dim_value) for dim in dims)

"""ONNX graphs as forecasters, and the graphs that are not run."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from mlops.errors import ModelError, ModelFileError
from mlops.features.dataset import windows
from mlops.features.spec import FeatureSpec
from mlops.features.targets import TargetSpec
from mlops.models.base import FitContext, restore_forecaster
from mlops.models.file_formats import FileReading, read_file
from mlops.models.model_file import make_model_file
from mlops.models.onnx_graph import check_graph
from mlops.service import Target
from tests.mlops.models.graphs import (
    FEATURES,
    FLOAT,
    STEPS,
    linear_graph,
    lstm_graph,
    outer_products,
    with_external_data,
    write_graph,
)

TARGET = TargetSpec(Target.VOLATILITY, 4)
READING = FileReading(TARGET, allow_onnx=True, features=("har_1", "har_24"), sequence_length=STEPS)
ROWS = np.arange(710, 880)
WEIGHTS = np.linspace(-1.0, 1.0, STEPS * FEATURES)[:, None]


def node(operator, inputs, outputs, **attributes):
    return helper.make_node(operator, inputs, outputs, **attributes)


def test_a_graph_forecasts_by_itself(dataset_of):
    data = dataset_of(TARGET)
    model = read_file(linear_graph(WEIGHTS), READING)
    matrix = data.matrix(FeatureSpec(("har_1", "har_24")))
    flat = windows(matrix, ROWS, STEPS).reshape(len(ROWS), -1).astype(np.float64)
    np.testing.assert_allclose(model.predict(data, ROWS), flat @ WEIGHTS[:, 0], rtol=0, atol=1e-5)


def test_a_graph_is_restored_from_its_state_and_from_a_file(dataset_of):
    data = dataset_of(TARGET)
    model = read_file(lstm_graph(), READING)
    expected = model.predict(data, ROWS)
    config, tensors = model.state()
    restored = restore_forecaster(json.loads(json.dumps(config)), tensors)
    np.testing.assert_array_equal(restored.predict(data, ROWS), expected)
    from_file = read_file(make_model_file(model), READING)
    np.testing.assert_array_equal(from_file.predict(data, ROWS), expected)


def test_a_graph_that_mixes_windows_forecasts_each_by_itself(dataset_of):
    """It subtracts the mean over the batch, which is the window itself where it is alone."""
    nodes = [
        node("Flatten", ["x"], ["f"], axis=1),
        node("ReduceMean", ["f"], ["over_batch"], axes=[0]),
        node("Sub", ["f", "over_batch"], ["rest"]),
        node("ReduceMean", ["rest"], ["y"], axes=[1]),
    ]
    forecasts = read_file(write_graph(nodes), READING).predict(dataset_of(TARGET), ROWS)
    np.testing.assert_array_equal(forecasts, 0.0)


def test_a_file_with_a_graph_is_refused_where_onnx_is_not_allowed():
    content = make_model_file(read_file(lstm_graph(), READING))
    with pytest.raises(ModelFileError, match="type 'onnx'"):
        read_file(content, FileReading(TARGET))


def test_a_graph_is_not_fitted(dataset_of):
    model = read_file(lstm_graph(), READING)
    with pytest.raises(ModelError, match="registered as it is"):
        model.fit(dataset_of(TARGET), ROWS, ROWS, FitContext())


def branch(name):
    constant = helper.make_tensor("c", FLOAT, [1, 1], [0.0])
    return helper.make_graph(
        [node("Constant", [], ["y"], value=constant)],
        name,
        [],
        [helper.make_tensor_value_info("y", FLOAT, [1, 1])],
    )


MEAN = node("ReduceMean", ["x"], ["y"], axes=[1, 2], keepdims=0)
TWICE = [node("Flatten", ["x"], ["f"], axis=1), node("ReduceMean", ["f"], ["y"], axes=[1])]
BY_VALUE = [
    node("Flatten", ["x"], ["f"], axis=1),
    node("Cast", ["f"], ["numbers"], to=TensorProto.INT64),
    node("Reshape", ["numbers", "long"], ["sizes"]),
    node("Reshape", ["f", "sizes"], ["odd"]),
    node("ReduceMean", ["odd"], ["y"], axes=[1]),
]
CONDITION = [node("If", ["x"], ["y"], then_branch=branch("a"), else_branch=branch("b"))]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"\x08\x09garbage", "not sound", id="garbage"),
        (write_graph(CONDITION), "the operator If, which is not run here"),
        (write_graph([node("Expand", ["x", "s"], ["y"])]), "the operator Expand"),
        (write_graph([node("Own", ["x"], ["y"], domain="mine")], domain="mine"), "domains mine"),
        (write_graph(TWICE, opset=7), "opset 7; 11 to 23"),
        (write_graph(TWICE, shape=("n", 5, FEATURES)), "input has the shape"),
        (write_graph(TWICE, shape=(2, STEPS, FEATURES)), "input has the shape"),
        (write_graph(TWICE, shape=("n", STEPS)), "input has the shape"),
        (write_graph(TWICE, kinds=(TensorProto.DOUBLE, FLOAT)), "both of float32"),
        (write_graph([MEAN], out=("n",)), "one forecast a window"),
        (with_external_data(linear_graph(WEIGHTS)), "in another file"),
        (outer_products(4), "numbers of one window"),
        (write_graph(BY_VALUE, {"long": np.array([-1])}), "depends on values"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_graph_that_asks_for_too_much_is_refused(content, message):
    with pytest.raises(ModelFileError, match=message):
        check_graph(content, steps=STEPS, features=FEATURES)


def test_a_graph_of_a_moderate_product_is_run():
    assert check_graph(outer_products(1), steps=STEPS, features=FEATURES) == "x"


def test_shapes_that_the_file_claims_are_not_believed():
    """A file that says a huge tensor is small is measured all the same."""
    content = outer_products(4)
    model = onnx.load_model_from_string(content)
    for name in ("square0", "square1", "square2"):
        model.graph.value_info.append(helper.make_tensor_value_info(name, FLOAT, ["n", 1, 1]))
    with pytest.raises(ModelFileError, match="numbers of one window"):
        check_graph(model.SerializeToString(), steps=STEPS, features=FEATURES)

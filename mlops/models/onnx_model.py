"""Models that another program exported to ONNX: run as they are, never fitted here.

A graph gets a window of features (1, T, F), float32, scale-free and not standardised, and returns
a forecast (1, 1) in the target's unit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mlops.arrays import BoolArray, Float32Array, FloatArray, RowArray
from mlops.errors import ModelError, ModelFileError
from mlops.features.dataset import Dataset, windows
from mlops.features.spec import DEFAULT_FEATURES, FeatureSpec
from mlops.features.targets import TargetSpec
from mlops.models.base import FitContext, Forecaster, History, Tensors
from mlops.models.onnx_graph import check_graph, import_package
from mlops.models.recipe import Recipe

FAMILY = "onnx"
GRAPH = "graph"
_FATAL_ONLY = 4


class OnnxModel(Forecaster):
    """Forecasts by a graph on one thread of the CPU."""

    def __init__(self, recipe: Recipe, target: TargetSpec) -> None:
        super().__init__(recipe, target)
        self.spec = FeatureSpec(self.recipe.features)
        self._content = b""
        self._input_name = ""
        self._session: Any = None

    @classmethod
    def defaults(cls, target: TargetSpec) -> Recipe:
        return Recipe(FAMILY, DEFAULT_FEATURES)

    @property
    def warm_up(self) -> int:
        return self.spec.warm_up + self.recipe.sequence_length

    def fit(
        self, dataset: Dataset, fit_rows: RowArray, selection_rows: RowArray, context: FitContext
    ) -> History:
        raise ModelError("an ONNX graph is registered as it is; train one of the other types here")

    def ready(self, dataset: Dataset) -> BoolArray:
        return dataset.usable(self.spec, self.recipe.sequence_length)

    def _predict(self, dataset: Dataset, rows: RowArray) -> FloatArray:
        if self._session is None:
            raise ModelError("the ONNX model has no graph; restore it from its state first")
        every = windows(dataset.matrix(self.spec), rows, self.recipe.sequence_length)
        # One at a time: the graph was measured for one window, and may mix those of a batch.
        return np.array([self._run(np.ascontiguousarray(window[None])) for window in every])

    def _run(self, window: Float32Array) -> float:
        try:
            (forecast,) = self._session.run(None, {self._input_name: window})
        except Exception as error:
            raise ModelError(f"the ONNX graph failed on a window: {str(error)[:300]}") from error
        return float(forecast[0, 0])

    def state(self) -> tuple[dict[str, Any], Tensors]:
        return self._identity(), {GRAPH: np.frombuffer(self._content, dtype=np.uint8)}

    def load_state(self, config: Mapping[str, Any], tensors: Tensors) -> None:
        if GRAPH not in tensors or tensors[GRAPH].dtype != np.uint8:
            raise ModelError(f"the state has no tensor {GRAPH!r} of bytes")
        self.load_graph(tensors[GRAPH].tobytes())

    def load_graph(self, content: bytes) -> None:
        """Check a graph and make it ready to run.

        Raises:
            ModelFileError: when it holds what is not run here.
            ModelUnavailable: when the extra ``onnx`` is not installed here.
        """
        self._input_name = check_graph(
            content, steps=self.recipe.sequence_length, features=len(self.spec)
        )
        runtime = import_package("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.enable_cpu_mem_arena = False
        options.log_severity_level = _FATAL_ONLY
        try:
            self._session = runtime.InferenceSession(
                content, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise ModelFileError(f"the ONNX graph does not load: {str(error)[:300]}") from error
        self._content = content


def read_onnx(
    content: bytes, *, target: TargetSpec, features: Sequence[str], sequence_length: int
) -> OnnxModel:
    """The forecaster of a graph.

    Args:
        features: What the graph is given, in this order.
        sequence_length: Bars in one window.

    Raises:
        ModelFileError: when the graph holds what is not run here, or takes other windows.
    """
    model = OnnxModel(Recipe(FAMILY, tuple(features), sequence_length), target)
    model.load_graph(content)
    return model

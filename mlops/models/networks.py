"""Networks as forecasters: the shared recipe parameters, fitting, forecasting and state."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch

from mlops.arrays import FloatArray, RowArray
from mlops.errors import ModelError
from mlops.features.dataset import Dataset
from mlops.models.base import FitContext, History, Tensors
from mlops.models.devices import choose_device, one_torch_thread
from mlops.models.feature_forecaster import FeatureForecaster
from mlops.models.recipe import Param
from mlops.models.trainer import Network, TrainingHyperparameters, gather_windows, train_network

PREDICT_BATCH = 2_048
"""Windows in one forward pass."""

NETWORK_PARAMS: Mapping[str, Param] = {
    "dropout_rate": Param(0.1, low=0.0, high=0.9),
    "learning_rate": Param(0.001, low=1e-6, high=1.0),
    "batch_size": Param(32, low=1, high=65_536),
    "epochs": Param(100, low=1, high=10_000),
    "patience": Param(8, low=1, high=10_000),
    "weight_decay": Param(0.0, low=0.0, high=10.0),
    "gradient_clip": Param(1.0, low=1e-6, high=1e6),
    "averaging": Param(0.0, low=0.0, high=0.9999),
}


class NetworkForecaster(FeatureForecaster):
    """A forecaster whose learned part is a `Network`."""

    SCHEMA: ClassVar[Mapping[str, Param]] = NETWORK_PARAMS
    network: Network | None = None

    @abstractmethod
    def build(self, n_features: int) -> Network:
        """The network of this recipe, before `Network.initialise` draws its weights."""

    def fit(
        self, dataset: Dataset, fit_rows: RowArray, selection_rows: RowArray, context: FitContext
    ) -> History:
        fit_rows = self.trainable(dataset, fit_rows)
        selection_rows = self.trainable(dataset, selection_rows)
        self.prepare(dataset, fit_rows)
        device = choose_device(context.device)
        network = self.build(len(self.spec))
        network.initialise(torch.Generator().manual_seed(context.seed))
        network = network.to(device)
        learned = np.full(len(dataset), np.nan, dtype=np.float32)
        for rows in (fit_rows, selection_rows):
            learned[rows] = self.learned(dataset, rows)
        history = train_network(
            network,
            torch.from_numpy(self.inputs(dataset)).to(device),
            torch.from_numpy(learned).to(device),
            fit_rows=torch.from_numpy(fit_rows),
            selection_rows=torch.from_numpy(selection_rows),
            config=TrainingHyperparameters.of(self.recipe),
            context=context,
        )
        self.network = network.cpu().eval()
        return history

    def _predict(self, dataset: Dataset, rows: RowArray) -> FloatArray:
        network = self._require_network()
        inputs = torch.from_numpy(self.inputs(dataset))
        parts = torch.split(torch.from_numpy(rows), PREDICT_BATCH)
        with torch.inference_mode(), one_torch_thread():
            forecasts = [
                network(gather_windows(inputs, part, self.recipe.sequence_length)) for part in parts
            ]
        learned = torch.cat(forecasts).double().numpy() if forecasts else np.empty(0)
        return self.transform.decode(learned, dataset, rows)

    def _require_network(self) -> Network:
        if self.network is None:
            raise ModelError(f"{self.recipe.model_type} is not fitted; call fit or restore first")
        return self.network

    def state(self) -> tuple[dict[str, Any], Tensors]:
        weights = self._require_network().state_dict()
        return self.path_state(), {name: weight.numpy() for name, weight in weights.items()}

    def load_state(self, config: Mapping[str, Any], tensors: Tensors) -> None:
        self.load_path(config)
        self._check_shapes(tensors)
        network = self.build(len(self.spec))
        weights = {name: torch.from_numpy(np.array(value)) for name, value in tensors.items()}
        network.load_state_dict(weights)
        self.network = network.eval()

    def _check_shapes(self, tensors: Tensors) -> None:
        """Compare with a network without memory, before a recipe asks for memory it must not have.

        Raises:
            ModelError: naming the first weight that lacks, is too many or has another shape.
        """
        with torch.device("meta"):
            needed = self.build(len(self.spec)).state_dict()
        for name in sorted(needed.keys() | tensors.keys()):
            got = tuple(tensors[name].shape) if name in tensors else None
            wanted = tuple(needed[name].shape) if name in needed else None
            if got != wanted:
                raise ModelError(
                    f"weight {name!r} has the shape {got}; the recipe needs {wanted} (None: no "
                    "such weight)"
                )

    def check_state(self) -> None:
        super().check_state()
        for name, weight in self._require_network().state_dict().items():
            if not bool(torch.isfinite(weight).all()):
                raise ModelError(f"weight {name!r} has a number that is not finite")

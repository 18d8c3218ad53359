"""The LSTM: stacked layers over a window, a linear head on the last step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

from mlops.features.targets import TargetSpec
from mlops.models.networks import NETWORK_PARAMS, NetworkForecaster
from mlops.models.recipe import Param, Recipe
from mlops.models.trainer import Network, dropout_mask

LSTM_CONFIG = {
    "sequence_length": 60,
    "features": ["open", "high", "low", "close", "volume"],
    "lstm_units": [128, 64, 32],
    "dropout_rate": 0.2,
    "learning_rate": 0.001,
    "batch_size": 32,
    "epochs": 100,
}
"""The platform's configuration, the default of this type."""


class LstmNetwork(Network):
    """LSTM layers of the given widths; dropout between them is drawn once for a window."""

    def __init__(self, n_features: int, units: Sequence[int], dropout: float) -> None:
        super().__init__()
        sizes = [n_features, *units]
        self.layers = nn.ModuleList(nn.LSTM(size, width) for size, width in pairwise(sizes))
        self.head = nn.Linear(sizes[-1], 1)
        self.units, self.dropout = tuple(units), dropout

    def forward(self, window: Tensor, masks: Sequence[Tensor] = ()) -> Tensor:
        """Standardised forecasts (n,) from windows (T, n, F)."""
        flow = window
        for number, layer in enumerate(self.layers):
            flow, _ = layer(flow)
            if number + 1 == len(self.layers):
                flow = flow[-1]
            if masks:
                flow = flow * masks[number]
        out: Tensor = self.head(flow).squeeze(-1)
        return out

    def masks(self, n: int, generator: torch.Generator) -> list[Tensor]:
        if self.dropout == 0:
            return []
        return [dropout_mask((n, width), self.dropout, generator) for width in self.units]

    def initialise(self, generator: torch.Generator) -> None:
        """Uniform within one over the root of the width, as in torch.

        With orthogonal recurrent weights and open forget gates a stack of three layers needed
        more epochs before it began to fit a product of two inputs.
        """
        for layer in (*self.layers, self.head):
            width = layer.in_features if isinstance(layer, nn.Linear) else layer.hidden_size
            bound = 1.0 / math.sqrt(float(width))
            for weight in layer.parameters():
                nn.init.uniform_(weight, -bound, bound, generator=generator)


class Lstm(NetworkForecaster):
    """The LSTM forecaster; its parameters have the platform's names."""

    SCHEMA: ClassVar[Mapping[str, Param]] = {
        **NETWORK_PARAMS,
        "lstm_units": Param((128, 64, 32), low=1, high=4_096),
    }

    @classmethod
    def defaults(cls, target: TargetSpec) -> Recipe:
        return Recipe("lstm").with_config(LSTM_CONFIG)

    def build(self, n_features: int) -> Network:
        units = self.recipe.params["lstm_units"]
        assert isinstance(units, tuple)
        widths = [int(width) for width in units]
        return LstmNetwork(n_features, widths, self.recipe.number("dropout_rate"))

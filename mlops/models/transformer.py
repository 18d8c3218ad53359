"""The Transformer: pre-norm attention blocks over a window, a linear head on the last step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from mlops.errors import ModelError
from mlops.features.targets import TargetSpec
from mlops.models.networks import NETWORK_PARAMS, NetworkForecaster
from mlops.models.recipe import Param, Recipe
from mlops.models.trainer import Network, dropout_mask

TRANSFORMER_CONFIG = {
    "sequence_length": 100,
    "features": ["open", "high", "low", "close", "volume", "rsi", "macd"],
    "embed_dim": 128,
    "num_heads": 8,
    "ff_dim": 256,
    "num_layers": 4,
    "dropout_rate": 0.1,
    "learning_rate": 0.0001,
}
"""The platform's configuration, the default of this type."""

WAVELENGTH = 10_000.0


class Block(nn.Module):
    """Self-attention and a feed-forward layer, each added to its input (T, n, E)."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_hidden = nn.LayerNorm(width), nn.LayerNorm(width)
        self.projections, self.output = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.hidden = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, flow: Tensor, masks: Sequence[Tensor]) -> Tensor:
        attended, hidden = self._attend(self.before_attention(flow)), self.hidden
        flow = flow + (attended * masks[0] if masks else attended)
        lifted = hidden(self.before_hidden(flow))
        out: Tensor = flow + (lifted * masks[1] if masks else lifted)
        return out

    def _attend(self, flow: Tensor) -> Tensor:
        steps, n, width = flow.shape
        split = self.projections(flow).view(steps, n, 3, self.heads, width // self.heads)
        query, key, value = split.permute(2, 1, 3, 0, 4)
        mixed = scaled_dot_product_attention(query, key, value).permute(2, 0, 1, 3)
        out: Tensor = self.output(mixed.reshape(steps, n, width))
        return out


class TransformerNetwork(Network):
    """Embedding plus sinusoidal positions, blocks, and a head on the last step."""

    def __init__(
        self, n_features: int, *, width: int, heads: int, hidden: int, layers: int, dropout: float
    ) -> None:
        super().__init__()
        self.embedding = nn.Linear(n_features, width)
        self.blocks = nn.ModuleList(Block(width, heads, hidden) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 1)
        self.width, self.dropout = width, dropout

    def forward(self, window: Tensor, masks: Sequence[Tensor] = ()) -> Tensor:
        """Standardised forecasts (n,) from windows (T, n, F)."""
        flow = self.embedding(window) + positions(len(window), self.width).to(window.device)
        for number, block in enumerate(self.blocks):
            flow = block(flow, masks[2 * number : 2 * number + 2])
        out: Tensor = self.head(self.norm(flow[-1])).squeeze(-1)
        return out

    def masks(self, n: int, generator: torch.Generator) -> list[Tensor]:
        if self.dropout == 0:
            return []
        shape = (n, self.width)
        return [dropout_mask(shape, self.dropout, generator) for _ in range(2 * len(self.blocks))]

    def initialise(self, generator: torch.Generator) -> None:
        """Xavier weights and zero biases; norms start as the identity."""
        for name, weight in self.named_parameters():
            if weight.dim() > 1:
                nn.init.xavier_uniform_(weight, generator=generator)
            elif "norm" in name or "before" in name:
                nn.init.constant_(weight, 1.0 if name.endswith("weight") else 0.0)
            else:
                nn.init.zeros_(weight)


def positions(steps: int, width: int) -> Tensor:
    """Sinusoidal positions (T, 1, E) counted back from the last bar (Vaswani 2017)."""
    back = torch.arange(steps - 1, -1, -1, dtype=torch.float32)[:, None]
    rates = torch.exp(torch.arange(0, width, 2) * (-math.log(WAVELENGTH) / width))
    waves = torch.stack([torch.sin(back * rates), torch.cos(back * rates)], dim=-1)
    return waves.reshape(steps, 1, -1)[..., :width]


class Transformer(NetworkForecaster):
    """The Transformer forecaster; its parameters have the platform's names."""

    SCHEMA: ClassVar[Mapping[str, Param]] = {
        **NETWORK_PARAMS,
        "embed_dim": Param(128, low=2, high=4_096),
        "num_heads": Param(8, low=1, high=128),
        "ff_dim": Param(256, low=1, high=16_384),
        "num_layers": Param(4, low=1, high=64),
    }

    @classmethod
    def defaults(cls, target: TargetSpec) -> Recipe:
        return Recipe("transformer").with_config(TRANSFORMER_CONFIG)

    def validate(self, recipe: Recipe) -> Recipe:
        recipe = super().validate(recipe)
        width, heads = recipe.whole("embed_dim"), recipe.whole("num_heads")
        if width % heads:
            raise ModelError(f"embed_dim={width} is not a multiple of num_heads={heads}")
        return recipe

    def build(self, n_features: int) -> Network:
        recipe = self.recipe
        return TransformerNetwork(
            n_features,
            width=recipe.whole("embed_dim"),
            heads=recipe.whole("num_heads"),
            hidden=recipe.whole("ff_dim"),
            layers=recipe.whole("num_layers"),
            dropout=recipe.number("dropout_rate"),
        )

"""Which recipes a search may try: for each model type a base recipe and what may vary.

One space for one model type: a genetic search over a single space in which half of the
parameters are ignored wastes its crossovers on what does nothing.

Networks in a space are small and learn fast. On bars with an R2 of 2 % a wide network does
not see more, it only costs more; and the fewer bars a window has, the less noise it fits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mlops.errors import ModelError
from mlops.features.targets import TargetSpec
from mlops.models.base import default_recipe
from mlops.models.recipe import Recipe
from mlops.service import Target

Choice = Any


@dataclass(frozen=True, slots=True)
class Choices:
    """A finite list; values may be lists, such as features or layer widths."""

    values: tuple[Choice, ...]


@dataclass(frozen=True, slots=True)
class Span:
    """A range of numbers searched on a logarithmic scale, both ends included."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class SearchSpace:
    """A base recipe and, by flat config key, what may replace its value."""

    base: Recipe
    varied: Mapping[str, Choices | Span] = field(default_factory=dict)

    @property
    def model_type(self) -> str:
        return self.base.model_type

    def recipe(self, chosen: Mapping[str, Any]) -> Recipe:
        """The base with the chosen values laid over it."""
        return self.base.with_config(chosen)


RETURN_FEATURES = ("log_return", "volume", "volatility_24")
RETURN_FEATURES_WIDE = (*RETURN_FEATURES, "rsi", "macd")

VOLATILITY_FEATURES = (
    "har_1", "har_6", "har_24", "har_168", "volatility_24", "volatility_168",
    "volume", "volume_ratio", "hour_sin", "hour_cos", "week_sin", "week_cos",
)  # fmt: skip
VOLATILITY_FEATURES_LEAN = (
    "har_1", "har_6", "har_24", "har_168", "volume", "hour_sin", "hour_cos",
)  # fmt: skip

FAST_TRAINING = {
    "batch_size": 256,
    "learning_rate": 0.01,
    "epochs": 40,
    "patience": 6,
    "dropout_rate": 0.0,
    "weight_decay": 0.01,
    "averaging": 0.98,
}
"""A small network's training: a fit on 5,000 rows takes well below a second on one core."""

LEARNING: Mapping[str, Choices | Span] = {
    "learning_rate": Span(0.004, 0.02),
    "dropout_rate": Choices((0.0, 0.1, 0.2)),
    "weight_decay": Choices((0.01, 0.1)),
}


def compact_config(model_type: str, target: TargetSpec) -> dict[str, Any]:
    """The flat config a search starts from: a small network for this target.

    Raises:
        ModelError: when the type is no network.
    """
    if model_type not in _COMPACT:
        raise ModelError(f"model_type={model_type!r} has no compact form; lstm, transformer have")
    volatile = target.kind is Target.VOLATILITY
    features = VOLATILITY_FEATURES if volatile else RETURN_FEATURES
    length = {"sequence_length": 12 if volatile else 1, "features": features}
    return {**FAST_TRAINING, **length, **_COMPACT[model_type](volatile)}


def search_space(
    model_type: str, target: TargetSpec, config: Mapping[str, Any] | None = None
) -> SearchSpace:
    """The space of a model type; what ``config`` fixes is not varied.

    A type without a space of its own (a baseline, an ensemble, a custom model) is tried as
    its one recipe.

    Raises:
        ModelError: for an unknown type or key.
    """
    fixed = dict(config or {})
    start = compact_config(model_type, target) if model_type in _COMPACT else {}
    base = default_recipe(model_type, target, {**start, **fixed})
    varied = _VARIED.get(model_type, _nothing)(target.kind is Target.VOLATILITY)
    return SearchSpace(base, {key: value for key, value in varied.items() if key not in fixed})


def _nothing(_: bool) -> Mapping[str, Choices | Span]:
    return {}


def _seen(volatile: bool) -> Mapping[str, Choices | Span]:
    if volatile:
        features = Choices((VOLATILITY_FEATURES, VOLATILITY_FEATURES_LEAN))
        return {"features": features, "sequence_length": Choices((6, 12, 24))}
    features = Choices((RETURN_FEATURES, RETURN_FEATURES_WIDE))
    return {"features": features, "sequence_length": Choices((1, 2, 4))}


def _vary_linear(volatile: bool) -> Mapping[str, Choices | Span]:
    lengths = Choices((1, 2, 6) if volatile else (1, 2, 4))
    return {**_seen(volatile), "sequence_length": lengths}


def _vary_lstm(volatile: bool) -> Mapping[str, Choices | Span]:
    units = ((16,), (32,), (64, 32)) if volatile else ((8,), (16,), (32,))
    return {**_seen(volatile), **LEARNING, "lstm_units": Choices(units)}


def _vary_transformer(volatile: bool) -> Mapping[str, Choices | Span]:
    lengths = Choices((6, 12, 24) if volatile else (2, 4))
    return {
        **_seen(volatile),
        **LEARNING,
        "learning_rate": Span(0.002, 0.01),
        "sequence_length": lengths,
        "num_layers": Choices((1, 2)),
    }


def _compact_lstm(volatile: bool) -> dict[str, Any]:
    return {"lstm_units": [32] if volatile else [16]}


def _compact_transformer(volatile: bool) -> dict[str, Any]:
    size = {"embed_dim": 16, "num_heads": 2, "ff_dim": 32, "num_layers": 1}
    return {**size, "learning_rate": 0.005, "sequence_length": 12 if volatile else 2}


_COMPACT: Mapping[str, Callable[[bool], dict[str, Any]]] = {
    "lstm": _compact_lstm,
    "transformer": _compact_transformer,
}

_VARIED: Mapping[str, Callable[[bool], Mapping[str, Choices | Span]]] = {
    "linear": _vary_linear,
    "lstm": _vary_lstm,
    "transformer": _vary_transformer,
}

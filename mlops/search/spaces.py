"""Which recipes a search may try: for each model type a base recipe and what may vary.

One space for one model type: a genetic search over a single space in which half of the
parameters are ignored wastes its crossovers on what does nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mlops.features.targets import TargetSpec
from mlops.models.base import default_recipe
from mlops.models.recipe import Recipe
from mlops.models.small_networks import (
    COMPACT_TYPES,
    RETURN_FEATURES,
    RETURN_FEATURES_WIDE,
    VOLATILITY_FEATURES,
    VOLATILITY_FEATURES_LEAN,
    compact_config,
)
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


LEARNING: Mapping[str, Choices | Span] = {
    "dropout_rate": Choices((0.0, 0.1, 0.2)),
    "weight_decay": Choices((0.01, 0.1)),
}


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
    start = compact_config(model_type, target) if model_type in COMPACT_TYPES else {}
    base = default_recipe(model_type, target, {**start, **fixed})
    varied = _VARIED.get(model_type, _nothing)(target.kind is Target.VOLATILITY)
    return SearchSpace(base, {key: value for key, value in varied.items() if key not in fixed})


def features_of_space(space: SearchSpace) -> tuple[str, ...]:
    """Every feature that a recipe of the space may read, each once."""
    choices = space.varied.get("features")
    searched = choices.values if isinstance(choices, Choices) else ()
    return tuple(dict.fromkeys([*space.base.features, *(n for names in searched for n in names)]))


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
    rates = Span(0.002, 0.01) if volatile else Span(0.004, 0.02)
    return {**_seen(volatile), **LEARNING, "learning_rate": rates, "lstm_units": Choices(units)}


def _vary_transformer(volatile: bool) -> Mapping[str, Choices | Span]:
    lengths = Choices((6, 12, 24) if volatile else (2, 4))
    return {
        **_seen(volatile),
        **LEARNING,
        "learning_rate": Span(0.002, 0.01),
        "sequence_length": lengths,
        "num_layers": Choices((1, 2)),
    }


_VARIED: Mapping[str, Callable[[bool], Mapping[str, Choices | Span]]] = {
    "linear": _vary_linear,
    "lstm": _vary_lstm,
    "transformer": _vary_transformer,
}

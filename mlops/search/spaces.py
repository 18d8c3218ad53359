"""The recipes that a search may try: for each model type a base recipe and its varied values.

Each model type has a space of its own: in one common space each type ignores half of the
parameters, and the crossovers of a genetic search on those change nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
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
    """A base recipe and, by flat configuration key, the values that may replace its own."""

    base: Recipe
    varied: Mapping[str, Choices | Span] = field(default_factory=dict)

    @property
    def model_type(self) -> str:
        return self.base.model_type

    def base_values(self) -> dict[str, Any]:
        """The base recipe's own value of each varied key."""
        shape = {"features": self.base.features, "sequence_length": self.base.sequence_length}
        return {key: shape.get(key, self.base.params.get(key)) for key in self.varied}

    def recipe(self, chosen: Mapping[str, Any]) -> Recipe:
        """The base recipe with the chosen values instead of its own."""
        return self.base.with_config(chosen)


_Varied = Mapping[str, Choices | Span]

LEARNING: _Varied = {
    "dropout_rate": Choices((0.0, 0.1, 0.2)),
    "weight_decay": Choices((0.01, 0.1)),
}
_VOLATILITY_INPUTS: _Varied = {
    "features": Choices((VOLATILITY_FEATURES, VOLATILITY_FEATURES_LEAN)),
    "sequence_length": Choices((6, 12, 24)),
}
_VOLATILITY_SPACES: Mapping[str, _Varied] = {
    "linear": {**_VOLATILITY_INPUTS, "sequence_length": Choices((1, 2, 6))},
    "lstm": {
        **_VOLATILITY_INPUTS,
        **LEARNING,
        "learning_rate": Span(0.002, 0.01),
        "lstm_units": Choices(((16,), (32,), (64, 32))),
    },
    "transformer": {
        **_VOLATILITY_INPUTS,
        **LEARNING,
        "learning_rate": Span(0.002, 0.01),
        "num_layers": Choices((1, 2)),
    },
}
_RETURN_INPUTS: _Varied = {
    "features": Choices((RETURN_FEATURES, RETURN_FEATURES_WIDE)),
    "sequence_length": Choices((1, 2, 4)),
}
_RETURN_SPACES: Mapping[str, _Varied] = {
    "linear": _RETURN_INPUTS,
    "lstm": {
        **_RETURN_INPUTS,
        **LEARNING,
        "learning_rate": Span(0.004, 0.02),
        "lstm_units": Choices(((8,), (16,), (32,))),
    },
    "transformer": {
        **_RETURN_INPUTS,
        **LEARNING,
        "learning_rate": Span(0.002, 0.01),
        "sequence_length": Choices((2, 4)),
        "num_layers": Choices((1, 2)),
    },
}
"""For the targets that are no volatility."""


def search_space(
    model_type: str, target: TargetSpec, config: Mapping[str, Any] | None = None
) -> SearchSpace:
    """The space of a model type; keys that ``config`` fixes are not varied.

    Nothing varies for a type without a space here (a baseline, an ensemble, a custom model): it
    is tried as its one recipe.

    Raises:
        ModelError: for an unknown type or key.
    """
    fixed = dict(config or {})
    start = compact_config(model_type, target) if model_type in COMPACT_TYPES else {}
    base = default_recipe(model_type, target, {**start, **fixed})
    spaces = _VOLATILITY_SPACES if target.kind is Target.VOLATILITY else _RETURN_SPACES
    varied = spaces.get(model_type, {})
    return SearchSpace(base, {key: value for key, value in varied.items() if key not in fixed})


def features_of_space(space: SearchSpace) -> tuple[str, ...]:
    """Every feature that a recipe of the space may read, each once."""
    choices = space.varied.get("features")
    searched = choices.values if isinstance(choices, Choices) else ()
    return tuple(dict.fromkeys([*space.base.features, *(n for names in searched for n in names)]))

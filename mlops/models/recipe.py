"""Recipes: a model's type, features, window and parameters, before it is fitted.

A recipe is plain JSON, so that tuning, ledger and bundle hold the same value.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from mlops.errors import ModelError

Scalar: TypeAlias = str | int | float | bool
ParamValue: TypeAlias = Scalar | tuple[Scalar, ...]

_OWN_KEYS = ("sequence_length", "features", "members")


@dataclass(frozen=True, slots=True)
class Param:
    """One parameter of a model: its default and the allowed values.

    A tuple default means a list of such values; an int default takes whole numbers only.
    """

    default: ParamValue
    low: float = -math.inf
    high: float = math.inf
    choices: tuple[Scalar, ...] = ()

    def check(self, name: str, value: Any) -> ParamValue:
        """``value`` in the default's type.

        Raises:
            ModelError: naming the key, what was got and what is allowed.
        """
        if not isinstance(self.default, tuple):
            return self._check_scalar(name, value, self.default)
        if not isinstance(value, list | tuple) or not value:
            raise ModelError(f"{name}={value!r} is not a non-empty list such as {self.default}")
        return tuple(self._check_scalar(name, item, self.default[0]) for item in value)

    def _check_scalar(self, name: str, value: Any, like: Scalar) -> Scalar:
        if self.choices:
            if value not in self.choices:
                allowed = ", ".join(str(choice) for choice in self.choices)
                raise ModelError(f"{name}={value!r} is not one of {allowed}")
            return value  # type: ignore[no-any-return]
        if isinstance(like, bool | str):
            if not isinstance(value, type(like)):
                raise ModelError(f"{name}={value!r} is not a {type(like).__name__} like {like!r}")
            return value
        return self._check_number(name, value, whole=isinstance(like, int))

    def _check_number(self, name: str, value: Any, *, whole: bool) -> int | float:
        number = not isinstance(value, bool) and isinstance(value, int | float)
        inside = number and math.isfinite(value) and self.low <= value <= self.high
        if not inside or (whole and value != int(value)):
            kind = "a whole number" if whole else "a number"
            raise ModelError(f"{name}={value!r} is not {kind} from {self.low:g} to {self.high:g}")
        return int(value) if whole else float(value)


@dataclass(frozen=True, slots=True)
class Recipe:
    """A model before it is fitted; lists in ``params`` become tuples.

    ``sequence_length`` counts bars in one window; ``members`` is for ensembles only.
    """

    model_type: str
    features: tuple[str, ...] = ()
    sequence_length: int = 1
    params: Mapping[str, ParamValue] = field(default_factory=dict)
    members: tuple[Recipe, ...] = ()

    def __post_init__(self) -> None:
        length = self.sequence_length
        if isinstance(length, bool) or not isinstance(length, int) or length < 1:
            raise ModelError(f"sequence_length={length!r} is not a whole number of at least 1 bar")
        if isinstance(self.features, str):
            raise ModelError(f"features={self.features!r} is one text; write a list of names")
        params = {k: tuple(v) if isinstance(v, list) else v for k, v in self.params.items()}
        object.__setattr__(self, "params", params)
        object.__setattr__(self, "features", tuple(self.features))
        object.__setattr__(self, "members", tuple(self.members))

    def with_params(self, **changes: ParamValue) -> Recipe:
        """The same recipe with some parameters changed."""
        return replace(self, params={**self.params, **changes})

    def with_config(self, config: Mapping[str, Any]) -> Recipe:
        """This recipe with values replaced by those of a flat platform config.

        ``sequence_length``, ``features`` and ``members`` are fields of the recipe; all other
        keys are parameters.
        """
        own = {key: value for key, value in config.items() if key in _OWN_KEYS}
        if "members" in own:
            own["members"] = tuple(
                item if isinstance(item, Recipe) else Recipe.from_dict(item)
                for item in own["members"]
            )
        params = {key: value for key, value in config.items() if key not in _OWN_KEYS}
        return replace(self, **own, params={**self.params, **params})

    def checked(self, schema: Mapping[str, Param], *, open_keys: bool = False) -> Recipe:
        """This recipe with every parameter of ``schema`` present and legal.

        Args:
            open_keys: Whether parameters that are not in ``schema`` are kept.

        Raises:
            ModelError: for an unknown or illegal parameter.
        """
        unknown = sorted(set(self.params) - set(schema))
        if unknown and not open_keys:
            names = ", ".join(sorted(schema)) or "none"
            raise ModelError(f"{self.model_type} has no parameter {unknown[0]!r}; it knows {names}")
        known = {
            key: param.check(key, self.params.get(key, param.default))
            for key, param in schema.items()
        }
        return replace(self, params={**self.params, **known})

    def number(self, name: str) -> float:
        """A checked numeric parameter."""
        value = self.params[name]
        assert isinstance(value, int | float)
        return value

    def whole(self, name: str) -> int:
        """A checked whole-number parameter."""
        return int(self.number(name))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON; `from_dict` reads it back to an equal recipe."""
        return {
            "model_type": self.model_type,
            "features": list(self.features),
            "sequence_length": self.sequence_length,
            "params": {k: list(v) if isinstance(v, tuple) else v for k, v in self.params.items()},
            "members": [member.to_dict() for member in self.members],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Recipe:
        """Read `to_dict` back."""
        members = tuple(cls.from_dict(member) for member in data.get("members", ()))
        fields = {key: data[key] for key in ("features", "sequence_length", "params")}
        return cls(data["model_type"], **fields, members=members)

    @property
    def every_feature(self) -> tuple[str, ...]:
        """Feature names of the recipe and its members, each once, in order."""
        members = (name for member in self.members for name in member.every_feature)
        return tuple(dict.fromkeys([*self.features, *members]))

    @property
    def digest(self) -> str:
        """SHA-256 over the recipe's sorted JSON."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

"""A fitted forecaster as one file, for another installation; and models that come as a file.

The file is safetensors. The tensors are those of `Forecaster.state`, and its JSON stands in the
file's metadata, so that a restored forecaster forecasts equal to the bit. Bare weights, as other
programs write them, need the JSON beside the file.

Whoever wrote the file is not trusted: nothing in it is code, and families whose recipe names code
are refused.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from mlops.errors import MlopsError, ModelFileError
from mlops.features.targets import TargetSpec
from mlops.models.base import FORECASTERS, OUTSIDE_FORECASTERS, Forecaster, forecaster_class
from mlops.models.tensor_file import (
    TensorHeader,
    parse_json_object,
    read_tensor_header,
    write_tensor_file,
)

FORMAT = "mlops-forecaster/1"
FORMAT_KEY, MODEL_KEY = "format", "model"
RUNS_CODE = frozenset({"custom"})
"""Families whose recipe names code that restoring imports."""

READ_FAMILIES = frozenset(FORECASTERS) - RUNS_CODE
WRITTEN_FAMILIES = READ_FAMILIES | frozenset(OUTSIDE_FORECASTERS)
_RECIPE_KEYS = ("model_type", "features", "sequence_length", "params")
_OWN_PREFIX = "mlops-forecaster/"


def make_model_file(forecaster: Forecaster) -> bytes:
    """Write a fitted forecaster as one safetensors file; equal forecasters give equal bytes.

    Raises:
        ModelFileError: when the forecaster runs code, which no file holds.
    """
    config, tensors = forecaster.state()
    _check_families(config, WRITTEN_FAMILIES)
    model = json.dumps(config, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return write_tensor_file(tensors, {FORMAT_KEY: FORMAT, MODEL_KEY: model})


def check_model_file(
    content: bytes,
    config: Mapping[str, Any] | None = None,
    *,
    target: TargetSpec,
    families: Collection[str] = READ_FAMILIES,
) -> dict[str, Any]:
    """Read the header of a safetensors file; returns the JSON of the forecaster's state.

    Args:
        config: The state's JSON for bare weights: recipe and what the family needs beside it.
        target: What the service forecasts; the state of bare weights is taken as one of it.
        families: Model types that the file may hold.

    Raises:
        ModelFileError: when the header is wrong, a part of the state lacks, or its recipe names
            code.
    """
    header = read_tensor_header(content)
    state = _read_state(header, config)
    _require_keys(state, {"recipe": ()})
    if config is not None:
        named = {"kind": str(target.kind), "horizon": target.horizon}
        state = {"target": named, **state}
    _check_families(state, families)
    _check_complete(state)
    return state


def read_model_file(
    content: bytes,
    config: Mapping[str, Any] | None = None,
    *,
    target: TargetSpec,
    families: Collection[str] = READ_FAMILIES,
) -> Forecaster:
    """Restore the forecaster of a safetensors file, whoever wrote it.

    A file may ask for more memory and time than this process may lose; read one of unknown origin
    in a child process with limits.

    Raises:
        ModelFileError: for whatever is wrong with it.
    """
    from safetensors.numpy import load

    state = check_model_file(content, config, target=target, families=families)
    try:
        model_type = state["recipe"]["model_type"]
        forecaster = forecaster_class(model_type).restore(state, dict(load(content)))
        forecaster.check_state()
    except MlopsError as error:
        raise ModelFileError(f"the file holds no sound model: {error}") from error
    except Exception as error:
        # What is restored decides which library meets a wrong value, and what it raises.
        raise ModelFileError(
            f"the file holds no sound model ({type(error).__name__}: {str(error)[:300]})"
        ) from error
    return forecaster


def _read_state(header: TensorHeader, config: Mapping[str, Any] | None) -> dict[str, Any]:
    named = header.metadata.get(FORMAT_KEY, "")
    if not named.startswith(_OWN_PREFIX):
        if config is None:
            raise ModelFileError(
                "the file holds bare weights; send a config with recipe, scaler and transform "
                "beside it, or a file made by manager.export_model(model_id)"
            )
        return dict(config)
    if named != FORMAT:
        raise ModelFileError(
            f"the file has the format {named[:40]!r}; this release reads {FORMAT!r}. Export it "
            "with this release, or install the one that wrote it"
        )
    if config is not None:
        raise ModelFileError(
            "the file holds its own recipe, and a config is sent beside it; leave config out"
        )
    return parse_json_object(header.metadata.get(MODEL_KEY, ""), f"{MODEL_KEY!r} of the metadata")


def _check_families(state: Mapping[str, Any], allowed: Collection[str]) -> None:
    """Refuse a state that has a family outside ``allowed`` at any depth."""
    for recipe in _iterate_recipes(state):
        family = recipe.get("model_type")
        if not isinstance(family, str) or family not in allowed:
            names = ", ".join(sorted(allowed))
            raise ModelFileError(
                f"the file holds a model of type {str(family)[:80]!r}; a file may hold {names}"
            )


def _iterate_recipes(state: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Every recipe of a state, and those of its members, which restoring reads too."""
    states, recipes = [state], []
    while states:
        current = states.pop()
        recipes.append(_require_object(current.get("recipe"), "recipe"))
        states.extend(_list_members(current))
    while recipes:
        recipe = recipes.pop()
        yield recipe
        recipes.extend(_list_members(recipe))


def _list_members(holder: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    members = holder.get("members", [])
    if not isinstance(members, list | tuple):
        raise ModelFileError(f"members is a {type(members).__name__}; a list is needed")
    return [_require_object(member, "a member") for member in members]


def _require_object(value: object, what: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ModelFileError(f"{what} is a {type(value).__name__}; an object is needed")
    return value


def _check_complete(state: Mapping[str, Any]) -> None:
    """Require what each family's state holds, of members too."""
    states = [state]
    while states:
        current = states.pop()
        family = forecaster_class(current["recipe"]["model_type"])
        own = dict.fromkeys(family.STATE_KEYS, ())
        _require_keys(current, {"recipe": _RECIPE_KEYS, "target": ("kind", "horizon"), **own})
        if "members" in family.STATE_KEYS:
            states.extend(_list_members(current))


def _require_keys(state: Mapping[str, Any], needed: Mapping[str, Collection[str]]) -> None:
    missing = [key for key in needed if key not in state]
    for key, inner in needed.items():
        held = state.get(key)
        if inner and key in state:
            missing += [f"{key}.{name}" for name in inner if name not in _require_object(held, key)]
    if missing:
        raise ModelFileError(
            f"the model's configuration lacks {', '.join(missing)}; it needs {', '.join(needed)}"
        )

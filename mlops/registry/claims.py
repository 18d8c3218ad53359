"""Models brought from elsewhere, with figures nobody here measured.

The figures are claims: they must be possible, and the version says that it rests on them. No
gate saw it, so its status is `refused` until one does, and only a forced rollout serves it.
"""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlops.data.calendar import calendar_for
from mlops.data.load import load_bars
from mlops.data.simulator import simulate_bars
from mlops.errors import GateError, ModelError, RegistryError
from mlops.features.dataset import Dataset
from mlops.features.spec import DEFAULT_FEATURES
from mlops.features.targets import TargetSpec
from mlops.models.base import FORECASTERS, Forecaster, default_recipe
from mlops.models.bundle import Trust
from mlops.models.custom import CLASS_PATH, Custom, Pickled
from mlops.models.recipe import Recipe
from mlops.registry.bundles import bundle_parts
from mlops.registry.registration import Candidate
from mlops.service import Service
from mlops.stats.metrics import ModelMetrics
from mlops.store import Status

EXAMPLE_BARS = 3000
EXAMPLE_SEED = 0
_EXAMPLE_START = datetime(2024, 1, 1, tzinfo=UTC)
_MODEL_TYPE = re.compile(r"[a-z][a-z0-9_]*")
_SHAPE_KEYS = ("features", "sequence_length")


def claimed_candidate(
    model: object,
    *,
    model_type: str,
    service: Service,
    metrics: object,
    dataset: Dataset,
    trust: Trust,
    notes: Mapping[str, Any],
) -> Candidate:
    """A model of any allowed form as a candidate; ``dataset`` gives its golden examples.

    One of our forecasters and an object of an allow-listed module are kept as tensors and
    JSON, anything else as a signed pickle. ``notes`` may say ``features`` and
    ``sequence_length``, what the model's ``predict`` is given.

    Raises:
        RegistryError: when the format or a figure is not allowed.
    """
    claims = checked_claims(metrics)
    if not _MODEL_TYPE.fullmatch(model_type):
        raise RegistryError(
            f"model_type={model_type!r} is not a lower-case name such as 'lstm' or 'custom'"
        )
    try:
        forecaster, pickled = _forecaster(model, model_type, dataset, trust, notes)
        parts = bundle_parts(forecaster, dataset, service, pickled=pickled)
    except ModelError as error:
        raise RegistryError(f"the model cannot be registered: {error}") from error
    return Candidate(
        service=service,
        model_type=model_type,
        parts=parts,
        status=Status.REFUSED,
        recipe_digest=forecaster.recipe.digest,
        metrics=claims,
        claims_only=True,
        notes=notes,
    )


def checked_claims(metrics: object) -> dict[str, float | bool | None]:
    """The figures as a dict, each within its range.

    Raises:
        RegistryError: naming the figure, what was got and what is allowed.
    """
    values = asdict(metrics) if is_dataclass(metrics) and not isinstance(metrics, type) else metrics
    if not isinstance(values, Mapping):
        raise RegistryError(
            f"metrics is a {type(metrics).__name__}; pass ModelMetrics(mse=..., mae=..., ...)"
        )
    for name, value in values.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is not None and not (number and not math.isnan(value)):
            raise RegistryError(f"metric {name}={value!r} is not a number; leave it out if unknown")
    try:
        return ModelMetrics(**values).to_dict()
    except (GateError, TypeError) as error:
        raise RegistryError(f"metrics are not in the expected ranges: {error}") from error


def _forecaster(
    model: object,
    model_type: str,
    dataset: Dataset,
    trust: Trust,
    notes: Mapping[str, Any],
) -> tuple[Forecaster, bytes | None]:
    if isinstance(model, Forecaster):
        if model.target != dataset.target:
            raise RegistryError(
                f"the model forecasts {model.target.kind} over {model.target.horizon} bars, the "
                f"service {dataset.target.kind} over {dataset.target.horizon}; say target and "
                "horizon in metadata"
            )
        return model, None
    kind = type(model)
    path = f"{kind.__module__}:{kind.__qualname__}"
    if trust.classes({"params": {"class_path": path}}):
        return _custom(model, path, dataset, notes), None
    if not callable(getattr(model, "predict", None)) and not _is_torch(model):
        raise RegistryError(
            f"a {kind.__name__} is not a model; allowed are a forecaster of mlops, a torch module, "
            "or an object with predict(features)"
        )
    if not trust.allow_signed_pickle:
        raise RegistryError(
            f"{path} is code that is not ours; put it into an importable module and name that in "
            "CUSTOM_MODEL_MODULES, or, in a trusted notebook, set ALLOW_SIGNED_PICKLE=true"
        )
    recipe = _recipe(model_type, dataset, notes)
    return Pickled(recipe, dataset.target, model), _pickled(model)


def _custom(model: object, path: str, dataset: Dataset, notes: Mapping[str, Any]) -> Custom:
    own = getattr(model, "config", None)
    config = own if isinstance(own, Mapping) else {}
    plain = {key: value for key, value in config.items() if isinstance(value, str | int | float)}
    recipe = Recipe(
        "custom",
        tuple(notes.get("features", DEFAULT_FEATURES)),
        params={**plain, CLASS_PATH: path},
    )
    forecaster = Custom(recipe, dataset.target)
    forecaster.model = model  # type: ignore[assignment]
    return forecaster


def _recipe(model_type: str, dataset: Dataset, notes: Mapping[str, Any]) -> Recipe:
    """What the model is given: as ``notes`` say, else as models of its type are."""
    shape = {key: notes[key] for key in _SHAPE_KEYS if key in notes}
    known = default_recipe(model_type, dataset.target) if model_type in FORECASTERS else None
    features = known.features if known and known.features else DEFAULT_FEATURES
    length = known.sequence_length if known else 1
    return Recipe(model_type, features, length).with_config(shape)


def _pickled(model: object) -> bytes:
    import cloudpickle  # type: ignore[import-untyped]

    try:
        return bytes(cloudpickle.dumps(model))
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise RegistryError(
            f"a {type(model).__name__} cannot be pickled ({error}); "
            "keep open files, connections and threads out of it"
        ) from error


def _is_torch(model: object) -> bool:
    return any(base.__module__.startswith("torch.nn") for base in type(model).__mro__)


def example_bars(service: Service, cache_root: Path) -> tuple[Dataset, str]:
    """Bars for golden examples, which prove loading and not skill: embedded, else simulated."""
    calendar = calendar_for(service.venue, service.symbol)
    if service.venue == "sample":
        frame, source = (
            load_bars(service, cache_root=cache_root).frame.iloc[-EXAMPLE_BARS:],
            "sample",
        )
    else:
        frame = simulate_bars(
            EXAMPLE_BARS, seed=EXAMPLE_SEED, timeframe=service.timeframe.name, start=_EXAMPLE_START
        )
        calendar, source = calendar_for("simulator", service.symbol), "the simulator"
    target = TargetSpec(service.target, service.horizon)
    return Dataset(frame, timeframe=service.timeframe, target=target, calendar=calendar), source

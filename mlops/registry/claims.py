"""Makes candidates of models that were trained elsewhere, with metrics that are claims.

Claims are checked for their ranges only, and the version is marked `claims_only`. No gate judged
it, so its status is `refused`: it may be shadowed, and only a forced rollout serves it.
"""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from mlops.data.calendar import Calendar
from mlops.data.load import load_bars
from mlops.data.market import SAMPLE_VENUE
from mlops.data.simulator import simulate_bars
from mlops.errors import GateError, MlopsError, ModelError, RegistryError
from mlops.features.dataset import Dataset
from mlops.features.spec import DEFAULT_FEATURES
from mlops.features.targets import TargetSpec
from mlops.models.base import FORECASTERS, Forecaster, default_recipe
from mlops.models.bundle import Trust
from mlops.models.custom import CLASS_PATH, Custom, Pickled
from mlops.models.recipe import Recipe
from mlops.plain_numbers import plain_number, whole_number
from mlops.plain_values import plain_notes
from mlops.registry.baseline import ensure_service
from mlops.registry.bundles import bundle_parts
from mlops.registry.connection import Registry
from mlops.registry.markets import read_market
from mlops.registry.registration import Candidate, register
from mlops.service import Service, Timeframe
from mlops.stats.metrics import ModelMetrics
from mlops.store import ModelVersion, Status, Why
from mlops.store.audit import SYSTEM
from mlops.store.requests import RequestKey
from mlops.store.versions import find_version_of_request

EXAMPLE_BARS = 3000
EXAMPLE_SEED = 0
_EXAMPLE_START = datetime(2024, 1, 1, tzinfo=UTC)
_MODEL_TYPE = re.compile(r"[a-z][a-z0-9_]{0,63}")
_SHAPE_KEYS = ("features", "sequence_length")

OWN_NOTES = frozenset(
    {
        "asked_for",
        "bars",
        "config",
        "fitted_until",
        "market",
        "provenance",
        "recipe",
        "refit",
        "request",
        "role",
        "study",
        "triggers",
    }
)
"""Notes that this platform writes on its own trainings, and acts on."""


def register_claimed(
    registry: Registry,
    model: object,
    *,
    model_type: str,
    service: Service,
    metrics: object,
    notes: Mapping[str, Any],
    bars_root: Path,
    actor: str = SYSTEM,
    request: RequestKey | None = None,
    bars: Dataset | None = None,
) -> ModelVersion:
    """Register a model that was trained elsewhere; its service begins where it has not.

    Args:
        request: Names the request; a repeated one gets the version of the first.
        bars: The service's own, for golden examples and as the reference of drift; by default
            `example_bars`.

    Raises:
        RequestKeyReused: when the key is that of another request.
        RegistryError, BundleError: as `claimed_candidate` and `register`.
    """
    known = None if request is None else find_version_of_request(registry.store, request)
    if known is not None:
        return known
    dataset, source = bars, "its own source"
    if dataset is None:
        calendar = read_market(registry.store, service).calendar
        dataset, source = example_bars(service, calendar, bars_root)
    candidate = claimed_candidate(
        model,
        model_type=model_type,
        service=service,
        metrics=metrics,
        dataset=dataset,
        trust=registry.trust,
        notes=notes,
    )
    # This time names the version; no verdict depends on it.
    reason = f"registered by its caller; examples from {source}"
    why = Why(datetime.now(UTC), actor, reason)
    ensure_service(registry, service, dataset, why)
    return register(registry, replace(candidate, request=request), why)


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
    """Make a candidate of a model of any allowed form.

    A forecaster of this library and an object of an allow-listed module are kept as tensors and
    JSON, any other object with ``predict`` as a signed pickle.

    Args:
        metrics: `ModelMetrics` or a mapping with its names.
        dataset: Bars for its golden examples.
        notes: Stored with the version as `plain_notes` writes them; ``features`` and
            ``sequence_length`` in it say what the model's ``predict`` is given.

    Raises:
        RegistryError: when the format, a figure or a note is not allowed.
    """
    claims = checked_claims(metrics)
    notes = check_shape(_refuse_own_notes(plain_notes(notes)))
    if not isinstance(model_type, str) or not _MODEL_TYPE.fullmatch(model_type):
        raise RegistryError(
            f"model_type={model_type!r} is not a lower-case name such as 'lstm' or 'custom', of at "
            "most 64 characters"
        )
    try:
        forecaster, pickled = _wrap_model(model, model_type, dataset, trust, notes)
        parts = bundle_parts(forecaster, dataset, service, pickled=pickled)
    except ModelError as error:
        raise RegistryError(f"the model cannot be registered: {error}") from error
    except MlopsError:
        raise
    except Exception as error:
        # What was trained elsewhere decides which library meets a wrong value, and what it raises.
        raise RegistryError(
            f"the model cannot be registered: {type(error).__name__}: {str(error)[:300]}"
        ) from error
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


def example_bars(service: Service, calendar: Calendar, cache_root: Path) -> tuple[Dataset, str]:
    """Bars for golden examples, and the name of their source.

    They show that a bundle loads and say nothing of its skill: the embedded bars of the venue
    ``sample``, else simulated ones in the sessions of the service's market.

    Args:
        calendar: That of the service's market, by which the bundle tells holes from nights.
    """
    if service.venue == SAMPLE_VENUE:
        frame = load_bars(service, cache_root=cache_root).frame.iloc[-EXAMPLE_BARS:]
        source = SAMPLE_VENUE
    else:
        frame = simulate_bars(
            EXAMPLE_BARS, seed=EXAMPLE_SEED, timeframe=service.timeframe.name, start=_EXAMPLE_START
        )
        frame = frame.set_axis(_first_opens(calendar, service.timeframe, len(frame)))
        source = "the simulator"
    target = TargetSpec(service.target, service.horizon)
    return Dataset(frame, timeframe=service.timeframe, target=target, calendar=calendar), source


def _first_opens(calendar: Calendar, timeframe: Timeframe, count: int) -> pd.DatetimeIndex:
    """Opens of the first bars of a market's sessions since `_EXAMPLE_START`."""
    start = pd.Timestamp(_EXAMPLE_START)
    days = 365 * count / calendar.bars_per_year(timeframe)
    end = start + pd.Timedelta(days=1.2 * days + 14)
    return calendar.expected_opens(start, end, timeframe)[:count]


def checked_claims(metrics: object) -> dict[str, float | bool | None]:
    """Check that each metric is within its range; returns them as a dict.

    Raises:
        RegistryError: naming the metric, its value and what is allowed.
    """
    values = metrics
    if is_dataclass(metrics) and not isinstance(metrics, type):
        values = {field.name: getattr(metrics, field.name) for field in fields(metrics)}
    if not isinstance(values, Mapping):
        raise RegistryError(
            f"metrics is a {type(metrics).__name__}; pass ModelMetrics(mse=..., mae=..., ...)"
        )
    _check_names({str(name) for name in values})
    figures = {name: _checked_figure(name, value) for name, value in values.items()}
    try:
        return ModelMetrics(**figures).to_dict()  # type: ignore[arg-type]
    except (GateError, OverflowError, TypeError) as error:
        raise RegistryError(f"metrics are not in the expected ranges: {error}") from error


def _check_names(names: set[str]) -> None:
    known = {field.name: field.default is MISSING for field in fields(ModelMetrics)}
    lacking = [name for name, is_required in known.items() if is_required and name not in names]
    unknown = sorted(names - known.keys())
    if lacking:
        raise RegistryError(
            f"metrics lack {' and '.join(lacking)}; mse and mae are asked, the others "
            f"({', '.join(name for name, is_required in known.items() if not is_required)}) may be "
            "left out"
        )
    if unknown:
        raise RegistryError(f"metric {unknown[0]!r} is none of {', '.join(known)}")


def _checked_figure(name: object, value: object) -> float | None:
    figure = plain_number(value)
    is_nan = isinstance(figure, float) and math.isnan(figure)
    if value is not None and (figure is None or is_nan):
        raise RegistryError(f"metric {name}={value!r} is not a number; leave it out if unknown")
    return figure


def _refuse_own_notes(notes: dict[str, Any]) -> dict[str, Any]:
    taken = sorted(OWN_NOTES & notes.keys())
    if taken:
        raise RegistryError(
            f"metadata may not hold {', '.join(taken)}: under that name the platform keeps what "
            "its own trainings did; choose another name"
        )
    return notes


def check_shape(notes: dict[str, Any]) -> dict[str, Any]:
    """The notes, with what they say of the model's input in the types that a recipe takes.

    Raises:
        RegistryError: naming the note that says nothing of an input.
    """
    features = notes.get("features", [])
    if not isinstance(features, list) or not all(isinstance(name, str) for name in features):
        raise RegistryError(
            f"metadata['features'] is {features!r}, not a list of names; leave it out for the "
            "default features"
        )
    if "sequence_length" not in notes:
        return notes
    length = whole_number(notes["sequence_length"])
    if length is None:
        raise RegistryError(
            f"metadata['sequence_length'] is {notes['sequence_length']!r}, not a whole number of "
            "bars; leave it out for the default length"
        )
    return {**notes, "sequence_length": length}


def _wrap_model(
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
        return _wrap_custom(model, path, dataset, notes), None
    is_torch = any(base.__module__.startswith("torch.nn") for base in kind.__mro__)
    if not callable(getattr(model, "predict", None)) and not is_torch:
        raise RegistryError(
            f"a {kind.__name__} is not a model; allowed are a forecaster of mlops, a torch module, "
            "or an object with predict(features)"
        )
    if not trust.allow_signed_pickle:
        raise RegistryError(
            f"{path} is code that is not ours; put it into an importable module and name that in "
            "CUSTOM_MODEL_MODULES, or, in a trusted notebook, set ALLOW_SIGNED_PICKLE=true"
        )
    return _pickle_model(model, model_type, dataset, notes)


def _wrap_custom(model: object, path: str, dataset: Dataset, notes: Mapping[str, Any]) -> Custom:
    declared = getattr(model, "config", None)
    config = declared if isinstance(declared, Mapping) else {}
    plain = {key: value for key, value in config.items() if isinstance(value, str | int | float)}
    recipe = Recipe(
        "custom",
        tuple(notes.get("features", DEFAULT_FEATURES)),
        params={**plain, CLASS_PATH: path},
    )
    forecaster = Custom(recipe, dataset.target)
    forecaster.model = model  # type: ignore[assignment]
    return forecaster


def _pickle_model(
    model: object, model_type: str, dataset: Dataset, notes: Mapping[str, Any]
) -> tuple[Pickled, bytes]:
    """The model is given what ``notes`` say, else what models of its type are given."""
    import cloudpickle  # type: ignore[import-untyped]

    shape = {key: notes[key] for key in _SHAPE_KEYS if key in notes}
    known = default_recipe(model_type, dataset.target) if model_type in FORECASTERS else None
    features = known.features if known and known.features else DEFAULT_FEATURES
    length = known.sequence_length if known else 1
    recipe = Recipe(model_type, features, length).with_config(shape)
    forecaster = Pickled(recipe, dataset.target, model)
    try:
        return forecaster, bytes(cloudpickle.dumps(model))
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise RegistryError(
            f"a {type(model).__name__} cannot be pickled ({error}); "
            "keep open files, connections and threads out of it"
        ) from error

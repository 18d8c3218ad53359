"""Begins a service: its declared baseline is registered like any version and goes live."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mlops.features.dataset import Dataset
from mlops.models.base import BASELINES, FitContext, build_forecaster, default_recipe
from mlops.registry.bundles import bundle_parts
from mlops.registry.connection import Registry
from mlops.registry.registration import Candidate, CommitHook, register
from mlops.service import Service
from mlops.store import Route, Status, Why, get_route

SELECTION_SHARE = 0.2


def ensure_service(
    registry: Registry,
    service: Service,
    dataset: Dataset,
    why: Why,
    within: Sequence[CommitHook] = (),
) -> Route:
    """The service's route; where it has none yet, its baseline becomes version 1 and champion.

    Args:
        dataset: Bars of the service, for golden examples and for the base rate of a direction.
        within: Called in the transaction that begins the service.
    """
    route = get_route(registry.store, service.key)
    if route is None:
        register(registry, baseline_candidate(service, dataset), why, within=within)
        route = get_route(registry.store, service.key)
        assert route is not None
    return route


def baseline_candidate(service: Service, dataset: Dataset) -> Candidate:
    """The declared baseline of the service's target as a candidate."""
    model_type = BASELINES[service.target]
    recipe = default_recipe(model_type, dataset.target)
    forecaster = build_forecaster(recipe, dataset.target)
    rows = np.flatnonzero(dataset.labels.valid)
    cut = int(len(rows) * (1 - SELECTION_SHARE))
    forecaster.fit(dataset, rows[:cut], rows[cut:], FitContext())
    return Candidate(
        service=service,
        model_type=model_type,
        parts=bundle_parts(forecaster, dataset, service),
        status=Status.DEPLOYED,
        recipe_digest=recipe.digest,
        notes={"role": "the service's declared baseline"},
        begins_service=True,
    )

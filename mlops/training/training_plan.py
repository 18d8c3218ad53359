"""One training, decided before anything is fitted: slices, recipes, proof and mandate."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from mlops.code_version import code_of
from mlops.features.causality import CausalityProof
from mlops.features.dataset import Dataset
from mlops.models.base import build_forecaster
from mlops.models.recipe import Recipe
from mlops.registry.connection import Registry
from mlops.search.config import ModelType, TrainingConfig
from mlops.search.search_plan import (
    SearchPlan,
    plan_search,
    prove_search_causal,
    request_digest,
    study_key,
)
from mlops.search.slices import Slices, cut_refit_slices, cut_slices
from mlops.service import Service
from mlops.training.judgement import declared_baseline
from mlops.training.refit_policy import RefitPolicy, refit_policy_for


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class TrainingPlan:
    """What a training will do; ``request`` is the digest by which it is asked for again.

    ``allowed_classes`` are the custom models it may build.
    """

    service: Service
    dataset: Dataset
    model_type: ModelType
    config: TrainingConfig
    reason: str
    request: str
    mandate: RefitPolicy
    agenda: SearchPlan
    slices: Slices
    baseline: Recipe
    proof: CausalityProof
    allowed_classes: frozenset[str]
    study_key: str


def plan_training(
    registry: Registry,
    service: Service,
    dataset: Dataset,
    *,
    model_type: ModelType,
    config: TrainingConfig,
    reason: str,
    min_bars: int,
) -> TrainingPlan:
    """Decide what a request means on these bars, and prove its features causal.

    Raises:
        InsufficientData: when there are fewer than ``min_bars`` bars.
        LookaheadError: naming a feature that reads the future, and the bar.
        ModelError: when the configuration names something the model type does not know, or a
            class outside the trusted modules.
    """
    request = request_digest(model_type, config)
    mandate = refit_policy_for(
        registry.store, service, request=request, reason=reason, watermark=dataset.content_hash
    )
    agenda = plan_search(dataset, model_type, config)
    if mandate.recipe is not None:
        agenda = SearchPlan(
            recipes={mandate.recipe.model_type: mandate.recipe},
            spaces=(),
            n_searched=0,
            ensemble=False,
        )
    allowed = _allowed_classes(registry, agenda, dataset)
    return TrainingPlan(
        service=service,
        dataset=dataset,
        model_type=model_type,
        config=config,
        reason=reason,
        request=request,
        mandate=mandate,
        agenda=agenda,
        slices=_slices(dataset, config, mandate, min_bars=min_bars),
        baseline=declared_baseline(dataset),
        proof=prove_search_causal(agenda, dataset, seed=config.seed),
        allowed_classes=allowed,
        study_key=study_key(service.key, dataset.content_hash, request, code_of(allowed)),
    )


def _allowed_classes(registry: Registry, agenda: SearchPlan, dataset: Dataset) -> frozenset[str]:
    trusted = (registry.trust.classes(recipe.to_dict()) for recipe in agenda.bases)
    allowed = frozenset[str]().union(*trusted)
    for recipe in agenda.bases:
        build_forecaster(recipe, dataset.target, allowed_classes=allowed)
    return allowed


def _slices(
    dataset: Dataset, config: TrainingConfig, mandate: RefitPolicy, *, min_bars: int
) -> Slices:
    if mandate.since is None:
        return cut_slices(dataset, config, min_bars=min_bars)
    return cut_refit_slices(dataset, config, naive_utc(mandate.since), min_bars=min_bars)


def naive_utc(moment: datetime) -> np.datetime64:
    """An aware moment as the rooms' arrays count time."""
    return np.datetime64(moment.astimezone(UTC).replace(tzinfo=None), "ns")

"""Plans one training before anything is fitted: refit policy, recipes, slices and leakage proof."""

from __future__ import annotations

from dataclasses import dataclass

from mlops.arrays import naive_utc
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
    """What a training will do, and what was requested.

    Args:
        reason: Why the training runs, such as `manual`, `schedule` or the causes of its triggers.
        request: Digest of model type and configuration; equal for the same request on other bars.
        search: The recipes that are tried; of a refit its one recipe.
        proof: That no feature of those recipes reads the future.
        allowed_classes: Class paths of the custom models that it may build.
        study_key: Equal for the same request on the same bars by the same code.
    """

    service: Service
    dataset: Dataset
    model_type: ModelType
    config: TrainingConfig
    reason: str
    request: str
    policy: RefitPolicy
    search: SearchPlan
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

    Args:
        min_bars: Bars that the dataset must have at least.

    Raises:
        InsufficientData: when there are fewer than ``min_bars`` bars.
        LookaheadError: naming a feature that reads the future, and the bar.
        ModelError: when the configuration names a parameter that the model type does not know,
            or a class outside the trusted modules.
        SplitError: when a slice would be empty.
    """
    request = request_digest(model_type, config)
    policy = refit_policy_for(
        registry.store, service, request=request, reason=reason, watermark=dataset.content_hash
    )
    search = (
        plan_search(dataset, model_type, config)
        if policy.recipe is None
        else SearchPlan.of_recipe(policy.recipe)
    )
    allowed = _check_buildable(registry, search, dataset)
    slices = (
        cut_slices(dataset, config, min_bars=min_bars)
        if policy.since is None
        else cut_refit_slices(dataset, config, naive_utc(policy.since), min_bars=min_bars)
    )
    return TrainingPlan(
        service=service,
        dataset=dataset,
        model_type=model_type,
        config=config,
        reason=reason,
        request=request,
        policy=policy,
        search=search,
        slices=slices,
        baseline=declared_baseline(dataset),
        proof=prove_search_causal(search, dataset, seed=config.seed),
        allowed_classes=allowed,
        study_key=study_key(service.key, dataset.content_hash, request, code_of(allowed)),
    )


def _check_buildable(registry: Registry, search: SearchPlan, dataset: Dataset) -> frozenset[str]:
    """Build each recipe's forecaster once; returns the custom classes that are trusted."""
    trusted = (registry.trust.classes(recipe.to_dict()) for recipe in search.bases)
    allowed = frozenset[str]().union(*trusted)
    for recipe in search.bases:
        build_forecaster(recipe, dataset.target, allowed_classes=allowed)
    return allowed

"""Train one recipe: prove its features causal, then walk it through the folds in time."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from time import perf_counter

from mlops.data.splits import Fold
from mlops.features.causality import SAMPLED_BARS, CausalityProof, prove_causality
from mlops.features.dataset import Dataset
from mlops.features.spec import FeatureSpec
from mlops.models.base import FitContext, Forecaster, History
from mlops.models.recipe import Recipe
from mlops.training.walk_forward import WalkForward, run_walk_forward


@dataclass(frozen=True, slots=True, eq=False)
class TrainedCandidate:
    """What a training hands on: the last refit, its forecasts, and how it came about.

    ``proof`` is None only for recipes that read no features.
    """

    recipe: Recipe
    forecaster: Forecaster
    walk: WalkForward
    proof: CausalityProof | None
    seconds: float

    @property
    def histories(self) -> tuple[History, ...]:
        return self.walk.histories


def train(
    recipe: Recipe,
    dataset: Dataset,
    folds: Sequence[Fold],
    context: FitContext,
    *,
    warm_start: bool = False,
    on_fold: Callable[[int, History], None] | None = None,
    allowed_classes: Collection[str] = (),
    sampled_bars: int = SAMPLED_BARS,
) -> TrainedCandidate:
    """Fit and forecast fold after fold; a feature that looks ahead stops it before the first.

    Raises:
        LookaheadError: naming feature and bar.
        TrainingTimeout: when the context's deadline passes.
        ModelError: for a recipe or device that cannot be used.
    """
    started = perf_counter()
    proof = prove_recipe(recipe, dataset, seed=context.seed, sampled_bars=sampled_bars)
    walk = run_walk_forward(
        recipe,
        dataset,
        folds,
        context,
        warm_start=warm_start,
        on_fold=on_fold,
        allowed_classes=allowed_classes,
    )
    return TrainedCandidate(
        recipe=walk.last.recipe,
        forecaster=walk.last,
        walk=walk,
        proof=proof,
        seconds=perf_counter() - started,
    )


def prove_recipe(
    recipe: Recipe, dataset: Dataset, *, seed: int, sampled_bars: int = SAMPLED_BARS
) -> CausalityProof | None:
    """The leakage proof of every feature the recipe or a member of it reads.

    Raises:
        LookaheadError: naming feature and bar.
    """
    names = features_of(recipe)
    if not names:
        return None
    return prove_causality(
        dataset.frame,
        FeatureSpec(names),
        timeframe=dataset.timeframe,
        calendar=dataset.calendar,
        seed=seed,
        n_bars=sampled_bars,
    )


def features_of(recipe: Recipe) -> tuple[str, ...]:
    """All feature names of a recipe and its members, each once, in order."""
    members = (name for member in recipe.members for name in features_of(member))
    return tuple(dict.fromkeys([*recipe.features, *members]))


def available_threads() -> int:
    """Processor cores this process may use; how many of them help is measured while training."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

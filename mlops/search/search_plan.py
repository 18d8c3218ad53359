"""What a request means: recipes tried as they are, spaces searched, and the request's names.

A linear model is on every agenda: a network that cannot beat it does not win.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from mlops.features.causality import CausalityProof, prove_causality
from mlops.features.dataset import Dataset
from mlops.features.spec import FeatureSpec
from mlops.models.base import default_recipe
from mlops.models.recipe import Recipe
from mlops.search.config import ModelType, TrainingConfig
from mlops.search.spaces import SearchSpace, features_of_space, search_space


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchPlan:
    """What a study will try: recipes as they are, spaces to search, an ensemble of the best."""

    recipes: Mapping[str, Recipe]
    spaces: tuple[SearchSpace, ...]
    n_searched: int
    ensemble: bool

    @classmethod
    def of_recipe(cls, recipe: Recipe) -> SearchPlan:
        """One recipe and nothing to search: the plan of a refit."""
        return cls(recipes={recipe.model_type: recipe}, spaces=(), n_searched=0, ensemble=False)

    @property
    def features(self) -> tuple[str, ...]:
        """Every feature that may be read, each once."""
        fixed = (name for recipe in self.recipes.values() for name in recipe.every_feature)
        searched = (name for space in self.spaces for name in features_of_space(space))
        return tuple(dict.fromkeys([*fixed, *searched]))

    @property
    def bases(self) -> tuple[Recipe, ...]:
        """The recipes tried as they are, and the one each search starts from."""
        return (*self.recipes.values(), *(space.base for space in self.spaces))

    @property
    def n_trials(self) -> int:
        return len(self.recipes) + self.n_searched + self.ensemble


def plan_search(dataset: Dataset, model_type: ModelType, config: TrainingConfig) -> SearchPlan:
    """What a request means: its recipe and the linear yardstick, or a search over families."""
    network = ModelType.LSTM if model_type is ModelType.ENSEMBLE else model_type
    families = config.families or tuple(dict.fromkeys([ModelType.LINEAR, network]))
    spaces: tuple[SearchSpace, ...] = ()
    recipes: dict[str, Recipe] = {}
    for family in families:
        own = config.overrides if family is network else {}
        if config.trials:
            spaces = (*spaces, search_space(family, dataset.target, own))
        else:
            recipes[str(family)] = default_recipe(family, dataset.target, own)
    return SearchPlan(
        recipes=recipes,
        spaces=spaces,
        n_searched=config.trials,
        ensemble=model_type is ModelType.ENSEMBLE,
    )


def prove_search_causal(agenda: SearchPlan, dataset: Dataset, *, seed: int) -> CausalityProof:
    """The leakage proof of every feature a study may read, before anything is fitted.

    Raises:
        LookaheadError: naming feature and bar.
    """
    return prove_causality(
        dataset.frame,
        FeatureSpec(agenda.features),
        timeframe=dataset.timeframe,
        calendar=dataset.calendar,
        seed=seed,
    )


def study_key(service_key: str, watermark: str, request_digest: str, code: str) -> str:
    """The same request on the same bars has the same key: it is resumed, and counted once.

    ``code`` tells apart what forecasts: other code's trials are not taken for this one's.
    """
    text = json.dumps([service_key, watermark, request_digest, code])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def request_digest(model_type: ModelType, config: TrainingConfig) -> str:
    """Equal for requests that try the same, whatever their period and who answers for them."""
    asked = config.model_dump(mode="json", exclude={"start", "end", "leak_override"})
    text = json.dumps([str(model_type), asked], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]

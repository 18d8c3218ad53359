"""Plans a search: the recipes that are tried as they are, and the spaces that are searched.

Unless a request names its families, a linear model is in every plan: a network that cannot beat
it does not win.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from mlops.data.file_options import BarsChoice
from mlops.features.causality import CausalityProof, prove_causality
from mlops.features.dataset import Dataset
from mlops.features.spec import FeatureSpec
from mlops.models.base import default_recipe
from mlops.models.recipe import Recipe
from mlops.search.config import ModelType, TrainingConfig
from mlops.search.spaces import SearchSpace, features_of_space, search_space


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchPlan:
    """What a study will try.

    Args:
        recipes: Tried as they are, by trial name.
        spaces: Searched in turn.
        n_searched: Trials over all spaces.
        ensemble: Whether an ensemble of the best recipe of each model type is tried last.
    """

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
        """Every feature that a recipe of the plan may read, each once."""
        fixed = (name for recipe in self.recipes.values() for name in recipe.every_feature)
        searched = (name for space in self.spaces for name in features_of_space(space))
        return tuple(dict.fromkeys([*fixed, *searched]))

    @property
    def bases(self) -> tuple[Recipe, ...]:
        """The recipes that are tried as they are, and the one that each search starts from."""
        return (*self.recipes.values(), *(space.base for space in self.spaces))

    @property
    def n_trials(self) -> int:
        return len(self.recipes) + self.n_searched + self.ensemble


def plan_search(dataset: Dataset, model_type: ModelType, config: TrainingConfig) -> SearchPlan:
    """The plan of a request: its recipe beside a linear one, or a search over its families."""
    network = ModelType.LSTM if model_type is ModelType.ENSEMBLE else model_type
    families = config.families or tuple(dict.fromkeys([ModelType.LINEAR, network]))
    spaces: tuple[SearchSpace, ...] = ()
    recipes: dict[str, Recipe] = {}
    for family in families:
        overrides = config.overrides if family is network else {}
        if config.trials:
            spaces = (*spaces, search_space(family, dataset.target, overrides))
        else:
            recipes[str(family)] = default_recipe(family, dataset.target, overrides)
    return SearchPlan(
        recipes=recipes,
        spaces=spaces,
        n_searched=config.trials,
        ensemble=model_type is ModelType.ENSEMBLE,
    )


def prove_search_causal(plan: SearchPlan, dataset: Dataset, *, seed: int) -> CausalityProof:
    """Prove that no feature of the plan reads the future.

    Raises:
        LookaheadError: naming feature and bar.
    """
    return prove_causality(
        dataset.frame,
        FeatureSpec(plan.features),
        timeframe=dataset.timeframe,
        calendar=dataset.calendar,
        seed=seed,
    )


def study_key(service_key: str, watermark: str, request_digest: str, code: str) -> str:
    """Digest by which a killed study is resumed and its trials are counted once.

    Args:
        watermark: Content hash of the bars.
        code: Version of the code that forecasts (`code_of`): trials of other code are not reused.
    """
    text = json.dumps([service_key, watermark, request_digest, code])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def request_digest(model_type: ModelType, config: TrainingConfig) -> str:
    """Digest of a request; its period, its leak override and how its file is read do not change it.

    >>> from datetime import UTC, datetime
    >>> later = TrainingConfig(end=datetime(2024, 3, 1, tzinfo=UTC))
    >>> digest = request_digest(ModelType.LINEAR, TrainingConfig())
    >>> request_digest(ModelType.LINEAR, later) == digest
    True
    >>> request_digest(ModelType.LINEAR, TrainingConfig(refits=9)) == digest
    False
    """
    ignored = {"start", "end", "leak_override", *BarsChoice.model_fields} - {"bars_file"}
    asked = config.model_dump(mode="json", exclude=ignored)
    text = json.dumps([str(model_type), asked], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]

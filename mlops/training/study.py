"""A study: recipes tried forward in time, the best of them carried through the holdout.

A linear model is always among the trials: a network that cannot beat it does not win.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlops.features.dataset import Dataset
from mlops.models.base import FitContext, default_recipe
from mlops.models.recipe import Recipe
from mlops.training.plan import ModelType, TrainingConfig
from mlops.training.slices import Slices
from mlops.training.walk_forward import WalkForward, run_walk_forward

Floats = NDArray[np.float64]
Rank = Callable[[Mapping[str, Floats]], Mapping[str, float]]
"""Trials' forecasts (N,) by name to how good each is; the gates' own measure."""

Report = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and how much there is."""


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """One recipe's walk through the development slice."""

    name: str
    recipe: Recipe
    walk: WalkForward
    seconds: float


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Study:
    """All trials of one training, the winner, and what it forecast on the holdout."""

    key: str
    slices: Slices
    trials: tuple[Trial, ...]
    ranks: Mapping[str, float]
    winner: Trial
    holdout: WalkForward

    @property
    def development_rows(self) -> NDArray[np.intp]:
        """Rows that every trial forecast: the ones a comparison may use."""
        made = [np.isfinite(trial.walk.forecasts) for trial in self.trials]
        return np.flatnonzero(np.logical_and.reduce(made))


def study_key(service_key: str, watermark: str, model_type: str, config: TrainingConfig) -> str:
    """The same search on the same bars has the same key, so it is resumed and counted once."""
    asked = config.model_dump(mode="json", exclude={"end"})
    text = json.dumps([service_key, watermark, model_type, asked], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]

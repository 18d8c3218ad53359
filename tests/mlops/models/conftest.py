"""Simulated bars, small recipes for each model type, and a way to fit them."""

from __future__ import annotations

import sys
from types import ModuleType

import numpy as np
import pytest

from mlops.data.simulator import simulate_bars
from mlops.features.dataset import Dataset
from mlops.features.targets import TargetSpec
from mlops.models.base import FORECASTERS, FitContext, build_forecaster, default_recipe
from mlops.service import Target, Timeframe

N_BARS = 900
FIT = np.arange(200, 600)
SELECTION = np.arange(610, 700)

TARGETS = {kind: TargetSpec(kind, 4) for kind in Target}

SMALL_NETWORK = {"epochs": 3, "batch_size": 64, "sequence_length": 5, "features": ["har_1", "rsi"]}
SMALL = {
    "ewma": {"span": 12},
    "linear": {"sequence_length": 3, "features": ["har_1", "har_24", "macd"]},
    "lstm": {**SMALL_NETWORK, "lstm_units": [8, 4], "averaging": 0.9},
    "transformer": {
        **SMALL_NETWORK, "embed_dim": 8, "num_heads": 2, "ff_dim": 8, "num_layers": 1
    },
    "custom": {"class_path": "own_models:LastRange", "features": ["har_1", "har_24"], "pull": 0.5},
}  # fmt: skip


class LastRange:
    """A custom model in the platform's shape: the mean target pulled towards a feature."""

    def __init__(self, config):
        self.config = config

    def train(self, data):
        self.mean = data["target"].to_numpy().mean(keepdims=True)
        self.gap = float((data["target"] - data["har_24"]).mean())

    def predict(self, features):
        pull = self.config["pull"]
        return (1 - pull) * self.mean + pull * (features["har_24"].to_numpy() + self.gap)


@pytest.fixture(autouse=True)
def own_models(monkeypatch):
    """An importable module with a custom model, as a user would install it."""
    module = ModuleType("own_models")
    module.LastRange = LastRange
    monkeypatch.setattr(LastRange, "__module__", module.__name__)
    monkeypatch.setitem(sys.modules, "own_models", module)
    return module


def _small_recipe(model_type, target):
    """A recipe that fits in a few hundredths of a second."""
    if model_type == "ensemble":
        members = [_small_recipe(name, target) for name in ("linear", "lstm", "persistence")]
        return default_recipe("ensemble", target, {"members": members})
    return default_recipe(model_type, target, SMALL.get(model_type, {}))


@pytest.fixture(scope="session")
def small_recipe():
    """``small_recipe(model_type, target)`` fits in a few hundredths of a second."""
    return _small_recipe


@pytest.fixture(scope="session")
def fitted(dataset_of):
    """``fitted(recipe, target, context)``: a forecaster fitted on the first 600 rows."""

    def fit(recipe, target, context=FitContext(seed=3)):  # noqa: B008 - frozen
        forecaster = build_forecaster(recipe, target, allowed_classes=["own_models:LastRange"])
        forecaster.fit(dataset_of(target), FIT, SELECTION, context)
        return forecaster

    return fit


@pytest.fixture(scope="session")
def frame():
    return simulate_bars(N_BARS, seed=7)


@pytest.fixture(scope="session")
def dataset_of(frame):
    """One dataset of the simulated bars for each target."""
    made = {}

    def of(target):
        if target not in made:
            made[target] = Dataset(frame, timeframe=Timeframe("1h"), target=target)
        return made[target]

    return of


@pytest.fixture(params=list(TARGETS.values()), ids=[str(kind) for kind in TARGETS])
def target(request):
    return request.param


@pytest.fixture(params=sorted(FORECASTERS))
def model_type(request):
    return request.param

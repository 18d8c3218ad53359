"""Custom classes: allow-listed, given plain frames, kept as plain data."""

from __future__ import annotations

import collections
import os

import numpy as np
import pytest

from mlops.errors import ModelError
from mlops.features.targets import TargetSpec
from mlops.models.base import FitContext, build_forecaster, restore_forecaster
from mlops.models.recipe import Recipe
from mlops.service import Target

VOLATILITY = TargetSpec(Target.VOLATILITY, 4)
ROWS = np.arange(200, 600), np.arange(610, 700)


class Model:
    """A custom model that keeps what it was shown."""

    def __init__(self, config):
        self.config = config

    def train(self, data):
        self.columns = list(data.columns)
        self.first = str(data.index[0])

    def predict(self, features):
        return np.zeros(len(features))


class Unkeepable(Model):
    def train(self, data):
        self.handle = object()


class Speaking(Model):
    """Keeps its state in its own way."""

    def train(self, data):
        self.handle = {1, 2}

    def state(self):
        return {"items": sorted(self.handle)}

    def load_state(self, values):
        self.handle = set(values["items"])


class Wordy(Model):
    def predict(self, features):
        return ["up"] * len(features)


class Short(Model):
    def predict(self, features):
        return np.zeros(len(features) - 1)


@pytest.fixture(autouse=True)
def _installed(own_models, monkeypatch):
    for kind in (Model, Unkeepable, Speaking, Wordy, Short):
        monkeypatch.setattr(own_models, kind.__name__, kind, raising=False)
        monkeypatch.setattr(kind, "__module__", own_models.__name__)


def _fit(name, dataset_of):
    path = f"own_models:{name}"
    recipe = Recipe("custom", ("har_1", "har_24"), params={"class_path": path, "depth": 3})
    forecaster = build_forecaster(recipe, VOLATILITY, allowed_classes=[path])
    forecaster.fit(dataset_of(VOLATILITY), *ROWS, FitContext())
    return forecaster


def test_a_class_that_is_not_allowed_is_not_imported():
    recipe = Recipe("custom", ("har_1",), params={"class_path": "os:system"})
    with pytest.raises(ModelError, match="os:system"):
        build_forecaster(recipe, VOLATILITY, allowed_classes=["own_models:Model"])


@pytest.mark.parametrize("name", ["OrderedDict", "system"])
def test_a_module_does_not_vouch_for_what_it_imports(own_models, monkeypatch, name, dataset_of):
    imported = {"OrderedDict": collections.OrderedDict, "system": os.system}[name]
    monkeypatch.setattr(own_models, name, imported, raising=False)
    with pytest.raises(ModelError, match=f"own_models:{name}' is no class that own_models defines"):
        _fit(name, dataset_of)


def test_a_member_of_an_ensemble_is_checked_as_well():
    member = Recipe("custom", ("har_1",), params={"class_path": "os:system"})
    with pytest.raises(ModelError, match="os:system"):
        build_forecaster(Recipe("ensemble", members=(member,)), VOLATILITY)


def test_a_class_sees_named_columns_by_time_and_its_config(dataset_of, frame):
    model = _fit("Model", dataset_of).model
    assert model.columns == ["har_1", "har_24", "target"]
    assert model.first == str(frame.index[200])
    assert model.config == {"depth": 3}


def test_a_class_may_keep_its_own_state(dataset_of):
    config, tensors = _fit("Speaking", dataset_of).state()
    restored = restore_forecaster(config, tensors, allowed_classes=["own_models:Speaking"])
    assert restored.model.handle == {1, 2}


def test_a_state_that_is_not_plain_is_refused_by_name(dataset_of):
    with pytest.raises(ModelError, match="'handle' as object"):
        _fit("Unkeepable", dataset_of).state()


@pytest.mark.parametrize(("name", "said"), [("Wordy", "one number a row"), ("Short", "shape")])
def test_a_wrong_forecast_is_refused(name, said, dataset_of):
    with pytest.raises(ModelError, match=said):
        _fit(name, dataset_of).predict(dataset_of(VOLATILITY), ROWS[1])


def test_a_class_that_cannot_be_imported_is_named(dataset_of):
    with pytest.raises(ModelError, match="own_models:Missing"):
        _fit("Missing", dataset_of)

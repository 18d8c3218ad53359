"""A training is decided, and its features proven causal, before anything is fitted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mlops.errors import InsufficientData, LookaheadError, ModelError
from mlops.features.dataset import Dataset
from mlops.features.indicators import register_indicator, unregister_indicator
from mlops.registry import Registry
from tests.mlops.registry.conftest import opened_at
from tests.mlops.training.trainings import planned

pytestmark = pytest.mark.usefixtures("unverified")


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's module; it need not import to be planned."""
    path = tmp_path / "users_models.py"
    path.write_text("class Mine: ...")
    monkeypatch.syspath_prepend(str(tmp_path))
    return path


@pytest.fixture
def tomorrow() -> Iterator[str]:
    register_indicator("tomorrow", lambda bars: np.roll(bars.close, -1), warm_up=0)
    yield "tomorrow"
    unregister_indicator("tomorrow")


def test_a_search_has_slices_of_all_bars_and_a_proof(registry: Registry, dataset: Dataset) -> None:
    plan = planned(registry, dataset)
    assert not plan.policy.is_refit
    assert len(plan.slices.development) == len(plan.slices.holdout) == 2
    assert plan.proof.features == ("har_1", "har_24")
    assert plan.baseline.model_type == "persistence"


def test_the_same_request_on_the_same_bars_is_the_same_study(
    registry: Registry, dataset: Dataset
) -> None:
    first, again = planned(registry, dataset), planned(registry, dataset)
    other = planned(registry, dataset, seed=9)
    assert first.study_key == again.study_key
    assert other.study_key != first.study_key


def test_a_feature_that_looks_ahead_stops_the_plan_by_name(
    registry: Registry, dataset: Dataset, tomorrow: str
) -> None:
    with pytest.raises(LookaheadError, match="'tomorrow' looks ahead"):
        planned(registry, dataset, features=("har_1", tomorrow))


def test_too_few_bars_stop_the_plan(registry: Registry, dataset: Dataset) -> None:
    with pytest.raises(InsufficientData):
        planned(registry, dataset, min_bars=len(dataset) + 1)


@pytest.mark.parametrize("trials", [0, 3])
@pytest.mark.usefixtures("own_module")
def test_a_class_must_be_of_a_trusted_module(
    registry: Registry, dataset: Dataset, tmp_path: Path, mlruns: str, trials: int
) -> None:
    asked = {
        "model_type": "custom",
        "sequence_length": 1,
        "params": {"class_path": "users_models:Mine"},
        "trials": trials,
    }
    with pytest.raises(ModelError, match="CUSTOM_MODEL_MODULES"):
        planned(registry, dataset, **asked)
    trusting = opened_at(tmp_path, mlruns, custom_modules=("users_models",))
    assert planned(trusting, dataset, **asked).allowed_classes == {"users_models:Mine"}


def test_changed_code_of_a_custom_model_is_another_study(
    dataset: Dataset, tmp_path: Path, mlruns: str, own_module: Path
) -> None:
    """What the old code forecast must not stand for the new one."""
    trusting = opened_at(tmp_path, mlruns, custom_modules=("users_models",))
    params = {"class_path": "users_models:Mine"}
    asked = {"model_type": "custom", "sequence_length": 1, "params": params}
    before = planned(trusting, dataset, **asked)
    own_module.write_text("class Mine: better = True")
    after = planned(trusting, dataset, **asked)
    assert after.request == before.request
    assert after.study_key != before.study_key

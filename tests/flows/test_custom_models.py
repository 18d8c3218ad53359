"""A model of one's own goes through the same flow, where its module is trusted."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlops.errors import ModelError
from mlops.registry.connection import load
from mlops.store import count_trials, get_version, list_versions
from tests.project import SERVICE, Place, skip_verification

OWN = "own_models"


@pytest.fixture
def trusting(verified: Place) -> Place:
    """A project that trusts the user's module, which lies beside this test."""
    verified.patch.syspath_prepend(str(Path(__file__).parent))
    verified.patch.setenv("PYTHONPATH", str(Path(__file__).parent))
    verified.set(CUSTOM_MODEL_MODULES=OWN)
    return verified


def asked(**more: object) -> dict[str, object]:
    return {
        "features": ("har_1", "har_24"),
        "sequence_length": 1,
        "params": {"class_path": f"{OWN}:MeanReversion", "pull": 0.3},
        **more,
    }


@pytest.mark.slow
def test_a_custom_model_is_searched_with_linear_ones_and_registered(trusting: Place) -> None:
    """Its one recipe is tried once, the linear family takes the other trials."""
    skip_verification(trusting.patch)
    result = trusting.train("custom", **asked(trials=3))
    store = trusting.registry.store
    assert count_trials(store, SERVICE) == 3
    assert get_version(store, result.model_id).notes["asked_for"] == "custom"


@pytest.mark.slow
def test_a_registered_custom_model_loads_and_forecasts(trusting: Place) -> None:
    result = trusting.train("custom", **asked(families=("custom",)))
    version = get_version(trusting.registry.store, result.model_id)
    assert version.model_type == "custom"
    assert len(load(trusting.registry, version.model_id).predict(trusting.frame)) > 2000


@pytest.mark.parametrize("trials", [0, 2])
def test_a_class_outside_the_trusted_modules_is_refused(project: Place, trials: int) -> None:
    with pytest.raises(ModelError, match=r"own_models:MeanReversion.*CUSTOM_MODEL_MODULES"):
        project.train("custom", **asked(trials=trials))
    assert [one.model_type for one in list_versions(project.registry.store)] == ["persistence"]

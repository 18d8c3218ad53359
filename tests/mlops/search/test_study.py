"""A study runs every trial of its plan and walks the best recipe through the holdout."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlops.errors import TrainingError, TrainingTimeout
from mlops.features.dataset import Dataset
from mlops.models.base import FitContext, default_recipe
from mlops.models.recipe import Recipe
from mlops.search import study as module
from mlops.search.config import ModelType, TrainingConfig
from mlops.search.search_plan import SearchPlan, plan_search
from mlops.search.slices import Slices, cut_refit_slices, cut_slices
from mlops.search.study import StudyContext, Trial, run_refit, run_study

CONFIG = TrainingConfig(refits=2, holdout_refits=2, features=("har_1", "har_6"))
SMALL_LSTM = {"epochs": 1, "lstm_units": [4], "batch_size": 256}


def by_loss(dataset: Dataset) -> Any:
    """Trials by their mean squared error, best first."""

    def rank(trials: Mapping[str, np.ndarray]) -> dict[str, float]:
        losses = {
            name: float(np.nanmean((forecasts - dataset.labels.y) ** 2))
            for name, forecasts in trials.items()
        }
        return {name: -losses[name] for name in sorted(losses, key=losses.__getitem__)}

    return rank


class Kept(dict[str, np.ndarray]):
    """The kept trials, and the progress that was reported."""

    def __init__(self) -> None:
        self.reported: list[tuple[str, int, int]] = []

    def keep(self, trial: Trial) -> None:
        self[trial.name] = trial.forecasts


def context_of(dataset: Dataset, kept: Kept, slices: Slices | None = None) -> StudyContext:
    return StudyContext(
        dataset=dataset,
        slices=slices or cut_slices(dataset, CONFIG, min_bars=1000),
        fit_context=FitContext(seed=1),
        rank=by_loss(dataset),
        keep=kept.keep,
        recall=kept.get,
        report=lambda *reported: kept.reported.append(reported),
        expected_folds=6,
    )


def plan_of(dataset: Dataset, model_type: str = "linear", **changes: Any) -> SearchPlan:
    return plan_search(dataset, ModelType(model_type), CONFIG.model_copy(update=changes))


@pytest.fixture
def kept() -> Kept:
    return Kept()


@pytest.fixture
def context(dataset: Dataset, kept: Kept) -> StudyContext:
    return context_of(dataset, kept)


def test_the_best_trial_alone_forecasts_the_holdout(
    context: StudyContext, dataset: Dataset, kept: Kept
) -> None:
    study = run_study(context, plan_of(dataset, "lstm", params=SMALL_LSTM), key="k")
    held = np.concatenate([fold.test for fold in study.slices.holdout])

    assert sorted(kept) == ["linear", "lstm"]
    assert study.winner.name == next(iter(study.ranks))
    assert study.ranks[study.winner.name] == max(study.ranks.values())
    assert np.isfinite(study.holdout.forecasts[held]).all()
    assert all(np.isnan(trial.forecasts[held]).all() for trial in study.trials)
    assert not study.is_refit


def test_compared_rows_are_those_that_every_trial_forecast(
    context: StudyContext, dataset: Dataset
) -> None:
    study = run_study(context, plan_of(dataset), key="k")
    late = study.winner.forecasts.copy()
    late[study.compared_rows[:5]] = np.nan
    other = replace(study, trials=(*study.trials, replace(study.winner, forecasts=late)))
    np.testing.assert_array_equal(other.compared_rows, study.compared_rows[5:])


def test_an_ensemble_averages_the_best_of_each_family(
    context: StudyContext, dataset: Dataset
) -> None:
    study = run_study(context, plan_of(dataset, "ensemble", params=SMALL_LSTM), key="k")
    ensemble = next(trial for trial in study.trials if trial.name == "ensemble")
    assert sorted(member.model_type for member in ensemble.recipe.members) == ["linear", "lstm"]


def test_each_fold_is_reported(context: StudyContext, dataset: Dataset, kept: Kept) -> None:
    run_study(context, plan_of(dataset), key="k")
    assert kept.reported == [
        ("linear, refit 1", 1, 6),
        ("linear, refit 2", 2, 6),
        ("linear on the holdout, refit 1", 3, 6),
        ("linear on the holdout, refit 2", 4, 6),
    ]


def test_a_kept_trial_is_recalled_and_not_walked_again(
    context: StudyContext, dataset: Dataset, kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run_study(context, plan_of(dataset), key="k")
    kept.reported.clear()
    again = run_study(context_of(dataset, kept), plan_of(dataset), key="k")
    np.testing.assert_array_equal(again.winner.forecasts, first.winner.forecasts)
    assert [what for what, _, _ in kept.reported] == [
        "linear on the holdout, refit 1",
        "linear on the holdout, refit 2",
    ]


def test_a_search_goes_on_from_its_journal(
    dataset: Dataset, kept: Kept, tmp_path: Path, context: StudyContext
) -> None:
    """A trial that was finished but not kept is walked again under its name."""
    asked = {"trials": 2, "features": None}
    journal = tmp_path / "journal.log"
    first = run_study(context, plan_of(dataset, **asked), key="k", journal=journal)
    lost = kept.pop("linear-1")
    again = run_study(
        context_of(dataset, kept), plan_of(dataset, **asked), key="k", journal=journal
    )
    assert [trial.name for trial in again.trials] == [trial.name for trial in first.trials]
    np.testing.assert_allclose(kept["linear-1"], lost)


def test_a_search_in_which_nothing_fits_says_why(
    context: StudyContext, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise TrainingError("the loss became nan")

    monkeypatch.setattr("mlops.search.tuning.run_walk_forward", fail)
    with pytest.raises(TrainingError, match=r"none of 2 .* the loss became nan"):
        run_study(context, plan_of(dataset, trials=2, features=None), key="k")


def test_a_passed_deadline_keeps_what_was_finished(
    dataset: Dataset, kept: Kept, context: StudyContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = replace(context, fit_context=FitContext(deadline=time.monotonic() + 3600))
    whole = module.run_walk_forward

    def slow(recipe: Recipe, dataset: Dataset, folds: Any, context: FitContext, **rest: Any) -> Any:
        if recipe.model_type == "lstm":
            context = replace(context, deadline=time.monotonic() - 1)
        return whole(recipe, dataset, folds, context, **rest)

    monkeypatch.setattr(module, "run_walk_forward", slow)
    with pytest.raises(TrainingTimeout):
        run_study(late, plan_of(dataset, "lstm", params=SMALL_LSTM), key="k")
    assert list(kept) == ["linear"]


def test_a_refit_has_one_trial_and_keeps_none(dataset: Dataset, kept: Kept) -> None:
    """It is no search: nothing to recall, nothing to count."""
    slices = cut_refit_slices(dataset, CONFIG, dataset.labels.made_at[1000], min_bars=1000)
    recipe = default_recipe("linear", dataset.target, CONFIG.overrides)
    study = run_refit(context_of(dataset, kept, slices), recipe, key="k")
    assert study.is_refit
    assert study.winner.recipe == recipe
    assert len(study.trials) == 1
    assert kept == {}
    np.testing.assert_array_equal(study.winner.forecasts, study.holdout.forecasts)

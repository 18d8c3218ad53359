"""The evidence of a judgement is what was kept: the right rows, every trial, the right baseline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mlops.data.simulator import simulate_bars
from mlops.features.dataset import Dataset
from mlops.features.targets import TargetSpec
from mlops.models.base import BASELINES, FitContext, build_forecaster
from mlops.search.config import ModelType, TrainingConfig
from mlops.search.search_plan import plan_search
from mlops.search.slices import cut_refit_slices, cut_slices
from mlops.search.study import Study, StudyContext, run_refit, run_study
from mlops.service import Target, Timeframe
from mlops.training.judgement import (
    NAIVE,
    Judgement,
    declared_baseline,
    evidence_of,
    judge_study,
    make_ranker,
)
from mlops.validation.evidence import Override, Thresholds

CONFIG = TrainingConfig(refits=2, holdout_refits=2)
HORIZONS = {Target.VOLATILITY: 24, Target.RETURN: 1, Target.PRICE: 1, Target.DIRECTION: 2}


def make(kind: Target) -> Dataset:
    target = TargetSpec(kind, HORIZONS[kind])
    return Dataset(simulate_bars(1800, seed=4), timeframe=Timeframe("1h"), target=target)


def context_of(dataset: Dataset, slices: Any) -> StudyContext:
    baseline = declared_baseline(dataset)
    return StudyContext(
        dataset=dataset,
        slices=slices,
        fit_context=FitContext(),
        rank=make_ranker(dataset, slices, baseline=baseline, fee_bps=10.0),
        keep=lambda _: None,
        recall=lambda _: None,
        report=lambda *_: None,
    )


def searched(dataset: Dataset, **changes: Any) -> Study:
    config = CONFIG.model_copy(update=changes)
    slices = cut_slices(dataset, config, min_bars=1000)
    plan = plan_search(dataset, ModelType.LINEAR, config)
    return run_study(context_of(dataset, slices), plan, key="k")


def judged(study: Study, dataset: Dataset, **changes: Any) -> Judgement:
    baseline, thresholds = declared_baseline(dataset), Thresholds(**changes.pop("limits", {}))
    require_better = changes.pop("require_better", False)
    evidence = evidence_of(
        study,
        dataset,
        baseline=baseline,
        **{"fee_bps": 10.0, "alpha": 0.05, "causality_proven": True, **changes},
    )
    evidence = replace(evidence, require_better=require_better)
    return judge_study(study, dataset, evidence, baseline=baseline, thresholds=thresholds)


@pytest.fixture(scope="module")
def hourly() -> Dataset:
    return make(Target.VOLATILITY)


@pytest.fixture(scope="module")
def study(hourly: Dataset) -> Study:
    return searched(hourly, trials=3)


def test_each_record_has_its_own_rows(study: Study, hourly: Dataset) -> None:
    judgement = judged(study, hourly)
    held = np.concatenate([fold.test for fold in study.slices.holdout])
    np.testing.assert_array_equal(judgement.holdout.made_at, hourly.labels.made_at[held])
    rows = study.compared_rows
    np.testing.assert_array_equal(judgement.walk_forward.made_at, hourly.labels.made_at[rows])
    np.testing.assert_array_equal(judgement.walk_forward.forecast, study.winner.forecasts[rows])
    assert judgement.holdout.made_at[0] > judgement.walk_forward.made_at[-1]
    assert sorted(set(judgement.holdout.fold)) == [2, 3]


@pytest.mark.parametrize("kind", list(Target))
def test_every_target_is_judged_beside_its_naive_forecasts(kind: Target) -> None:
    """The declared one first; each forecast every holdout row."""
    dataset = make(kind)
    judgement = judged(searched(dataset), dataset)
    assert set(judgement.baselines) == set(NAIVE[kind])
    assert next(iter(judgement.baselines)) == BASELINES[kind]
    for naive in judgement.baselines.values():
        assert np.isfinite(naive.forecast).all()


def test_every_trial_enters_the_count(study: Study, hourly: Dataset) -> None:
    assert "best of 3 worthless trials" in judged(study, hourly).report["G2"].reason
    other = {"other/linear": study.winner.forecasts[study.compared_rows]}
    with_earlier = judged(study, hourly, earlier=other)
    assert "best of 4 worthless trials" in with_earlier.report["G2"].reason
    assert "some of the 8 trials" in judged(study, hourly, n_unkept=5).report["G2"].reason


def test_the_winner_is_ranked_by_what_it_is_judged_by(study: Study) -> None:
    assert list(study.ranks.values()) == sorted(study.ranks.values(), reverse=True)
    assert study.winner.name == next(iter(study.ranks))


@pytest.mark.parametrize(
    ("changes", "title"),
    [({"causality_proven": False}, "causality"), ({"alpha": 1e-3}, "skill")],
)
def test_causality_and_alpha_reach_the_gates(
    study: Study, hourly: Dataset, changes: Mapping[str, Any], title: str
) -> None:
    refused = judged(study, hourly, **changes).report.refused_by
    assert title in {result.title for result in refused}


def test_a_changed_recipe_is_a_changed_feature_schema(study: Study, hourly: Dataset) -> None:
    recipe = replace(study.winner.recipe, features=study.winner.recipe.features[::-1])
    other = replace(study, winner=replace(study.winner, recipe=recipe))
    assert not judged(other, hourly).report["feature schema"].passed


def test_a_champion_is_met_on_the_rows_it_can_forecast(study: Study, hourly: Dataset) -> None:
    """Against itself the winner is neither better nor worse: it passes, unless better is asked."""
    same = study.holdout.last
    held = judged(study, hourly, champion=same)
    assert np.isfinite(held.report["G4"].value)
    assert judged(study, hourly).report["G4"].passed
    better = judged(study, hourly, champion=same, require_better=True)
    assert better.report["G4"].value > held.report["G4"].threshold


def test_a_leak_alarm_is_lifted_by_a_named_person_only() -> None:
    dataset = make(Target.RETURN)
    study = searched(dataset)
    clean = dataset.labels.y
    told = replace(study.holdout, forecasts=np.where(np.isfinite(clean), clean, 0.0))
    held = np.concatenate([fold.test for fold in study.slices.holdout])
    known = np.full(len(dataset), np.nan)
    known[held] = told.forecasts[held]
    leaking = replace(study, holdout=replace(study.holdout, forecasts=known))
    assert not judged(leaking, dataset).report["leak alarm"].passed
    person = Override(actor="ann", reason="planted on purpose")
    assert judged(leaking, dataset, leak_override=person).report["leak alarm"].passed


def test_a_refit_is_judged_on_its_new_rows_alone(hourly: Dataset, study: Study) -> None:
    slices = cut_refit_slices(hourly, CONFIG, hourly.labels.made_at[1100], min_bars=1000)
    refit = run_refit(context_of(hourly, slices), study.winner.recipe, key="k")
    judgement = judged(refit, hourly, alpha=0.001)
    assert judgement.walk_forward is judgement.holdout
    assert judgement.holdout.made_at[0] == hourly.labels.made_at[1101]
    assert judgement.report.alpha == 0.001
    assert "Diebold-Mariano" in judgement.report["G2"].reason


def test_a_refit_continues_the_record_of_its_recipe(hourly: Dataset, study: Study) -> None:
    """The limits are held against all of it, the other gates against the young rows."""
    before = judged(study, hourly).walk_forward
    slices = cut_refit_slices(hourly, CONFIG, before.made_at[-1], min_bars=1000)
    refit = run_refit(context_of(hourly, slices), study.winner.recipe, key="k")
    alone, judgement = judged(refit, hourly), judged(refit, hourly, before=before)
    assert alone.record is alone.holdout
    np.testing.assert_array_equal(
        judgement.record.forecast, [*before.forecast, *judgement.holdout.forecast]
    )
    assert judgement.report["MIN_R2_SCORE"].n == len(before) + len(judgement.holdout)
    assert judgement.report["test bars"].n == judgement.report["G3"].n == len(judgement.holdout)
    assert judged(study, hourly).record is not before


def test_a_refit_with_a_handful_of_rows_is_refused_and_not_an_error(
    hourly: Dataset, study: Study
) -> None:
    for young in (1, 3, 40):
        since = hourly.labels.made_at[len(hourly) - 1 - 24 - young]
        slices = cut_refit_slices(hourly, CONFIG, since, min_bars=1000)
        refit = run_refit(context_of(hourly, slices), study.winner.recipe, key="k")
        judgement = judged(refit, hourly)
        assert len(judgement.holdout) == young
        assert not judgement.report.passed
        assert not judgement.report["test bars"].passed


def test_a_baseline_may_be_named(hourly: Dataset) -> None:
    assert declared_baseline(hourly, "ewma").model_type == "ewma"
    trained = build_forecaster(declared_baseline(hourly), hourly.target)
    assert trained.recipe.model_type == "persistence"

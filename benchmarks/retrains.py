"""One service's searches and scheduled retrains, as `flows.train` decides them.

What is judged, on which bars and at which level is decided by the shipped refit policy, slices,
ledger and gates, and every forecast is made by the shipped walk of the linear model with its
usual refits. What differs from a training by the flow: nothing is registered in MLflow, a refused
refit is not put on record (nothing reads it), the features are proved causal once a service, and
metrics that no gate reads are left out.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

import pandas as pd

from mlops.arrays import naive_utc
from mlops.features.dataset import Dataset
from mlops.features.targets import TargetSpec
from mlops.models.base import FitContext
from mlops.models.recipe import Recipe
from mlops.search.config import ModelType, TrainingConfig
from mlops.search.search_plan import plan_search, prove_search_causal, request_digest
from mlops.search.slices import Slices, cut_refit_slices, cut_slices
from mlops.search.study import Study, StudyContext, run_refit, run_study
from mlops.service import Service, Target, Timeframe
from mlops.store import ModelVersion, Status, Store, Why, record_trials
from mlops.store.ledger import YEARLY_ALPHA
from mlops.store.routes import begin_route
from mlops.store.versions import insert_version
from mlops.training.judgement import declared_baseline, evidence_of, make_ranker
from mlops.training.refit_policy import SEARCH_ALPHA, alpha_for_judgement, refit_policy_for
from mlops.validation.evidence import Evidence, Thresholds

NEXT_BAR = TargetSpec(Target.RETURN, 1)
MIN_BARS = 1_000
CONFIG = TrainingConfig()
REQUEST = request_digest(ModelType.LINEAR, CONFIG)
LIMITS = Thresholds()
BASELINE, SEARCHED = 1, 2
"""Numbers of a service's two versions."""


def hourly(bars: pd.DataFrame) -> Dataset:
    """Bars with the next one's return as their target."""
    return Dataset(bars, timeframe=Timeframe("1h"), target=NEXT_BAR)


def search(store: Store, service: Service, dataset: Dataset, *, fee_bps: float) -> Evidence:
    """The service's first training, put on record as refused; its winner's evidence."""
    plan = plan_search(dataset, ModelType.LINEAR, CONFIG)
    prove_search_causal(plan, dataset, seed=CONFIG.seed)
    slices = cut_slices(dataset, CONFIG, min_bars=MIN_BARS)
    study = run_study(_study_context(dataset, slices, fee_bps=fee_bps), plan, key=service.key)
    at = _closed(dataset)
    _put_on_record(store, service, dataset, study, at)
    record_trials(store, service.key, study=study.key, numbers=range(len(study.trials)), at=at)
    return _evidence(study, dataset, alpha=SEARCH_ALPHA, fee_bps=fee_bps)


def retrain(store: Store, service: Service, dataset: Dataset, *, fee_bps: float) -> Evidence:
    """The same request asked by a schedule: its evidence, at the level it could spend."""
    policy = refit_policy_for(
        store,
        service,
        request=REQUEST,
        reason="schedule",
        watermark=dataset.content_hash,
    )
    assert policy.recipe is not None
    assert policy.since is not None
    slices = cut_refit_slices(dataset, CONFIG, naive_utc(policy.since), min_bars=MIN_BARS)
    study = run_refit(
        _study_context(dataset, slices, fee_bps=fee_bps), policy.recipe, key=service.key
    )
    alpha = alpha_for_judgement(
        store,
        service,
        policy,
        watermark=dataset.content_hash,
        testable=len(study.compared_rows) >= LIMITS.min_test_bars,
        yearly=YEARLY_ALPHA,
        now=_closed(dataset),
    )
    return _evidence(study, dataset, alpha=alpha, fee_bps=fee_bps)


def _closed(dataset: Dataset) -> datetime:
    close: datetime = (dataset.frame.index[-1] + dataset.step).to_pydatetime()
    return close


def _study_context(dataset: Dataset, slices: Slices, *, fee_bps: float) -> StudyContext:
    return StudyContext(
        dataset=dataset,
        slices=slices,
        fit_context=FitContext(seed=CONFIG.seed),
        rank=make_ranker(dataset, slices, baseline=declared_baseline(dataset), fee_bps=fee_bps),
        keep=lambda trial: None,
        recall=lambda name: None,
        report=lambda what, done, of: None,
    )


def _evidence(study: Study, dataset: Dataset, *, alpha: float, fee_bps: float) -> Evidence:
    return evidence_of(
        study,
        dataset,
        baseline=declared_baseline(dataset),
        fee_bps=fee_bps,
        alpha=alpha,
        causality_proven=True,  # by the search, of the same features
    )


def _put_on_record(
    store: Store, service: Service, dataset: Dataset, study: Study, at: datetime
) -> None:
    """The baseline, which serves, and the search that answered the request."""
    baseline = _version(service, dataset, declared_baseline(dataset), at, number=BASELINE)
    recipe = study.winner.recipe
    notes = {"request": REQUEST, "recipe": recipe.to_dict(), "refit": False}
    searched = replace(_version(service, dataset, recipe, at, number=SEARCHED), notes=notes)
    with store.write() as connection:
        insert_version(connection, baseline, Why(at))
        begin_route(connection, service.key, baseline.model_id, Why(at))
        insert_version(connection, searched, Why(at))


def _version(
    service: Service, dataset: Dataset, recipe: Recipe, at: datetime, *, number: int
) -> ModelVersion:
    return ModelVersion(
        model_id=f"{service.key}_{number}",
        service=service.key,
        mlflow_version=number,
        run_id="",
        model_type=recipe.model_type,
        symbol=service.symbol,
        status=Status.DEPLOYED if number == BASELINE else Status.REFUSED,
        digest="",
        bundle_uri="",
        watermark=dataset.content_hash,
        trained_until=at,
        recipe_digest=recipe.digest,
        claims_only=False,
        code_version="",
        created_at=at,
    )

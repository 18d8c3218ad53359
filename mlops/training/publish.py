"""Registers the winner of a study, with everything that explains it later.

A refused winner is registered too, with the status `refused`: its gate report is kept like that
of one that passed, and its trials count in every later judgement.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import pandas as pd

from mlops.models.base import History
from mlops.models.recipe import Recipe
from mlops.registry.bundles import bundle_parts
from mlops.registry.connection import Registry
from mlops.registry.markets import note_market
from mlops.registry.registration import Candidate, CommitHook, register
from mlops.registry.tracking import RunLog
from mlops.rollout.plan import RolloutPlan
from mlops.rollout.wishes import insert_wish
from mlops.search.study import Study, Trial
from mlops.store import ModelVersion, Status, Why
from mlops.store.leases import Lease, require_held
from mlops.store.triggers import Claim
from mlops.training.judgement import Judgement
from mlops.training.retraining import answer_claim
from mlops.training.training_plan import TrainingPlan


def publish(
    registry: Registry,
    plan: TrainingPlan,
    study: Study,
    judgement: Judgement,
    run: RunLog,
    *,
    why: Why,
    lease: Lease | None = None,
    answers: Claim | None = None,
    rollout: RolloutPlan | None = None,
    test: Mapping[str, Any] | None = None,
) -> ModelVersion:
    """Register the winner as challenger or refused; log its recipe and figures to ``run``.

    The request is stored with the version, so that a retraining can make it again.

    Args:
        lease: The service's training lease: the commit is refused where it was lost.
        answers: The triggers that asked for the training; the commit answers them.
        rollout: How a challenger goes live; the commit writes this wish. None: it does not.
        test: The A/B test that the rollout is to carry, as JSON; None: none.

    Raises:
        LeaseLost: when another training may be at the service.
        RegistryError, BundleError: as `register`.
    """
    winner, dataset = study.winner, plan.dataset
    run.log_params(recipe_params(winner.recipe))
    run.log_epochs(epoch_rows(study.holdout.histories))
    run.log_metrics(judgement.evaluation.metrics.to_dict())
    candidate = Candidate(
        service=plan.service,
        model_type=winner.recipe.model_type,
        parts=bundle_parts(
            study.holdout.last,
            dataset,
            plan.service,
            proof=plan.proof.to_dict(),
            evaluation=judgement.evaluation.to_dict(),
            record=judgement.record,
        ),
        status=Status.CHALLENGER if judgement.report.passed else Status.REFUSED,
        recipe_digest=winner.recipe.digest,
        metrics=judgement.evaluation.metrics.to_dict(),
        report=judgement.report.to_dict(),
        notes=_notes(plan, study, answers),
        run_id=run.run_id,
    )
    fence = None if lease is None else partial(require_held, held=lease)
    within: list[CommitHook] = []
    if answers is not None:
        within.append(partial(answer_claim, claim=answers, at=why.at))
    if rollout is not None:
        wish = replace(why, reason="auto_deploy")
        within.append(partial(insert_wish, plan=rollout, why=wish, test=test))
    return register(registry, candidate, why, fence=fence, within=within)


def _notes(plan: TrainingPlan, study: Study, answers: Claim | None) -> dict[str, Any]:
    """What the store keeps of a training, as JSON; without a claim ``triggers`` is empty."""
    known = plan.dataset.labels.known_at[study.slices.holdout[-1].selection[-1]]
    provenance, findings = plan.dataset.provenance, plan.dataset.findings
    return {
        "request": plan.request,
        "asked_for": str(plan.model_type),
        "config": plan.config.model_dump(mode="json"),
        "market": note_market(plan.service, plan.config.choice),
        "reason": plan.reason,
        "triggers": [] if answers is None else [row.id for row in answers.triggers],
        "recipe": study.winner.recipe.to_dict(),
        "study": study.key,
        # When the last label that the bundle's refit learned from became known: later bars are
        # new to it.
        "fitted_until": pd.Timestamp(known, tz="UTC").isoformat(),
        "refit": study.is_refit,
        "provenance": None
        if provenance is None
        else {
            **{name: str(value) for name, value in asdict(provenance).items()},
            "content_hash": plan.dataset.content_hash,
        },
        "bars": None if findings is None else findings.to_dict(),
    }


def log_trial(run: RunLog, trial: Trial, statistic: float) -> None:
    """Log a finished trial as a child run of ``run``."""
    figures = {"statistic": statistic, "seconds": trial.seconds}
    run.log_child(trial.name, params=recipe_params(trial.recipe), metrics=figures)


def recipe_params(recipe: Recipe) -> dict[str, Any]:
    """A recipe as one flat mapping of parameters, as MLflow takes them."""
    flat = recipe.to_dict()
    return {**flat.pop("params"), **flat}


def epoch_rows(histories: tuple[History, ...]) -> list[dict[str, float | None]]:
    """One row of losses for each epoch: refit after refit, ensemble members after their own."""
    rows: list[dict[str, float | None]] = []
    for history in histories:
        rows += [
            {"fit_loss": epoch.fit_loss, "selection_loss": epoch.selection_loss}
            for epoch in history.epochs
        ]
        rows += epoch_rows(history.members)
    return rows

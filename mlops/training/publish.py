"""Registers what a study found, with everything that explains it later.

A refused winner is registered too, as `refused`: why it failed is worth as much as why
another passed, and its trials count in every later judgement.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from mlops.features.causality import CausalityProof
from mlops.features.dataset import Dataset
from mlops.models.base import History
from mlops.models.recipe import Recipe
from mlops.registry.bundles import bundle_parts
from mlops.registry.connection import Registry
from mlops.registry.registration import Candidate, register
from mlops.registry.tracking import RunLog
from mlops.search.study import Study, Trial
from mlops.service import Service
from mlops.store import Claim, HeldLease, ModelVersion, Status, Why
from mlops.training.verdict import Judgement


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What was asked for: kept with the version, so that it can be asked for again.

    ``digest`` is equal for equal requests whatever their data; ``answers`` are the triggers that
    asked for it, and ``turn`` the turn in which it was trained.
    """

    model_type: str
    config: Mapping[str, Any]
    digest: str
    reason: str
    answers: Claim | None = None
    turn: HeldLease | None = None


def publish(
    registry: Registry,
    service: Service,
    dataset: Dataset,
    *,
    study: Study,
    judgement: Judgement,
    proof: CausalityProof,
    request: Request,
    run: RunLog,
    why: Why,
) -> ModelVersion:
    """Register the winner as challenger or refused; log what it is and how it did to ``run``."""
    winner = study.winner
    run.params(recipe_params(winner.recipe))
    run.epochs(epoch_rows(study.holdout.histories))
    run.metrics(judgement.evaluation.metrics.to_dict())
    return register(
        registry,
        Candidate(
            service=service,
            model_type=winner.recipe.model_type,
            parts=bundle_parts(
                study.holdout.last,
                dataset,
                service,
                proof=proof.to_dict(),
                evaluation=judgement.evaluation.to_dict(),
                record=judgement.record,
            ),
            status=Status.CHALLENGER if judgement.report.passed else Status.REFUSED,
            recipe_digest=winner.recipe.digest,
            metrics=judgement.evaluation.metrics.to_dict(),
            report=judgement.report.to_dict(),
            notes={
                "request": request.digest,
                "asked_for": request.model_type,
                "config": dict(request.config),
                "reason": request.reason,
                "triggers": _triggers(request),
                "recipe": winner.recipe.to_dict(),
                "study": study.key,
                "fitted_until": _fitted_until(study, dataset),
                "refit": study.is_refit,
                "provenance": _provenance(dataset),
            },
            run_id=run.run_id,
            answers=request.answers,
            turn=request.turn,
        ),
        why,
    )


def log_trial(run: RunLog, trial: Trial, statistic: float) -> None:
    """A finished trial as a child run."""
    figures = {"statistic": statistic, "seconds": trial.seconds}
    run.child(trial.name, params=recipe_params(trial.recipe), metrics=figures)


def recipe_params(recipe: Recipe) -> dict[str, Any]:
    """A recipe as one level of parameters."""
    flat = recipe.to_dict()
    return {**flat.pop("params"), **flat}


def epoch_rows(histories: tuple[History, ...]) -> list[dict[str, float | None]]:
    """One row of losses an epoch, over all refits and ensemble members in turn."""
    rows: list[dict[str, float | None]] = []
    for history in histories:
        rows += [
            {"fit_loss": epoch.fit_loss, "selection_loss": epoch.selection_loss}
            for epoch in history.epochs
        ]
        rows += epoch_rows(history.members)
    return rows


def _triggers(request: Request) -> list[str]:
    """What asked for it; empty where a person or a schedule did."""
    return [] if request.answers is None else [row.id for row in request.answers.triggers]


def _fitted_until(study: Study, dataset: Dataset) -> str:
    """When the last label that the bundle's refit learned from was known; later bars are new."""
    known = dataset.labels.known_at[study.slices.holdout[-1].selection[-1]]
    return pd.Timestamp(known, tz="UTC").isoformat()


def _provenance(dataset: Dataset) -> dict[str, str] | None:
    """Where the bars came from, as JSON."""
    if dataset.provenance is None:
        return None
    return {name: str(value) for name, value in asdict(dataset.provenance).items()}

"""A training asked for, which a worker of Prefect runs."""

from __future__ import annotations

from fastapi import APIRouter

from mlops.api.context import Actor, Context
from mlops.api.job_documents import FlowRunDocument
from mlops.api.problems import list_problems
from mlops.api.routes.jobs import Jobs
from mlops.api.strict_requests import StrictRoute
from mlops.api.training_bodies import TrainBody

router = APIRouter(prefix="/models", tags=["models"], route_class=StrictRoute)


@router.post("/train", status_code=202, responses=list_problems("invalid-request", "not-available"))
def train_model(body: TrainBody, context: Context, jobs: Jobs, actor: Actor) -> FlowRunDocument:
    """Train, judge and register a version, as soon as a worker is free."""
    return FlowRunDocument.of(jobs.start_training(body.to_request(context.manager.config, actor)))

"""The steps of a training, called as plain functions up to its verdict: no Prefect server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest

from mlops.registry.tracking import RunLog
from mlops.search.config import ModelType
from mlops.search.study import Study
from mlops.settings import current_settings
from mlops.store import ModelVersion
from mlops.store.leases import Lease
from mlops.training.judgement import Judgement
from mlops.training.training_plan import TrainingPlan
from tasks import training as step
from tasks.context import Project, open_project
from tests.project import SYMBOL, Place, entered_place, skip_verification


def assigned(
    place: Place,
    *,
    model_type: str = "linear",
    target: str = "volatility",
    horizon: int = 24,
    reason: str = "manual",
    **changes: Any,
) -> tuple[Project, TrainingPlan]:
    """The steps of the flow up to the decision what to do."""
    opened = open_project()
    service = current_settings().service(SYMBOL, venue="simulator", target=target, horizon=horizon)
    chosen = step.choose.fn(opened, service, place.config(**changes))
    bars = step.load.fn(opened, service, chosen)
    dataset = step.build_dataset.fn(opened, service, bars)
    config = step.begin_service.fn(opened, service, chosen, dataset)
    kind = ModelType(model_type)
    return opened, step.plan.fn(
        opened, service, dataset, model_type=kind, config=config, reason=reason
    )


@dataclass
class Studied:
    """A finished search or refit, to be judged under one setting after another."""

    place: Place
    project: Project
    assignment: TrainingPlan
    study: Study
    run: RunLog

    @classmethod
    def of(cls, place: Place, **changes: Any) -> Studied:
        project, assignment = assigned(place, **changes)
        lease = Lease("training", "studied", 1)
        with step.training_run(
            project, assignment.service, assignment.model_type, assignment.config, lease
        ) as run:
            study = step.search.fn(project, assignment, run)
        return cls(place, project, assignment, study, run)

    def judged(self, **variables: object) -> Judgement:
        """The verdict with these environment variables."""
        with pytest.MonkeyPatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, str(value))
            project = replace(self.project, settings=current_settings())
        return step.judge.fn(project, self.assignment, self.study)

    def registered(self) -> ModelVersion:
        """Judged and registered."""
        return step.register.fn(
            self.project,
            self.assignment,
            study=self.study,
            judgement=self.judged(),
            run=self.run,
        )

    @contextmanager
    def entered(self) -> Iterator[Studied]:
        """The same study while the environment points at its project."""
        import mlflow

        with entered_place(self.place.base, self.place.bars) as place:
            skip_verification(place.patch)
            uri = self.project.registry.tracking.uri
            mlflow.set_tracking_uri(uri)
            mlflow.set_registry_uri(uri)
            yield replace(self, place=place)

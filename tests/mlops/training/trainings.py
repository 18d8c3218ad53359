"""A whole training by library calls, for tests of its parts."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

from mlops.features.dataset import Dataset
from mlops.registry import Registry, RunLog, ensure_service, open_run
from mlops.registry.bundles import last_close
from mlops.search.config import ModelType, TrainingConfig
from mlops.search.study import Study
from mlops.store import Why
from mlops.training.judgement import Judgement
from mlops.training.run import Effort, judge_training, run_search
from mlops.training.training_plan import TrainingPlan, plan_training
from mlops.validation.evidence import Thresholds
from tests.mlops.registry.conftest import SERVICE

QUICK = TrainingConfig(
    refits=2, holdout_refits=2, features=("har_1", "har_24"), sequence_length=3, seed=3
)
FEE_BPS = 10.0


def planned(
    registry: Registry,
    dataset: Dataset,
    *,
    model_type: str = "linear",
    reason: str = "manual",
    min_bars: int = 1000,
    **changes: Any,
) -> TrainingPlan:
    """A quick request on a service that has begun."""
    ensure_service(registry, SERVICE, dataset, Why(last_close(dataset).to_pydatetime()))
    return plan_training(
        registry,
        SERVICE,
        dataset,
        model_type=ModelType(model_type),
        config=QUICK.model_copy(update=changes),
        reason=reason,
        min_bars=min_bars,
    )


def searched(
    registry: Registry, plan: TrainingPlan, *, seconds: float = 3600
) -> tuple[Study, RunLog]:
    """Carried out in a run of its own."""
    with open_run(registry.tracking, "training") as run:
        study = run_search(
            registry,
            plan,
            effort=Effort(
                device="cpu", threads=1, deadline=time.monotonic() + seconds, fee_bps=FEE_BPS
            ),
            run=run,
            report=lambda *_: None,
        )
    return study, run


def judged(
    registry: Registry,
    plan: TrainingPlan,
    study: Study,
    *,
    now: datetime | None = None,
    **limits: Any,
) -> Judgement:
    """Judged at the usual limits, or others."""
    return judge_training(
        registry,
        plan,
        study,
        thresholds=Thresholds(**limits),
        fee_bps=FEE_BPS,
        yearly_alpha=0.05,
        now=now or last_close(plan.dataset).to_pydatetime(),
    )

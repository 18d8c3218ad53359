"""Resume trainings, rollouts and retrainings that died or were missed, and repair MLflow."""

from __future__ import annotations

from dataclasses import dataclass

from prefect import flow

from tasks import rollout as step
from tasks.artifacts import publish_repairs
from tasks.context import current_installation, run_logs
from tasks.events import emit_unanswered
from tasks.recovery import restart_crashed_trainings
from tasks.retention import remove_old_records

CARRY_S = 240.0
"""A little less than the five minutes between two runs."""


@dataclass(frozen=True, slots=True)
class ReconcileResult:
    """What one run did, one line for each act.

    Args:
        moved: Transitions of rollouts.
        repaired: Repairs of MLflow and files.
        rung: Services whose retraining event was emitted again.
        restarted: Trainings that had crashed and start again.
        removed: Kinds of records that were older than their retention.
    """

    moved: tuple[str, ...]
    repaired: tuple[str, ...]
    rung: tuple[str, ...] = ()
    restarted: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()


@flow(name="reconcile", validate_parameters=True)
def reconcile(carry_s: float = CARRY_S) -> ReconcileResult:
    """Resume what died, repair MLflow and files, and remove what is older than its retention.

    Args:
        carry_s: Seconds to run open rollouts; less than the time to the next run.
    """
    with run_logs():
        installation = current_installation()
        # First, because rollouts take minutes.
        rung, restarted = emit_unanswered(installation), restart_crashed_trainings()
        moved = step.run_open_rollouts(installation, carry_s)
        try:
            repaired = step.repair(installation)
            publish_repairs((*rung, *restarted, *moved, *repaired))
        finally:
            removed = remove_old_records(installation)
        return ReconcileResult(moved, repaired, rung, restarted, removed)

"""Look after what died or was missed: retrainings, rollouts, and what MLflow shows of them."""

from __future__ import annotations

from dataclasses import dataclass

from prefect import flow

from tasks import rollout as step
from tasks.artifacts import publish_repairs
from tasks.context import current_installation, run_logs
from tasks.events import emit_unanswered
from tasks.recovery import restart_crashed_trainings

CARRY_S = 240.0
"""A little less than the schedule's five minutes: the next run goes on."""


@dataclass(frozen=True, slots=True)
class ReconcileResult:
    """What was done, in words: arrows of rollouts, repairs of MLflow and files, and who was rung.

    ``rung`` are services whose retraining was asked for and had not begun, ``restarted``
    trainings that had crashed.
    """

    moved: tuple[str, ...]
    repaired: tuple[str, ...]
    rung: tuple[str, ...] = ()
    restarted: tuple[str, ...] = ()


@flow(name="reconcile", validate_parameters=True)
def reconcile(carry_s: float = CARRY_S) -> ReconcileResult:
    """Bring back what died: trainings, rollouts, retrainings nobody came for; and mend MLflow.

    Args:
        carry_s: Seconds to carry on what is open; less than the time to the next run.
    """
    with run_logs():
        installation = current_installation()
        # First: carrying a rollout on takes minutes.
        rung, restarted = emit_unanswered(installation), restart_crashed_trainings()
        moved = step.carry_open(installation, carry_s)
        repaired = step.repair(installation)
        publish_repairs((*rung, *restarted, *moved, *repaired))
        return ReconcileResult(moved, repaired, rung, restarted)

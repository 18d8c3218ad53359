"""Look after what died: rollouts nobody carries on, and what MLflow shows that is no longer so."""

from __future__ import annotations

from dataclasses import dataclass

from prefect import flow

from tasks import rollout as step
from tasks.announce import announce_repairs

CARRY_S = 240.0
"""A little less than the schedule's five minutes: the next run goes on."""


@dataclass(frozen=True, slots=True)
class ReconcileResult:
    """What was done, in words: arrows of rollouts, and repairs of MLflow and files."""

    moved: tuple[str, ...]
    repaired: tuple[str, ...]


@flow(name="reconcile", validate_parameters=True)
def reconcile(carry_s: float = CARRY_S) -> ReconcileResult:
    """Resume or undo rollouts whose process died, then bring MLflow in line with the store.

    Args:
        carry_s: Seconds to carry on what is open; less than the time to the next run.
    """
    manager = step.open_manager()
    moved = step.carry_open(manager, carry_s)
    repaired = step.repair(manager)
    announce_repairs((*moved, *repaired))
    return ReconcileResult(moved, repaired)

"""Snapshots of a rollout in any phase, by default one in which all is well."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from mlops.rollout.analysis import Evidence, PairedTrials, TrialCounts
from mlops.rollout.decide import Snapshot
from mlops.rollout.plan import EVERYTHING_BP, RolloutPlan, Strategy, plan_for
from mlops.store import Phase, Replica, Rollout, Route, Status
from mlops.store.replicas import HeldModel, LoadCause, ReplicaState

from .rows import BASELINE, CHALLENGER, CHAMPION, NOW, SERVICE

NONE, FEW = Evidence(), Evidence(paired=PairedTrials(50))
GOOD = Evidence(paired=PairedTrials(1000), promoted=TrialCounts(1000, 0))
WORSE = Evidence(paired=PairedTrials(1000, challenger_faults=100))
GENERATION = 7

LACKS = "lacks"
"""The state of a model that its replica cannot load, by no fault of the model."""

Held = dict[str, str]
ALL_READY: Held = dict.fromkeys((BASELINE, CHAMPION, CHALLENGER), "ready")


def a_replica(
    name: str = "r0",
    held: Held = ALL_READY,
    *,
    generation: int | None = GENERATION,
    state: ReplicaState = ReplicaState.READY,
    started_at: datetime | None = None,
) -> Replica:
    """A live replica that has followed and holds everything."""
    generations = {} if generation is None else {SERVICE: generation}
    models = {model: a_model(model, said) for model, said in held.items()}
    return Replica(
        name, "1", "", state, generations=generations, models=models, started_at=started_at
    )


def a_model(model_id: str, state: str) -> HeldModel:
    """A model in that state; a failed one by its own fault."""
    if state == LACKS:
        return HeldModel(model_id, "failed", error="no memory", cause=LoadCause.REPLICA)
    return HeldModel(model_id, state, error="no file", cause=LoadCause.VERSION)


def a_route(phase: Phase, step: int, plan: RolloutPlan) -> Route:
    """The route that a rollout has made by then."""
    route = Route(SERVICE, GENERATION, CHAMPION, None, BASELINE, NOW, NOW)
    if phase is Phase.PENDING:
        return route
    if phase is Phase.PROMOTED:
        return replace(route, champion=CHALLENGER, previous_champion=CHAMPION)
    if phase is Phase.REVERTED:
        return replace(route, previous_champion=CHALLENGER)
    shown = {"challenger": CHALLENGER, "salt": "rollout-1"}
    shown |= {"only_replicas": ("r0",)} if plan.one_by_one else {}
    if phase is Phase.ROLLBACK:
        return replace(route, **shown)
    weight = plan.weights_bp[min(step, len(plan.weights_bp) - 1)] if phase is Phase.STEP else 0
    return replace(route, weight_bp=weight, mirror_bp=0 if weight else EVERYTHING_BP, **shown)


def a_rollout(phase: Phase, plan: RolloutPlan, **changes: Any) -> Rollout:
    """A rollout of the challenger in a phase."""
    row = Rollout(
        id="rollout-1",
        service=SERVICE,
        strategy=plan.strategy,
        from_version=CHAMPION,
        to_version=CHALLENGER,
        plan=plan.to_dict(),
        phase=phase,
        step=0,
        since=NOW,
        deadline=NOW,
        reason="why it is here",
        abort_requested=None,
        forced=False,
        requested_by="anna",
        requested_why="it is better",
        requested_at=NOW,
    )
    return replace(row, **changes)


def a_snapshot(
    phase: Phase = Phase.STEP,
    *,
    strategy: str = "canary",
    step: int = 0,
    replicas: tuple[Replica, ...] = (a_replica(),),
    evidence: Evidence = GOOD,
    champion_failing: str | None = None,
    status: Status = Status.CHALLENGER,
    route: dict[str, Any] | None = None,
    **asked: Any,
) -> Snapshot:
    """Everyone has followed and holds everything, the evidence is good, time is up to the test."""
    plan = plan_for(Strategy(strategy))
    deadline = NOW + plan.patience(phase)
    rollout = a_rollout(phase, plan, step=step, deadline=deadline)
    return Snapshot(
        rollout=replace(rollout, **asked),
        plan=plan,
        route=replace(a_route(phase, step, plan), **(route or {})),
        replicas=replicas,
        evidence=evidence,
        statuses={CHALLENGER: status, CHAMPION: Status.DEPLOYED},
        champion_failing=champion_failing,
    )


def dwelt(s: Snapshot) -> datetime:
    """A moment at which the phase has lasted long enough, and not too long."""
    seconds = {Phase.STEP: s.plan.dwell_s, Phase.PROMOTED: s.plan.bake_s}
    return NOW + timedelta(seconds=seconds.get(s.rollout.phase, 0.0))

"""The state machine of a rollout: its next arrow, a pure function of what the store shows.

    PENDING -> LOADING -> GATE -> STEP 0 .. k -> PROMOTED -> DONE
                  any of these -> ROLLBACK (share 0) -> FAILED, or DONE after an A/B test
                                          PROMOTED -> REVERTED -> FAILED

Each arrow is one transaction. Promotion only renames: the challenger has all the traffic before
and after it, and the champion stays loaded as the previous champion. Every phase that is not final
has a deadline and an arrow back that loads no model; a version without enough evidence at the
deadline is never promoted.

The rollout of an A/B test keeps its share until the test's verdict is on record. Only `better`
leads on to PROMOTED. `mlops.rollout.comparing` has the rules of tests and shadows.

The champion changes only to a version that a live replica holds. A load that failed because of its
replica (`LoadCause.REPLICA`) speaks against no version: the rollout waits for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from mlops.rollout.analysis import (
    Conclusion,
    Verdict,
    judge_version,
)
from mlops.rollout.comparing import (
    UNEVALUATED,
    carries_test,
    interrupt,
    is_lost,
    is_unevaluated,
    is_won,
    keeps_challenger,
    makes_room,
    without_challenger,
)
from mlops.rollout.plan import EVERYTHING_BP, RolloutPlan, Strategy
from mlops.rollout.routing import takes_part
from mlops.rollout.snapshot import Snapshot
from mlops.store import Phase, Replica, Route, Status
from mlops.store import Verdict as TestVerdict
from mlops.store.replicas import LoadCause
from mlops.store.rollouts import Arrow

DEPLOYABLE = (Status.CHALLENGER, Status.RETIRED, Status.DEPLOYED)
"""Statuses of versions that passed their gates, or were live before."""

SHADOWABLE = (*DEPLOYABLE, Status.REFUSED)
"""A shadow answers nobody, so one may collect evidence for a version that has only claims."""


def decide(s: Snapshot, now: datetime) -> Arrow | None:
    """The next arrow of a rollout; None while it has to wait.

    Args:
        s: What the store shows.
        now: The time that dwell times and deadlines are compared with.

    Without a live replica a new rollout waits until its deadline:

        >>> from datetime import UTC
        >>> from mlops.rollout.analysis import Evidence
        >>> from mlops.rollout.plan import plan_for
        >>> from mlops.store import Rollout, Route
        >>> plan, now = plan_for("canary"), datetime(2024, 5, 1, tzinfo=UTC)
        >>> row = Rollout(
        ...     id="rollout-1", service="btc", strategy="canary", from_version="A", to_version="B",
        ...     plan=plan.to_dict(), phase=Phase.PENDING, step=0, since=now,
        ...     deadline=now + plan.patience(Phase.PENDING), reason="", abort_requested=None,
        ...     forced=False, requested_by="anna", requested_why="", requested_at=now,
        ... )
        >>> route = Route("btc", 1, "A", None, "A", created_at=now, updated_at=now)
        >>> s = Snapshot(row, plan, route, (), Evidence(), {"B": Status.CHALLENGER})
        >>> decide(s, now) is None
        True
        >>> decide(s, row.deadline).reason
        'no replica is running; start one with `make serve`'
    """
    rule = _RULES.get(s.rollout.phase)
    arrow = None if rule is None else rule(s, now)
    goes_on = arrow is None or arrow.to in _FORWARD
    return _make_room(s) or arrow if goes_on else arrow


# Conditions ---------------------------------------------------------------------------------


def is_acknowledged(s: Snapshot) -> bool:
    """Whether all replicas, at least one, route by this generation."""
    generations = [replica.generations.get(s.route.service) for replica in s.waited_for]
    return bool(generations) and all(generation == s.route.generation for generation in generations)


def is_loaded(s: Snapshot) -> bool:
    """Whether all participating replicas, at least one, have the version ready."""
    participants = [replica for replica in s.waited_for if _takes_part(s, replica)]
    return bool(participants) and all(
        replica.holds(s.rollout.to_version) for replica in participants
    )


def has_lost_participants(s: Snapshot) -> bool:
    """Whether all chosen participants are dead while other replicas live."""
    chosen = s.route.only_replicas is not None and bool(s.waited_for)
    return chosen and not any(_takes_part(s, replica) for replica in s.waited_for)


def load_failed(s: Snapshot) -> bool:
    """Whether some replica could not load the version by a fault of the version."""
    return any(
        replica.failed_to_load(s.rollout.to_version, LoadCause.VERSION) for replica in s.waited_for
    )


def is_held(model_id: str | None, replicas: Sequence[Replica]) -> bool:
    """Whether some of the replicas has a version ready, so that a route may be moved to it."""
    return model_id is not None and any(replica.holds(model_id) for replica in replicas)


def is_late(s: Snapshot, now: datetime) -> bool:
    """Whether the deadline of the phase has passed."""
    return now >= s.rollout.deadline


def has_expired(s: Snapshot, now: datetime) -> bool:
    """Whether the deadline has passed, and a replica that lives has had the time to load since.

    After a stop of all replicas a load time passes before the rollout is judged. A start in the
    future was noted before a clock was set back.
    """
    load = timedelta(seconds=s.plan.load_s)
    return is_late(s, now) and not all(
        replica.started_at is not None and now - load < replica.started_at <= now
        for replica in s.waited_for
    )


def has_dwelt(s: Snapshot, now: datetime, seconds: float) -> bool:
    """Whether the phase has lasted that many seconds."""
    return now >= s.rollout.since + timedelta(seconds=seconds)


def has_gate_evidence(s: Snapshot) -> bool:
    """Whether the version has answered enough inputs to be given traffic."""
    return s.evidence.challenger.trials >= s.plan.min_gate_trials


def reason_to_hold(s: Snapshot) -> str | None:
    """Why the rollout must not go on, however good its evidence; None while it may."""
    return f"held: {s.short_requests}" if s.short_requests.too_many else None


def may_go_live(s: Snapshot) -> bool:
    """Whether the rollout may bring the version into its route, or a person has forced it to."""
    allowed = allowed_statuses(s.plan)
    return s.rollout.forced or s.statuses.get(s.rollout.to_version) in allowed


def allowed_statuses(plan: RolloutPlan) -> tuple[Status, ...]:
    """The statuses of versions that a rollout with this plan may bring into a route."""
    return SHADOWABLE if plan.strategy is Strategy.SHADOW else DEPLOYABLE


def reason_to_undo(s: Snapshot, now: datetime) -> str | None:
    """Why the rollout must be undone now; None while it may go on."""
    if s.rollout.abort_requested is not None:
        return f"aborted by {s.rollout.abort_requested}"
    if load_failed(s):
        return _explain_failures(s)
    if s.verdict.conclusion is Conclusion.WORSE:
        return f"worse than the champion: {s.verdict}"
    if is_lost(s):
        return f"its A/B test ended as {s.verdict_of_test}: {s.verdict_text}"
    if s.champion_failing is not None:
        return f"the champion itself is failing ({s.champion_failing}), so nothing can be compared"
    expired = has_expired(s, now) and not _is_loaded_unattended(s)
    return _explain_delay(s) if expired else None


# Phases -------------------------------------------------------------------------------------


def _decide_pending(s: Snapshot, now: datetime) -> Arrow | None:
    if s.rollout.abort_requested is not None:
        return _make_arrow(s, Phase.FAILED, f"aborted by {s.rollout.abort_requested}")
    if not may_go_live(s):
        status = s.statuses.get(s.rollout.to_version)
        return _make_arrow(s, Phase.FAILED, f"the version is {status} now and may not go live")
    if s.rollout.to_version == s.route.champion:
        return _make_arrow(s, Phase.FAILED, "the version is the champion already")
    if not s.waited_for:
        if not is_late(s, now):
            return None
        return _make_arrow(s, Phase.FAILED, "no replica is running; start one with `make serve`")
    return _begin_loading(s, "loading beside the champion")


def _decide_loading(s: Snapshot, now: datetime) -> Arrow | None:
    if why := reason_to_undo(s, now):
        return _roll_back(s, why)
    if has_lost_participants(s):
        return _begin_loading(s, "the replica that took part is gone; another takes its place")
    if is_acknowledged(s) and is_loaded(s):
        return _make_arrow(s, Phase.GATE, "loaded, golden examples reproduced")
    return None


def _decide_gate(s: Snapshot, now: datetime) -> Arrow | None:
    if why := reason_to_undo(s, now):
        return _roll_back(s, why)
    if has_lost_participants(s):
        return _begin_loading(s, "the replicas that took part are gone; another begins")
    if is_acknowledged(s) and is_loaded(s) and has_gate_evidence(s):
        return _make_arrow(
            s, Phase.STEP, f"gate passed: {s.verdict}", route=_with_step_share(s, 0), step=0
        )
    return None


def _decide_step(s: Snapshot, now: datetime) -> Arrow | None:
    if why := reason_to_undo(s, now):
        return _roll_back(s, why)
    if has_lost_participants(s):
        return _begin_loading(s, "the replicas that took part are gone; another begins")
    if not (is_acknowledged(s) and is_loaded(s) and has_dwelt(s, now, s.plan.dwell_s)):
        return None
    if not s.plan.promotes:
        shadowed, alone = f"shadowed: {s.verdict}", without_challenger(s.route)
        return _make_arrow(s, Phase.DONE, shadowed, route=alone)
    good = is_won(s) if carries_test(s) else s.verdict.conclusion is Conclusion.GOOD
    if not good or reason_to_hold(s):
        return None
    return _next_step(s) or _promote(s)


def _decide_promoted(s: Snapshot, now: datetime) -> Arrow | None:
    if why := _reason_to_revert(s, now):
        successor = _find_successor(s)
        return None if successor is None else _revert(s, successor, why)
    is_whole = is_acknowledged(s) and is_loaded(s) and has_dwelt(s, now, s.plan.bake_s)
    # A replica that cannot load the champion is waited for until the deadline, and not longer.
    if not is_whole and not (has_expired(s, now) and s.able):
        return None
    lacking = _explain_failures(s)
    healthy = f"stayed healthy: {_promoted_verdict(s)}"
    return _make_arrow(s, Phase.DONE, f"{healthy}; {lacking}" if lacking else healthy)


def _decide_reverted(s: Snapshot, now: datetime) -> Arrow | None:
    restored = all(replica.holds(s.route.champion) for replica in s.waited_for)
    if is_acknowledged(s) and restored:
        dropped = replace(s.route, previous_champion=None)
        return _make_arrow(s, Phase.FAILED, s.rollout.reason, route=dropped)
    if is_late(s, now):
        # A replica without the restored champion goes on answering from the failed version.
        return _make_arrow(s, Phase.FAILED, s.rollout.reason)
    return None


def _decide_rollback(s: Snapshot, now: datetime) -> Arrow | None:
    if is_acknowledged(s) or is_late(s, now):
        end = Phase.DONE if keeps_challenger(s) else Phase.FAILED
        return _make_arrow(s, end, s.rollout.reason, route=without_challenger(s.route))
    return None


_FORWARD = (Phase.LOADING, Phase.GATE, Phase.STEP)
_RULES: dict[Phase, Callable[[Snapshot, datetime], Arrow | None]] = {
    Phase.PENDING: _decide_pending,
    Phase.LOADING: _decide_loading,
    Phase.GATE: _decide_gate,
    Phase.STEP: _decide_step,
    Phase.PROMOTED: _decide_promoted,
    Phase.REVERTED: _decide_reverted,
    Phase.ROLLBACK: _decide_rollback,
}


# Arrows -------------------------------------------------------------------------------------


def _make_arrow(
    s: Snapshot,
    to: Phase,
    reason: str,
    *,
    route: Route | None = None,
    step: int | None = None,
    statuses: Mapping[str, Status] | None = None,
    abort: str | None = None,
) -> Arrow:
    verdict = s.verdict
    return Arrow(
        to=to,
        step=s.rollout.step if step is None else step,
        patience=s.plan.patience(to),
        reason=reason,
        route=route,
        statuses=statuses or {},
        abort=abort,
        verdict_of_test=s.verdict_of_test,
        detail={
            "weight_bp": (route or s.route).weight_bp,
            "verdict": verdict.conclusion,
            "e_value": verdict.e_value,
            "upper_bound": verdict.upper_bound,
            "trials": verdict.trials,
            "faults": verdict.faults,
        },
    )


def _begin_loading(s: Snapshot, reason: str) -> Arrow:
    """Mirror all requests to the challenger, in all replicas or, one by one, in the first."""
    first = (s.waited_for[0].id,) if s.plan.one_by_one else None
    loading = replace(
        s.route,
        challenger=s.rollout.to_version,
        weight_bp=0,
        mirror_bp=EVERYTHING_BP,
        salt=s.rollout.id,
        only_replicas=first,
    )
    return _make_arrow(s, Phase.LOADING, reason, route=loading, step=0)


def _with_step_share(s: Snapshot, step: int) -> Route:
    """The route with a step's share for the challenger, and the same participants."""
    weights = s.plan.weights_bp
    weight = weights[min(step, len(weights) - 1)]
    return replace(s.route, weight_bp=weight, mirror_bp=0 if weight else EVERYTHING_BP)


def _next_step(s: Snapshot) -> Arrow | None:
    """The arrow to the next share or the next replica; None after the last."""
    step = s.rollout.step + 1
    if s.route.only_replicas is not None:
        ids = [replica.id for replica in s.waited_for]
        waiting = [replica_id for replica_id in ids if replica_id not in s.route.only_replicas]
        if not waiting:
            return None
        joined = replace(s.route, only_replicas=(*s.route.only_replicas, waiting[0]))
        return _make_arrow(s, Phase.STEP, f"good: {s.verdict}", route=joined, step=step)
    if step >= len(s.plan.weights_bp):
        return None
    return _make_arrow(
        s, Phase.STEP, f"good: {s.verdict}", route=_with_step_share(s, step), step=step
    )


def _promote(s: Snapshot) -> Arrow:
    """The arrow to PROMOTED: the same processes answer the same keys before and after it."""
    promoted = replace(
        without_challenger(s.route),
        champion=s.rollout.to_version,
        previous_champion=s.route.champion,
    )
    why = s.verdict_text if is_won(s) else str(s.verdict)
    return _make_arrow(
        s,
        Phase.PROMOTED,
        f"promoted: {why}",
        route=promoted,
        step=s.rollout.step + 1,
        statuses={s.rollout.to_version: Status.DEPLOYED, s.route.champion: Status.RETIRED},
    )


def _find_successor(s: Snapshot) -> str | None:
    """The champion before, else the baseline, whichever a live replica holds."""
    names = (s.route.previous_champion, s.route.baseline)
    held = (name for name in names if name != s.route.champion and is_held(name, s.waited_for))
    return next(held, None)


def _revert(s: Snapshot, successor: str, why: str) -> Arrow:
    """Undo a promotion; the failed version stays loaded until all replicas have followed."""
    reverted = replace(s.route, champion=successor, previous_champion=s.route.champion)
    return _make_arrow(
        s,
        Phase.REVERTED,
        why,
        route=reverted,
        statuses={successor: Status.DEPLOYED, s.route.champion: Status.FAILED},
    )


def _roll_back(s: Snapshot, why: str) -> Arrow:
    """Take the challenger's traffic away; it is marked as failed if the evidence says so."""
    hidden = replace(s.route, weight_bp=0, mirror_bp=0)
    failed = load_failed(s) or s.verdict.conclusion is Conclusion.WORSE
    failed = failed or s.verdict_of_test is TestVerdict.WORSE
    statuses = {s.rollout.to_version: Status.FAILED} if failed else {}
    abort = why if why == UNEVALUATED else None
    return _make_arrow(s, Phase.ROLLBACK, why, route=hidden, statuses=statuses, abort=abort)


def _make_room(s: Snapshot) -> Arrow | None:
    """The arrow that ends a shadow because another rollout waits; None where none does."""
    asked = s.asked_by
    if asked is None or not makes_room(s.rollout) or carries_test(s):
        return None
    reason = f"{asked.to_version} is to go live ({asked.id} of {asked.requested_by})"
    again = asked.to_version != s.rollout.to_version
    return interrupt(s.rollout, s.route, reason, again=again)


def _takes_part(s: Snapshot, replica: Replica) -> bool:
    promoted = s.route.champion == s.rollout.to_version
    return promoted or takes_part(s.route, replica.id)


def _promoted_verdict(s: Snapshot) -> Verdict:
    return judge_version(s.evidence.promoted, max_fault_rate=s.plan.max_fault_rate)


def _reason_to_revert(s: Snapshot, now: datetime) -> str | None:
    if s.rollout.abort_requested is not None:
        return f"aborted by {s.rollout.abort_requested}"
    if load_failed(s) and not s.able:
        return f"no replica can load the new champion: {_explain_failures(s)}"
    if _promoted_verdict(s).conclusion is Conclusion.WORSE:
        return f"the new champion fails: {_promoted_verdict(s)}"
    behind = [one for one in s.able if not _has_followed(s, one)]
    # Beside one that has followed, a replica that started since is only on its way.
    late = [one for one in behind if one.started_at is None or one.started_at <= s.rollout.since]
    if has_expired(s, now) and (late or len(behind) == len(s.able) > 0):
        return "not every replica has taken the new champion in time"
    return None


def _explain_failures(s: Snapshot) -> str:
    """The replicas that cannot load the version, each with its error; empty where all can.

    A replica does not load a challenger without its champion.
    """
    version, champion = s.rollout.to_version, s.route.champion
    names = {champion: f"the champion {champion}", version: "it"}
    return "; ".join(
        f"{replica.id} cannot load {name}: {replica.models[model_id].error or 'no reason given'}"
        for replica in s.waited_for
        for model_id, name in names.items()
        if replica.failed_to_load(model_id) and not replica.holds(version)
    )


def _is_loaded_unattended(s: Snapshot) -> bool:
    """Whether all replicas are ready for what is next, but no controller ran before the deadline.

    They have loaded, or the test was won.
    """
    won = s.rollout.phase is Phase.STEP and is_won(s) and not reason_to_hold(s)
    ready = s.rollout.phase is Phase.LOADING or won
    return ready and is_acknowledged(s) and is_loaded(s)


def _has_followed(s: Snapshot, replica: Replica) -> bool:
    behind = replica.generations.get(s.route.service) != s.route.generation
    return not behind and (replica.holds(s.rollout.to_version) or not _takes_part(s, replica))


def _explain_delay(s: Snapshot) -> str:
    if is_unevaluated(s):
        return UNEVALUATED
    if failures := _explain_failures(s):
        reasons = (failures, reason_to_hold(s))
        return f"not loaded by the deadline: {'; '.join(why for why in reasons if why)}"
    if s.rollout.phase is Phase.LOADING:
        waiting = [replica.id for replica in s.waited_for if not _has_followed(s, replica)]
        return (
            f"not loaded within {s.plan.load_s:g} s by {', '.join(waiting) or 'any replica'}; "
            "see HEALTH_CHECK_TIMEOUT"
        )
    if why := reason_to_hold(s):
        return f"not good enough by the deadline; {why}"
    return f"not enough evidence by the deadline, and nothing is promoted unseen: {s.verdict}"

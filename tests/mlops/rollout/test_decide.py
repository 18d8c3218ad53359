"""Situations, and the arrow that each of them brings."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from mlops.rollout.analysis import Evidence, PairedTrials, TrialCounts
from mlops.rollout.decide import decide
from mlops.store import Phase, Status
from mlops.store.replicas import ReplicaState
from mlops.store.rollouts import Arrow

from .rows import BASELINE, CHALLENGER, CHAMPION
from .snapshots import ALL_READY, FEW, GOOD, LACKS, NONE, WORSE, a_replica, a_snapshot, dwelt

BROKEN = a_replica(held=ALL_READY | {CHALLENGER: "failed"})
SHORT = a_replica("r1", held=ALL_READY | {CHALLENGER: LACKS})
AWAY = a_replica(held={CHAMPION: LACKS})
LOADING = a_replica(held=ALL_READY | {CHALLENGER: "loading"})
BEHIND = a_replica(generation=6)
NEW = a_replica(generation=None)
DRAINING = a_replica("r1", held={}, generation=6, state=ReplicaState.DRAINING)
BOTH = (a_replica("r0"), a_replica("r1"))

P = Phase
ABORTED = {"abort_requested": "anna: changed her mind"}


def taken(
    phase: Phase, *, late: bool = False, early: bool = False, **situation: Any
) -> Arrow | None:
    s = a_snapshot(phase, **situation)
    now = s.rollout.deadline if late else dwelt(s)
    return decide(s, now - timedelta(seconds=1) if early else now)


@pytest.mark.parametrize(
    ("situation", "phase", "reason"),
    [
        ({}, P.LOADING, "loading beside the champion"),
        ({"replicas": (NEW,)}, P.LOADING, "loading beside the champion"),
        ({"status": Status.RETIRED}, P.LOADING, "loading"),
        ({"status": Status.REFUSED}, P.FAILED, "the version is refused now and may not go live"),
        ({"status": Status.FAILED}, P.FAILED, "the version is failed now"),
        ({"status": Status.REFUSED, "forced": True}, P.LOADING, "loading"),
        (ABORTED, P.FAILED, "aborted by anna: changed her mind"),
        ({"route": {"champion": CHALLENGER}}, P.FAILED, "the champion already"),
        ({"replicas": ()}, None, ""),
        ({"replicas": (DRAINING,)}, None, ""),
        ({"replicas": (), "late": True}, P.FAILED, "no replica is running; start one with"),
    ],
)
def test_pending(situation: dict[str, Any], phase: Phase | None, reason: str) -> None:
    check(taken(P.PENDING, **situation), phase, reason)


@pytest.mark.parametrize(
    ("situation", "phase", "reason"),
    [
        ({"evidence": NONE}, P.GATE, "golden examples reproduced"),
        ({"replicas": BOTH}, P.GATE, "loaded"),
        ({"replicas": (a_replica(), DRAINING)}, P.GATE, "loaded"),
        ({"replicas": (a_replica(), NEW)}, None, ""),
        ({"replicas": (BEHIND,)}, None, ""),
        ({"replicas": (LOADING,)}, None, ""),
        ({"replicas": ()}, None, ""),
        ({"replicas": (BROKEN,)}, P.ROLLBACK, "r0 cannot load it: no file"),
        ({"replicas": (a_replica(), SHORT)}, None, ""),
        ({"replicas": (a_replica(), SHORT), "late": True}, P.ROLLBACK, "r1 cannot load it: no mem"),
        (ABORTED, P.ROLLBACK, "aborted by anna"),
        ({"evidence": WORSE}, P.ROLLBACK, "worse than the champion: 100 faults in 1000 trials"),
        ({"champion_failing": "it errs"}, P.ROLLBACK, "the champion itself is failing (it errs)"),
        ({"replicas": (LOADING,), "late": True}, P.ROLLBACK, "by r0; see HEALTH_CHECK_TIMEOUT"),
        ({"replicas": (BEHIND,), "late": True}, P.ROLLBACK, "not loaded within 30 s by r0;"),
        ({"replicas": (AWAY,), "late": True}, P.ROLLBACK, "r0 cannot load the champion champion:"),
        ({"replicas": (), "late": True}, None, ""),
        ({"replicas": (DRAINING,), "late": True}, None, ""),
        ({"late": True}, P.GATE, "loaded"),
        ({"strategy": "rolling"}, P.GATE, "loaded"),
        ({"strategy": "rolling", "replicas": (a_replica("r1"),)}, P.LOADING, "takes its place"),
        ({"strategy": "rolling", "replicas": ()}, None, ""),
    ],
)
def test_loading(situation: dict[str, Any], phase: Phase | None, reason: str) -> None:
    check(taken(P.LOADING, **situation), phase, reason)


@pytest.mark.parametrize(
    ("situation", "phase", "reason"),
    [
        ({"evidence": FEW}, P.STEP, "gate passed: 0 faults in 50 trials"),
        ({"evidence": NONE}, None, ""),
        ({"evidence": Evidence(paired=PairedTrials(19))}, None, ""),
        ({"evidence": Evidence(paired=PairedTrials(20))}, P.STEP, "gate passed"),
        ({"replicas": (BEHIND,)}, None, ""),
        ({"replicas": (LOADING,)}, None, ""),
        ({"replicas": (BROKEN,)}, P.ROLLBACK, "cannot load it"),
        ({"replicas": (a_replica(), SHORT)}, None, ""),
        ({"evidence": WORSE}, P.ROLLBACK, "worse than the champion"),
        ({"evidence": NONE, "late": True}, P.ROLLBACK, "nothing is promoted unseen"),
        (ABORTED, P.ROLLBACK, "aborted"),
        ({"strategy": "rolling", "replicas": (a_replica("r1"),)}, P.LOADING, "another begins"),
    ],
)
def test_gate(situation: dict[str, Any], phase: Phase | None, reason: str) -> None:
    check(taken(P.GATE, **situation), phase, reason)


@pytest.mark.parametrize(
    ("situation", "phase", "reason"),
    [
        ({}, P.STEP, "good: 0 faults in 1000 trials"),
        ({"step": 3}, P.PROMOTED, "promoted: 0 faults"),
        ({"early": True}, None, ""),
        ({"evidence": FEW}, None, ""),
        ({"evidence": FEW, "step": 3}, None, ""),
        ({"evidence": FEW, "late": True}, P.ROLLBACK, "not enough evidence by the deadline"),
        ({"evidence": WORSE}, P.ROLLBACK, "worse than the champion"),
        ({"evidence": WORSE, "early": True}, P.ROLLBACK, "worse than the champion"),
        ({"replicas": (BEHIND,)}, None, ""),
        ({"replicas": ()}, None, ""),
        ({"replicas": (a_replica(), a_replica("r1", held={}))}, None, ""),
        ({"replicas": (a_replica(), SHORT)}, None, ""),
        ({"replicas": (a_replica(), SHORT), "late": True}, P.ROLLBACK, "r1 cannot load it: no mem"),
        (ABORTED, P.ROLLBACK, "aborted"),
        ({"strategy": "blue_green"}, P.PROMOTED, "promoted"),
        ({"strategy": "rolling"}, P.PROMOTED, "promoted"),
        ({"strategy": "rolling", "replicas": BOTH}, P.STEP, "good"),
        ({"strategy": "rolling", "replicas": (a_replica("r1"),)}, P.LOADING, "another begins"),
        ({"strategy": "shadow"}, P.DONE, "shadowed: 0 faults"),
        ({"strategy": "shadow", "evidence": FEW}, P.DONE, "shadowed"),
        ({"strategy": "shadow", "early": True}, None, ""),
        ({"strategy": "shadow", "evidence": WORSE}, P.ROLLBACK, "worse"),
    ],
)
def test_step(situation: dict[str, Any], phase: Phase | None, reason: str) -> None:
    check(taken(P.STEP, **situation), phase, reason)


AFTER_WORSE = Evidence(promoted=TrialCounts(1000, 100))
ALONE = a_replica(held={CHALLENGER: "ready"})
"""A replica that holds the new champion only, so that there is no way back."""


@pytest.mark.parametrize(
    ("situation", "phase", "reason"),
    [
        ({}, P.DONE, "stayed healthy: 0 faults in 1000 trials"),
        ({"evidence": NONE}, P.DONE, "stayed healthy: 0 faults in 0 trials"),
        ({"early": True}, None, ""),
        ({"replicas": (BEHIND,)}, None, ""),
        ({"replicas": (LOADING,)}, None, ""),
        ({"replicas": (BROKEN,)}, P.REVERTED, "load the new champion: r0 cannot load it: no file"),
        ({"replicas": (a_replica("r1"), BROKEN)}, None, ""),
        ({"replicas": (LOADING, BROKEN)}, None, ""),
        ({"replicas": (a_replica(), SHORT)}, None, ""),
        ({"replicas": (a_replica(), SHORT), "late": True}, P.DONE, "r1 cannot load it: no memory"),
        ({"replicas": (LOADING, SHORT), "late": True}, P.REVERTED, "not every replica has taken"),
        ({"replicas": (SHORT,), "late": True}, None, ""),
        ({"replicas": (ALONE,), **ABORTED}, None, ""),
        ({"replicas": (ALONE,), "evidence": AFTER_WORSE}, None, ""),
        ({"evidence": AFTER_WORSE}, P.REVERTED, "the new champion fails: 100 faults"),
        ({"evidence": WORSE}, P.DONE, "what was before the promotion is past"),
        (ABORTED, P.REVERTED, "aborted"),
        ({"late": True}, P.DONE, "stayed healthy"),
        ({"replicas": (BEHIND,), "late": True}, P.REVERTED, "not every replica has taken"),
        ({"replicas": (LOADING,), "late": True}, P.REVERTED, "not every replica has taken"),
        ({"replicas": (), "late": True}, None, ""),
    ],
)
def test_promoted(situation: dict[str, Any], phase: Phase | None, reason: str) -> None:
    arrow = taken(P.PROMOTED, **situation)
    check(arrow, phase, "" if "past" in reason else reason)


@pytest.mark.parametrize(
    ("phase", "situation", "to"),
    [
        (P.ROLLBACK, {}, P.FAILED),
        (P.ROLLBACK, {"replicas": (BEHIND,)}, None),
        (P.ROLLBACK, {"replicas": ()}, None),
        (P.ROLLBACK, {"replicas": (), "late": True}, P.FAILED),
        (P.REVERTED, {}, P.FAILED),
        (P.REVERTED, {"replicas": (BEHIND,)}, None),
        (P.REVERTED, {"replicas": (a_replica(held={}),)}, None),
        (P.REVERTED, {"replicas": (a_replica(held={}),), "late": True}, P.FAILED),
        (P.DONE, {}, None),
        (P.FAILED, {}, None),
    ],
)
def test_the_ways_back_end_for_the_reason_they_began(
    phase: Phase, situation: dict[str, Any], to: Phase | None
) -> None:
    check(taken(phase, **situation), to, "why it is here")


@pytest.mark.parametrize("phase", [P.LOADING, P.GATE, P.STEP, P.PROMOTED])
def test_a_deadline_that_passed_while_nobody_lived_leaves_a_load_time_after_the_start(
    phase: Phase,
) -> None:
    """All were stopped for a day longer than the phase may last, and are started again."""
    s = a_snapshot(phase, evidence=NONE)
    started = s.rollout.deadline + timedelta(days=1)
    soon, later = (started + timedelta(seconds=seconds) for seconds in (29, 30))
    loading = a_replica(held=ALL_READY | {CHALLENGER: "loading"}, started_at=started)
    s = replace(s, replicas=(loading,))
    assert decide(s, soon) is None
    undone = decide(s, later)
    assert undone is not None
    assert undone.to is (P.REVERTED if phase is P.PROMOTED else P.ROLLBACK)
    old = replace(s, replicas=(loading, a_replica("r1", started_at=started - timedelta(hours=9))))
    assert decide(old, soon) is not None
    s = replace(s, replicas=(a_replica(started_at=started),))
    onward = decide(replace(s, evidence=GOOD), soon)
    assert onward is not None
    assert onward.to not in (P.ROLLBACK, P.REVERTED)


def test_a_replica_that_restarts_while_a_promotion_is_watched_takes_nothing_back() -> None:
    """It loads one model after the other, and may not be done at the deadline."""
    s = a_snapshot(P.PROMOTED)
    follows = a_replica("r0", started_at=s.rollout.since - timedelta(days=1))
    loads = a_replica("r1", ALL_READY | {CHALLENGER: "loading"}, started_at=s.rollout.since)
    s = replace(s, replicas=(follows, loads))
    late = s.rollout.deadline + timedelta(seconds=1)
    undone = decide(s, late)
    assert undone is not None
    assert undone.to is P.REVERTED
    young = replace(loads, started_at=s.rollout.since + timedelta(seconds=1))
    kept = decide(replace(s, replicas=(follows, young)), late)
    assert kept is not None
    assert kept.to is P.DONE


def test_a_failing_promotion_goes_back_to_the_baseline_where_nobody_holds_the_one_before() -> None:
    s = a_snapshot(P.PROMOTED, abort_requested="anna")
    only = a_replica(held=ALL_READY | {CHAMPION: "failed"})
    back = decide(replace(s, replicas=(only,)), s.rollout.since)
    assert back is not None
    assert back.route is not None
    assert (back.to, back.route.champion) == (P.REVERTED, BASELINE)


def test_a_start_in_the_future_is_one_of_before_the_clock_was_set_back() -> None:
    s = a_snapshot(P.GATE, evidence=NONE)
    now = s.rollout.deadline
    ahead = a_replica(started_at=now + timedelta(hours=1))
    arrow = decide(replace(s, replicas=(ahead,)), now)
    assert arrow is not None
    assert arrow.to is P.ROLLBACK


def check(arrow: Arrow | None, phase: Phase | None, reason: str) -> None:
    if phase is None:
        assert arrow is None
    else:
        assert arrow is not None
        assert arrow.to is phase
        assert reason in arrow.reason


# What arrows bring --------------------------------------------------------------------------


def route_after(phase: Phase, **situation: Any) -> Any:
    arrow = taken(phase, **situation)
    assert arrow is not None
    assert arrow.route is not None
    return arrow.route


def test_a_challenger_is_loaded_and_shown_requests_without_a_share() -> None:
    route = route_after(P.PENDING)
    assert (route.challenger, route.weight_bp, route.mirror_bp) == (CHALLENGER, 0, 10_000)
    assert (route.salt, route.only_replicas) == ("rollout-1", None)


def test_a_rolling_rollout_begins_with_the_first_replica_and_goes_on_one_by_one() -> None:
    assert route_after(P.PENDING, strategy="rolling", replicas=BOTH).only_replicas == ("r0",)
    joined = route_after(P.STEP, strategy="rolling", replicas=BOTH)
    assert (joined.only_replicas, joined.weight_bp) == (("r0", "r1"), 10_000)


@pytest.mark.parametrize(("step", "weight"), [(0, 2500), (1, 5000), (2, 10_000)])
def test_a_canary_grows_by_its_shares(step: int, weight: int) -> None:
    arrow = taken(P.STEP, step=step)
    assert arrow is not None
    assert arrow.route is not None
    assert (arrow.step, arrow.route.weight_bp, arrow.route.mirror_bp) == (step + 1, weight, 0)
    assert arrow.detail["weight_bp"] == weight


def test_promotion_is_a_rename() -> None:
    arrow = taken(P.STEP, step=3)
    assert arrow is not None
    assert arrow.route is not None
    assert (arrow.route.champion, arrow.route.previous_champion) == (CHALLENGER, CHAMPION)
    assert (arrow.route.challenger, arrow.route.weight_bp, arrow.route.salt) == (None, 0, "")
    assert arrow.statuses == {CHALLENGER: Status.DEPLOYED, CHAMPION: Status.RETIRED}


def test_reverting_is_the_rename_backwards() -> None:
    arrow = taken(P.PROMOTED, **ABORTED)
    assert arrow is not None
    assert arrow.route is not None
    assert (arrow.route.champion, arrow.route.previous_champion) == (CHAMPION, CHALLENGER)
    assert arrow.statuses == {CHALLENGER: Status.FAILED, CHAMPION: Status.DEPLOYED}


def test_a_reverted_version_is_let_go_once_all_hold_the_champion_again() -> None:
    assert route_after(P.REVERTED).previous_champion is None


def test_a_reverted_version_stays_where_time_runs_out_first() -> None:
    """A replica may hold nothing else, and must not lose its answer."""
    arrow = taken(P.REVERTED, replicas=(a_replica(held={CHALLENGER: "ready"}),), late=True)
    assert arrow is not None
    assert arrow.route is None


@pytest.mark.parametrize(
    ("situation", "failed"),
    [
        ({"evidence": WORSE}, True),
        ({"replicas": (BROKEN,)}, True),
        ({"replicas": (a_replica(), SHORT), "late": True}, False),
        (ABORTED, False),
        ({"evidence": FEW, "late": True}, False),
        ({"champion_failing": "it errs"}, False),
    ],
)
def test_only_what_failed_on_evidence_is_marked_as_failed(
    situation: dict[str, Any], failed: bool
) -> None:
    arrow = taken(P.STEP, **situation)
    assert arrow is not None
    assert arrow.route is not None
    assert (arrow.route.challenger, arrow.route.weight_bp) == (CHALLENGER, 0)
    assert arrow.statuses == ({CHALLENGER: Status.FAILED} if failed else {})


def test_a_failed_rollout_takes_its_challenger_out_of_the_route() -> None:
    route = route_after(P.ROLLBACK, strategy="rolling")
    assert (route.champion, route.challenger, route.only_replicas) == (CHAMPION, None, None)


def test_an_arrow_tells_what_it_rests_on() -> None:
    arrow = taken(P.STEP)
    assert arrow is not None
    assert arrow.detail["verdict"] == "good"
    assert (arrow.detail["trials"], arrow.detail["faults"]) == (1000, 0)
    assert arrow.detail["e_value"] < 1
    assert arrow.detail["upper_bound"] < 0.01


def test_each_arrow_sets_the_patience_of_where_it_leads() -> None:
    s = a_snapshot(P.GATE)
    arrow = decide(s, dwelt(s))
    assert arrow is not None
    assert arrow.patience == s.plan.patience(P.STEP)


def test_deciding_changes_nothing_and_is_repeatable() -> None:
    s = a_snapshot(P.STEP)
    assert decide(s, dwelt(s)) == decide(replace(s), dwelt(s))

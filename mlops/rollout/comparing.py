"""Rules of rollouts that compare: those that carry an A/B test, and shadows.

They know champion and challenger only, whatever names a person gave to the two. Both make room for
what replaces a champion, and a shadow that was interrupted begins again afterwards.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from mlops.rollout.plan import Strategy
from mlops.rollout.snapshot import Snapshot
from mlops.store import Phase, Rollout, Route, Status, Verdict
from mlops.store.rollouts import Arrow

UNEVALUATED = "stopped: nobody evaluated the test before its deadline"

INTERRUPTED = "interrupted by "
"""The request to end a shadow that is to begin again starts so."""

_MAKING_ROOM = (Phase.PENDING, Phase.LOADING, Phase.GATE, Phase.STEP)
_WITHOUT_WINNER = (Verdict.EQUIVALENT, Verdict.INCONCLUSIVE, Verdict.INVALID)


def carries_test(s: Snapshot) -> bool:
    """Whether the rollout goes on by the verdict of an A/B test."""
    return s.plan.strategy is Strategy.AB_TEST


def is_won(s: Snapshot) -> bool:
    """Whether the rollout's test found the challenger better, and is to promote it."""
    return s.verdict_of_test is Verdict.BETTER and s.promotes_winner


def is_lost(s: Snapshot) -> bool:
    """Whether the rollout's test has a verdict that promotes nobody."""
    return s.verdict_of_test is not None and not is_won(s)


def is_unevaluated(s: Snapshot) -> bool:
    """Whether the challenger of a test has its share, and the test has no verdict."""
    return carries_test(s) and s.rollout.phase is Phase.STEP and s.verdict_of_test is None


def keeps_challenger(s: Snapshot) -> bool:
    """Whether a rollout that was undone leaves its challenger as good as it was.

    So it is where its test was stopped on request or ended without a winner to promote, and no
    fault came in between.
    """
    if not carries_test(s) or s.statuses.get(s.rollout.to_version) is Status.FAILED:
        return False
    if s.rollout.abort_requested is not None:
        return s.verdict_of_test is not Verdict.WORSE
    ended = s.verdict_of_test in _WITHOUT_WINNER
    return ended or (s.verdict_of_test is Verdict.BETTER and not s.promotes_winner)


def makes_room(row: Rollout, *, test_has_verdict: bool = False) -> bool:
    """Whether an open rollout may be ended because another one is asked for.

    Args:
        row: The rollout.
        test_has_verdict: Whether the test that it carries is over, so that it ends by itself.
    """
    compares = row.strategy in (Strategy.SHADOW, Strategy.AB_TEST)
    return compares and row.phase in _MAKING_ROOM and not test_has_verdict


def interrupt(
    row: Rollout, route: Route, reason: str, *, again: bool, verdict: Verdict | None = None
) -> Arrow:
    """The arrow that ends a comparing rollout at once; the champion answers all requests.

    Args:
        row: A rollout of which `makes_room` is true.
        route: The route of its service.
        reason: Why it ends.
        again: Whether it is to begin again when its service is free.
        verdict: The stored verdict of the test that it carries.
    """
    alone = None if route.challenger is None else without_challenger(route)
    return Arrow(
        to=Phase.DONE,
        step=row.step,
        patience=timedelta(0),
        reason=reason,
        route=alone,
        abort=f"{INTERRUPTED if again else ''}{reason}",
        verdict_of_test=verdict,
    )


def without_challenger(route: Route) -> Route:
    """The route without its challenger and the challenger's share."""
    return replace(route, challenger=None, weight_bp=0, mirror_bp=0, salt="", only_replicas=None)

"""Every situation of a wish to go live and of a return to the baseline, and wrong rules of both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import product
from types import ModuleType
from typing import Any

from mlops.rollout import fallback as falling
from mlops.rollout import wishes as wishing
from mlops.rollout.fallback import HOLDS_UP_S
from mlops.rollout.plan import RolloutPlan, Strategy, plan_for
from mlops.store import Phase, Rollout, Route, Status

from .mutants import _YES_NO, Mutant, Rule, Wrong, _always, _returning
from .rows import BASELINE, CHALLENGER, CHAMPION, NOW, SERVICE
from .snapshots import a_rollout

PLAN = plan_for(Strategy.CANARY)
ROUTE = Route(SERVICE, 7, CHAMPION, None, BASELINE, NOW, NOW)
MAY_GO_LIVE = {Status.CHALLENGER, Status.RETIRED, Status.DEPLOYED}
PROMOTING = (Strategy.BLUE_GREEN, Strategy.CANARY, Strategy.ROLLING)
AGES = (0.0, HOLDS_UP_S - 1, HOLDS_UP_S, 30 * 86_400.0)


def row_in(phase: Phase, plan: RolloutPlan = PLAN, **changes: Any) -> Rollout:
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
        reason="",
        abort_requested=None,
        forced=False,
        requested_by="train",
        requested_why="auto_deploy",
        requested_at=NOW,
    )
    return replace(row, **changes)


def broken_by_wishes() -> Iterator[str]:
    """The laws that some decision on a wish breaks."""
    for status, aborted, live, busy in product(
        (*Status, None), (None, "anna"), *[(True, False)] * 2
    ):
        route = replace(ROUTE, champion=CHALLENGER) if live else ROUTE
        wish = a_rollout(Phase.WAITING, PLAN, abort_requested=aborted)
        statuses = {} if status is None else {CHALLENGER: status}
        arrow = wishing.decide_wish(wish, route, statuses, busy=busy)
        to = None if arrow is None else arrow.to
        lost = bool(aborted) or live or status not in MAY_GO_LIVE
        if lost and to is not Phase.FAILED:
            yield "a_wish_that_cannot_come_true_ends_at_once"
        if not lost and busy and to is not None:
            yield "a_wish_waits_while_a_rollout_is_open"
        if not lost and not busy and to is not Phase.PENDING:
            yield "a_wish_begins_when_no_rollout_is_open"
        asking = wishing.is_asking(wish, route, statuses)
        if asking != (not lost):
            yield "whoever_could_begin_in_a_free_service_asks_a_shadow_to_make_room"
        if arrow is not None and not arrow.reason:
            yield "whatever_a_wish_comes_to_has_a_reason"
        if arrow is not None and (arrow.route or arrow.statuses):
            yield "a_wish_changes_no_route_and_no_status"
        if to is Phase.PENDING and arrow and arrow.patience != PLAN.patience(Phase.PENDING):
            yield "the_deadline_counts_from_the_beginning"


def broken_by_comparisons() -> Iterator[str]:
    """The laws that a waiting rollout breaks which compares: a shadow, or one with an A/B test."""
    statuses = {CHALLENGER: Status.CHALLENGER}
    for strategy, busy in product((Strategy.SHADOW, Strategy.AB_TEST), (True, False)):
        wish = a_rollout(Phase.WAITING, plan_for(strategy))
        arrow = wishing.decide_wish(wish, ROUTE, statuses, busy=busy)
        begins = strategy is Strategy.SHADOW and not busy
        if (arrow is not None) != begins:
            yield "a_test_is_begun_by_its_request_alone"
        if wishing.is_asking(wish, ROUTE, statuses):
            yield "what_compares_asks_nobody_to_make_room"
    for strategy, status in product(
        (Strategy.SHADOW, Strategy.CANARY), (Status.REFUSED, Status.FAILED)
    ):
        wish = a_rollout(Phase.WAITING, plan_for(strategy))
        arrow = wishing.decide_wish(wish, ROUTE, {CHALLENGER: status}, busy=False)
        may_begin = strategy is Strategy.SHADOW and status is Status.REFUSED
        if arrow is None or (arrow.to is Phase.PENDING) != may_begin:
            yield "a_version_with_claims_may_be_shadowed_again_and_nothing_else"
    for strategy, phase in product(Strategy, Phase):
        row = a_rollout(phase, PLAN, strategy=strategy)
        before_end = phase in (Phase.PENDING, Phase.LOADING, Phase.GATE, Phase.STEP)
        if wishing.makes_room_for_wish(row) != (strategy is Strategy.SHADOW and before_end):
            yield "a_test_holds_its_service_against_wishes_and_a_shadow_does_not"


def broken_by_returns() -> Iterator[str]:
    """The laws that some decision on a rollout in the way of a return breaks."""
    phases = [phase for phase in Phase if not phase.final and phase is not Phase.WAITING]
    strategies = [*Strategy, "ab_test"]
    for phase, strategy, age in product(phases, strategies, AGES):
        # Its present step may have begun just now.
        now = NOW + timedelta(seconds=age)
        row = a_rollout(phase, PLAN, strategy=strategy, since=now)
        held_up = falling.holds_up_return(row, NOW, now)
        ending = phase in (Phase.ROLLBACK, Phase.REVERTED)
        if ending and not held_up:
            yield "what_is_undone_already_is_waited_for"
        if not ending and strategy in (Strategy.SHADOW, "ab_test") and held_up:
            yield "a_rollout_that_only_compares_holds_nothing_up"
        if not ending and age >= HOLDS_UP_S and held_up:
            yield "a_long_rollout_holds_nothing_up"
        if age < HOLDS_UP_S and strategy in PROMOTING and not held_up:
            yield "a_young_rollout_may_bring_a_better_version"


def _of_wish(**changes: Any) -> Wrong:
    return lambda right: (
        lambda wish, *rest, **options: right(replace(wish, **changes), *rest, **options)
    )


def _whatever_the_status(right: Rule) -> Rule:
    def wrong(wish: Rollout, route: Route, statuses: Any, *, busy: bool) -> Any:
        return right(wish, route, {wish.to_version: Status.CHALLENGER}, busy=busy)

    return wrong


def _refused_as(status: Status) -> Wrong:
    def replaced(statuses: Mapping[str, Status]) -> dict[str, Status]:
        return {name: status if s is Status.REFUSED else s for name, s in statuses.items()}

    return lambda right: (
        lambda wish, route, statuses, *, busy: right(wish, route, replaced(statuses), busy=busy)
    )


def _of_row(**changes: Any) -> Wrong:
    return lambda right: lambda row, *times: right(replace(row, **changes), *times)


def _since_its_step(right: Rule) -> Rule:
    def wrong(row: Rollout, began: datetime, now: datetime) -> bool:
        return bool(right(row, row.since, now))

    return wrong


_MUTANTS: Mapping[tuple[ModuleType, str], Mapping[str, Wrong]] = {
    (wishing, "decide_wish"): {
        "never": _always(None),
        "beside an open rollout": lambda right: lambda *args, busy: right(*args, busy=False),
        "blind to aborts": _of_wish(abort_requested=None),
        "whatever the status": _whatever_the_status,
        "no refused version in a shadow": _refused_as(Status.FAILED),
        "of the champion": lambda right: (
            lambda wish, route, *rest, **options: right(wish, ROUTE, *rest, **options)
        ),
        "with no time to load": _returning(patience=timedelta(0)),
        "without a word": _returning(reason=""),
        "tests as well": lambda right: (
            lambda wish, *rest, **options: right(
                replace(wish, plan=PLAN.to_dict(), strategy=PLAN.strategy), *rest, **options
            )
        ),
    },
    (wishing, "is_asking"): {
        **_YES_NO,
        "though it is a shadow": _of_wish(strategy=Strategy.CANARY),
    },
    (wishing, "makes_room_for_wish"): {
        **_YES_NO,
        "tests as well": lambda right: wishing.makes_room,
        "when it is ending": lambda right: lambda row: row.strategy == Strategy.SHADOW,
    },
    (falling, "holds_up_return"): {
        **_YES_NO,
        "while it shadows": _of_row(strategy=Strategy.CANARY),
        "while it is undone": _of_row(phase=Phase.STEP),
        "for ever": lambda right: lambda row, began, now: right(row, now, now),
        "since its step": _since_its_step,
    },
}


def wish_mutants() -> Iterator[Mutant]:
    """Every wrong version there is."""
    for (owner, rule), versions in _MUTANTS.items():
        for how, wrong in versions.items():
            yield Mutant(owner, rule, how, wrong)

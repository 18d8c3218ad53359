"""What must hold of the rollouts that compare: those that carry an A/B test, and shadows.

The laws know champion and challenger only, as the rules do: which of the two a person called model
B is no input of either.
"""

from __future__ import annotations

from collections.abc import Iterator

from mlops.rollout.comparing import INTERRUPTED
from mlops.rollout.plan import Strategy
from mlops.store.rollouts import Arrow
from mlops.store.schema import Phase, Status, Verdict

from .laws import FORWARD, Look
from .world import Clock, Row, World

COMPARING = (Strategy.AB_TEST, Strategy.SHADOW)
WITHOUT_WINNER = (Verdict.EQUIVALENT, Verdict.INCONCLUSIVE, Verdict.INVALID)


def no_challenger_of_a_test_is_promoted_without_a_stored_better(look: Look) -> bool:
    if not look.tests or not look.goes(Phase.PROMOTED):
        return True
    return look.sight.test is Verdict.BETTER and look.sight.promotes


def the_champion_does_not_change_while_a_test_runs(look: Look) -> bool:
    if not look.tests or look.arrow is None or look.arrow.route is None:
        return True
    changes = look.arrow.route.champion != look.row.route.champion
    return not changes or look.sight.test is Verdict.BETTER or look.goes(Phase.REVERTED)


def a_better_challenger_is_promoted_at_once(look: Look) -> bool:
    ready = look.tests and look.row.phase is Phase.STEP and look.followed and look.held
    held_up = look.bad_news or look.sight.short.too_many
    if not ready or held_up or not look.sight.won:
        return True
    return look.goes(Phase.PROMOTED)


def a_test_without_a_verdict_keeps_its_split(look: Look) -> bool:
    waits = look.tests and look.row.phase is Phase.STEP and look.sight.test is None
    if not waits or look.bad_news or look.sight.clock is Clock.LATE:
        return True
    return look.arrow is None


def only_a_test_ends_well_after_a_roll_back(look: Look) -> bool:
    """Without a winner, or stopped on request, and with nothing against its challenger."""
    if look.row.phase is not Phase.ROLLBACK or look.arrow is None:
        return True
    if not look.tests:
        return look.goes(Phase.FAILED)
    if look.sight.status is Status.FAILED or look.sight.test is Verdict.WORSE:
        return look.goes(Phase.FAILED)
    unpromoted = look.sight.test is Verdict.BETTER and not look.sight.promotes
    kept = look.sight.aborted or unpromoted or look.sight.test in WITHOUT_WINNER
    return look.goes(Phase.DONE if kept else Phase.FAILED)


def a_test_that_nobody_evaluates_is_stopped_on_request_of_the_controller(look: Look) -> bool:
    if look.arrow is None or not look.goes(Phase.ROLLBACK):
        return True
    unevaluated = look.tests and look.row.phase is Phase.STEP and look.sight.test is None
    return (look.arrow.abort is not None) == (unevaluated and not look.bad_news)


def a_verdict_comes_with_its_sentence(look: Look) -> bool:
    decided = look.tests and look.sight.test is not None and not look.sight.aborted
    if not decided or not look.goes(Phase.PROMOTED) or look.arrow is None:
        return True
    return "its sentence" in look.arrow.reason


def an_arrow_says_which_verdict_it_rests_on(look: Look) -> bool:
    if look.arrow is None or (look.goes(Phase.DONE) and look.row.phase in FORWARD):
        return True
    return look.arrow.verdict_of_test is look.sight.test


def a_shadow_makes_room_for_whatever_waits(look: Look) -> bool:
    before = (Phase.PENDING, *FORWARD)
    if not look.is_asked or look.row.phase not in before:
        return True
    return look.goes(Phase.DONE, Phase.FAILED, Phase.ROLLBACK)


def no_wish_ends_a_test(look: Look) -> bool:
    ended = look.row.phase is not Phase.ROLLBACK and look.goes(Phase.DONE)
    return not look.tests or not ended or look.row.phase is Phase.PROMOTED


ARROW_LAWS = (
    no_challenger_of_a_test_is_promoted_without_a_stored_better,
    the_champion_does_not_change_while_a_test_runs,
    a_better_challenger_is_promoted_at_once,
    a_test_without_a_verdict_keeps_its_split,
    only_a_test_ends_well_after_a_roll_back,
    a_test_that_nobody_evaluates_is_stopped_on_request_of_the_controller,
    a_verdict_comes_with_its_sentence,
    an_arrow_says_which_verdict_it_rests_on,
    a_shadow_makes_room_for_whatever_waits,
    no_wish_ends_a_test,
)


def broken_by(look: Look) -> Iterator[str]:
    """The laws an arrow breaks."""
    return (law.__name__ for law in ARROW_LAWS if not law(look))


def broken_by_interrupt(world: World, row: Row, arrow: Arrow | None) -> Iterator[str]:
    """The laws that a request breaks which takes the place of this rollout."""
    may_end = world.strategy in COMPARING and row.phase in (Phase.PENDING, *FORWARD)
    if (arrow is not None) != may_end:
        yield "what_compares_makes_room_until_it_has_its_end"
    if arrow is None:
        return
    after = arrow.route or row.route
    if arrow.to is not Phase.DONE:
        yield "what_made_room_is_done"
    if (after.champion, after.challenger, after.weight_bp) != (row.route.champion, None, 0):
        yield "who_makes_room_leaves_the_champion_alone"
    if arrow.abort is None or not arrow.abort.startswith(INTERRUPTED):
        yield "what_is_to_begin_again_is_marked"

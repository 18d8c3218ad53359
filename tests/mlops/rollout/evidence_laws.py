"""What evidence must do and not do: hold or undo a rollout, replace a champion."""

from __future__ import annotations

from collections.abc import Iterator

from mlops.rollout import routing
from mlops.rollout.analysis import ChampionTrials
from mlops.rollout.fallback import Fallback
from mlops.store.schema import Phase

from .laws import FORWARD, Look
from .world import FAILS, LACKS, MANY_SHORT, Clock, Row, Said, serving


def a_rollout_is_undone_for_a_reason(look: Look) -> bool:
    """Client input alone, of which the champion is not the cause, is none."""
    if look.row.phase not in FORWARD or not look.goes(Phase.ROLLBACK):
        return True
    return look.bad_news or look.sight.clock is Clock.LATE


def nothing_goes_on_while_clients_send_too_few_bars(look: Look) -> bool:
    further = look.row.phase is Phase.STEP and look.goes(Phase.STEP)
    return not (further or look.goes(Phase.PROMOTED)) or look.sight.short != MANY_SHORT


def a_rollout_that_was_held_tells_the_bars_that_were_sent_and_needed(look: Look) -> bool:
    held = look.row.phase in (Phase.GATE, Phase.STEP) and look.sight.short == MANY_SHORT
    unevaluated = look.tests and look.row.phase is Phase.STEP and look.sight.test is None
    if not held or unevaluated or look.bad_news or not look.goes(Phase.ROLLBACK):
        return True
    assert look.arrow is not None
    short = look.sight.short
    return all(str(bars) in look.arrow.reason for bars in (short.offered, short.needed))


ARROW_LAWS = (
    a_rollout_is_undone_for_a_reason,
    nothing_goes_on_while_clients_send_too_few_bars,
    a_rollout_that_was_held_tells_the_bars_that_were_sent_and_needed,
)


def broken_by(look: Look) -> Iterator[str]:
    """The laws an arrow breaks."""
    return (law.__name__ for law in ARROW_LAWS if not law(look))


def broken_by_fallback(
    row: Row, said: tuple[Said | None, ...], champion: ChampionTrials, fallen: Fallback | None
) -> Iterator[str]:
    """The laws that the controller breaks where no rollout is open."""
    route, heard = row.route, [frozenset(one.models) for one in serving(said).values()]
    held = {model for models in heard for model, state in models if state == routing.READY}
    broken = bool(heard) and all((route.champion, routing.FAILED) in models for models in heard)
    lacking = any((route.champion, LACKS) in models for models in heard)
    if fallen is not None and champion != FAILS and not broken:
        if lacking:
            yield "a_load_failure_of_a_replica_moves_no_route_and_no_status"
        yield "client_input_alone_never_moves_a_route_off_its_champion"
    replaceable = route.champion != route.baseline and held & {
        route.previous_champion,
        route.baseline,
    }
    if fallen is None and champion == FAILS and replaceable:
        yield "a_champion_that_fails_on_requests_and_on_our_inputs_falls"
    if fallen is None and broken and replaceable:
        yield "a_champion_whose_files_are_wrong_everywhere_falls"
    if fallen is not None and fallen.route.champion == route.champion:
        yield "a_champion_that_falls_is_replaced"
    if fallen is not None and fallen.route.champion not in held:
        yield "a_route_is_moved_only_to_what_a_live_replica_holds"

"""The one place for a challenger on a route: who gets it, and who makes room.

In this order: a return to the baseline, a rollout by a person, an A/B test, a rollout by schedule
or alarm, a shadow. A test holds the place against other rollouts until it is ended on request; a
shadow makes room for whatever asks.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from mlops.errors import RolloutRefused
from mlops.rollout.comparing import interrupt, makes_room
from mlops.rollout.plan import Strategy
from mlops.store import AbTest, Rollout, Route, Verdict, audit
from mlops.store.ab_tests import conclude_test, lock_test_of
from mlops.store.engine import Connection
from mlops.store.rollouts import lock_open_rollout, move_rollout
from mlops.store.routes import lock_route


def lock_slot(connection: Connection, service: str) -> tuple[Route | None, Rollout | None]:
    """The route and the open rollout of a service, locked until the caller's transaction ends.

    The rollout is locked before the route, as by every arrow.
    """
    lock_open_rollout(connection, service)
    route = lock_route(connection, service)
    # Read again: another rollout may have been requested before the route was locked.
    return route, lock_open_rollout(connection, service)


def clear_slot(
    connection: Connection,
    route: Route,
    row: Rollout,
    model_id: str,
    why: audit.Why,
    *,
    end_test: bool,
) -> Route:
    """End the open rollout for another version, or refuse to; returns the route after it.

    Args:
        connection: The caller's transaction.
        route: The route of the service.
        row: Its open rollout, both as `lock_slot` returned them.
        model_id: The version that is asked for.
        why: Who asks, and when.
        end_test: Whether a running A/B test is to make room as well.

    Raises:
        RolloutRefused: when the rollout does not make room.
    """
    test = lock_test_of(connection, row.id)
    over = test is not None and test.verdict is not None
    if not makes_room(row, test_has_verdict=over):
        ended = f", {test.id} ended as {test.verdict}" if test is not None and over else ""
        raise RolloutRefused(
            f"{row.id} is bringing {row.to_version} live on {row.service} ({row.phase}{ended}); "
            "wait for it to end, or abort it"
        )
    if test is None:
        reason = f"{model_id} was asked for by {why.actor}"
        return interrupt_rollout(
            connection, row, route, reason, at=why.at, again=model_id != row.to_version
        )
    if not end_test:
        raise RolloutRefused(
            f"A/B test {test.id} compares {test.champion_id} with {test.challenger_id} on "
            f"{row.service}; wait for its verdict, stop it, or pass end_test=True"
        )
    superseded = replace(why, reason=f"superseded by {model_id}")
    return interrupt_test(connection, row, route, test, superseded)


def interrupt_test(
    connection: Connection, row: Rollout, route: Route, test: AbTest, why: audit.Why
) -> Route:
    """Stop a running test and end its rollout at once, for the reason of ``why``.

    The verdict is written before the route changes.

    Returns:
        The route after it.
    """
    conclude_test(connection, test.id, Verdict.STOPPED, why.reason, why)
    return interrupt_rollout(
        connection, row, route, why.reason, at=why.at, again=False, verdict=Verdict.STOPPED
    )


def interrupt_rollout(
    connection: Connection,
    row: Rollout,
    route: Route,
    reason: str,
    *,
    at: datetime,
    again: bool,
    verdict: Verdict | None = None,
) -> Route:
    """End a rollout that makes room at once, inside the caller's transaction.

    Args:
        connection: The caller's transaction.
        row: The rollout.
        route: The route of its service.
        reason: Why it ends.
        at: This time.
        again: Whether a shadow is to begin again when its service is free.
        verdict: The stored verdict of the test that it carries.

    Returns:
        The route after it.
    """
    again = again and row.strategy == Strategy.SHADOW
    arrow = interrupt(row, route, reason, again=again, verdict=verdict)
    return move_rollout(connection, row, route, arrow, term=None, at=at)

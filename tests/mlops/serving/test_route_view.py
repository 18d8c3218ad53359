"""A challenger's share runs out by this process's clock; routes stay as they were last seen."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from mlops.serving import route_view
from mlops.serving.route_view import read_route_view
from mlops.store import ModelVersion, Status, Store, Why
from mlops.store.routes import change_route, read_route, renew_exposure
from tests.mlops.store.conftest import SERVICE, add, began, store, url  # noqa: F401

AT = datetime(2025, 1, 1, tzinfo=UTC)


@pytest.fixture
def exposed(began: Store, add: Callable[..., ModelVersion]) -> Store:  # noqa: F811
    from dataclasses import replace

    add("challenger", 2, status=Status.CHALLENGER)
    with began.write() as connection:
        route = read_route(connection, SERVICE)
        assert route is not None
        after = replace(route, challenger="challenger", weight_bp=1000, salt="s")
        change_route(connection, route, after, "test", Why(AT))
    return began


def test_a_share_that_was_not_renewed_does_not_count(exposed: Store) -> None:
    assert not read_route_view(exposed).routes[SERVICE].valid


def test_a_renewed_share_counts_until_it_runs_out(
    exposed: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with exposed.write() as connection:
        renew_exposure(connection, SERVICE, seconds=5.0)
    seen = read_route_view(exposed).routes[SERVICE]
    assert seen.valid
    later = seen.valid_until + 0.001
    monkeypatch.setattr(route_view.time, "monotonic", lambda: later)
    assert not seen.valid


def test_a_share_ends_when_the_clock_is_set_back(exposed: Store) -> None:
    """Else it would count for an hour more, with no controller alive."""
    with exposed.write() as connection:
        renew_exposure(connection, SERVICE, seconds=3600.0)
    assert not read_route_view(exposed).routes[SERVICE].valid


def test_reading_the_routes_never_extends_a_share(
    exposed: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the reading costs is taken off: the clock is read before it."""
    with exposed.write() as connection:
        renew_exposure(connection, SERVICE, seconds=5.0)
    ticks = iter([100.0, 200.0, 300.0])
    monkeypatch.setattr(route_view.time, "monotonic", lambda: next(ticks))
    assert read_route_view(exposed).routes[SERVICE].valid_until <= 105.0


def test_since_is_the_champions_promotion_not_a_later_change_of_the_route(
    exposed: Store,
) -> None:
    from dataclasses import replace
    from datetime import timedelta

    promoted = AT + timedelta(days=1)
    with exposed.write() as connection:
        route = read_route(connection, SERVICE)
        assert route is not None
        after = replace(route, champion="challenger", challenger=None, weight_bp=0)
        route = change_route(connection, route, after, "promote", Why(promoted))
        later = replace(route, previous_champion=None)
        change_route(connection, route, later, "retire", Why(promoted + timedelta(days=1)))
    first = read_route_view(exposed)
    assert first.routes[SERVICE].since == promoted
    assert read_route_view(exposed, first).routes[SERVICE].since == promoted

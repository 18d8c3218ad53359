"""A service begins on its baseline, once; aliases follow from the rows."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from mlops.errors import StoreError
from mlops.store import ModelVersion, Status, Store, Why, get_route, list_routes
from mlops.store.live import aliases, begin_route

from .conftest import NOW, SERVICE

Add = Callable[..., ModelVersion]


def test_a_service_begins_with_its_baseline_as_champion(began: Store) -> None:
    route = get_route(began, SERVICE)
    assert route is not None
    assert route.champion == route.baseline == "persistence_BTC_1"
    assert (route.generation, route.previous_champion) == (1, None)
    assert list_routes(began) == (route,)


def test_a_service_that_has_not_begun_has_no_route(store: Store) -> None:
    assert get_route(store, SERVICE) is None
    assert aliases(store, SERVICE) == {}


def test_a_service_begins_only_once(began: Store) -> None:
    with pytest.raises(StoreError, match=r"(?i)unique"), began.write() as connection:
        begin_route(connection, SERVICE, "persistence_BTC_1", Why(NOW))


def test_a_route_cannot_name_a_version_that_is_not_there(store: Store) -> None:
    with pytest.raises(StoreError, match=r"(?i)foreign key"), store.write() as connection:
        begin_route(connection, SERVICE, "nobody", Why(NOW))
    assert get_route(store, SERVICE) is None


def test_the_challenger_is_the_newest_that_passed_on_evidence(began: Store, add: Add) -> None:
    challenger = {"status": Status.CHALLENGER}
    add("old", 2, created_at=NOW + timedelta(hours=1), **challenger)
    add("new", 3, created_at=NOW + timedelta(hours=2), **challenger)
    add("claimed", 4, created_at=NOW + timedelta(hours=3), claims_only=True, **challenger)
    add("refused", 5, created_at=NOW + timedelta(hours=4), status=Status.REFUSED)
    assert aliases(began, SERVICE) == {"champion": 1, "baseline": 1, "challenger": 3}

"""A service begins on its baseline, once; aliases follow from the rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from mlops.errors import StoreError
from mlops.store import (
    ModelVersion,
    Route,
    Status,
    Store,
    Why,
    get_route,
    list_audit_entries,
    list_live_periods,
    list_routes,
    live_at,
)
from mlops.store.routes import aliases, begin_route, change_route, renew_exposure
from tests.mlops.store.conftest import NOW, SERVICE

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


# Changes ------------------------------------------------------------------------------------


def current(store: Store) -> Route:
    found = get_route(store, SERVICE)
    assert found is not None
    return found


def change(store: Store, before: Route, *, hours: int = 1, **changes: Any) -> Route:
    why = Why(NOW + timedelta(hours=hours), actor="anna", reason="it is better")
    with store.write() as connection:
        return change_route(connection, before, replace(before, **changes), "promote", why)


def test_a_change_is_the_next_generation_with_history_and_audit(began: Store, add: Add) -> None:
    add("lstm", 2)
    changed = change(began, current(began), champion="lstm", previous_champion="persistence_BTC_1")
    assert changed == current(began)
    assert (changed.generation, changed.updated_at) == (2, NOW + timedelta(hours=1))
    reign = list_live_periods(began, SERVICE)[-1]
    assert (reign.generation, reign.champion, reign.action) == (2, "lstm", "promote")
    assert (reign.actor, reign.reason) == ("anna", "it is better")
    entry = list_audit_entries(began, service=SERVICE)[-1]
    assert (entry.action, entry.subject) == ("promote", "lstm")
    assert entry.before == {
        "champion": "persistence_BTC_1",
        "previous_champion": None,
        "generation": 1,
    }
    assert entry.after == {
        "champion": "lstm",
        "previous_champion": "persistence_BTC_1",
        "generation": 2,
    }


def test_a_route_that_has_changed_meanwhile_is_not_changed_by_who_did_not_know(
    began: Store, add: Add
) -> None:
    add("lstm", 2)
    known = current(began)
    change(began, known, champion="lstm")
    with pytest.raises(StoreError, match="no longer at generation 1; nothing was changed"):
        change(began, known, previous_champion="lstm")
    assert len(list_live_periods(began, SERVICE)) == 2


def test_baseline_and_beginning_never_change(began: Store, add: Add) -> None:
    add("lstm", 2)
    later = NOW + timedelta(days=1)
    change(began, current(began), champion="lstm", baseline="lstm", created_at=later)
    assert (current(began).baseline, current(began).created_at) == ("persistence_BTC_1", NOW)


@pytest.mark.parametrize(
    "wrong",
    [
        {"challenger": "lstm", "weight_bp": 10_001},
        {"challenger": "lstm", "weight_bp": -1},
        {"challenger": "lstm", "mirror_bp": 10_001},
        {"challenger": None, "weight_bp": 1},
        {"challenger": None, "mirror_bp": 1},
        {"challenger": "persistence_BTC_1"},
        {"challenger": "nobody"},
        {"champion": "nobody"},
        {"previous_champion": "nobody"},
    ],
)
def test_no_invalid_route_is_ever_committed(
    began: Store, add: Add, wrong: dict[str, object]
) -> None:
    add("lstm", 2)
    before = current(began)
    with pytest.raises(StoreError, match="breaks its rules"):
        change(began, before, **wrong)
    assert current(began) == before
    assert len(list_live_periods(began, SERVICE)) == 1


def test_who_takes_part_is_kept(began: Store, add: Add) -> None:
    add("lstm", 2)
    change(began, current(began), challenger="lstm", only_replicas=("r0", "r1"), salt="x")
    assert (current(began).only_replicas, current(began).salt) == (("r0", "r1"), "x")


def test_a_share_is_renewed_only_where_there_is_a_challenger(began: Store, add: Add) -> None:
    add("lstm", 2)
    with began.write() as connection:
        renew_exposure(connection, SERVICE, seconds=5)
    assert current(began).valid_until is None
    change(began, current(began), challenger="lstm", weight_bp=10)
    with began.write() as connection:
        renew_exposure(connection, SERVICE, seconds=5)
    first = current(began).valid_until
    with began.write() as connection:
        renew_exposure(connection, SERVICE, seconds=50)
    second = current(began).valid_until
    assert first is not None
    assert second is not None
    assert 44 < second - first < 60
    assert current(began).generation == 2


# Who was live when --------------------------------------------------------------------------


def test_who_was_live_at_a_moment_and_why(began: Store, add: Add) -> None:
    add("lstm", 2)
    change(began, current(began), hours=2, champion="lstm")
    change(began, current(began), hours=4, champion="persistence_BTC_1")
    hours = {hour: live_at(began, SERVICE, NOW + timedelta(hours=hour)) for hour in range(-1, 6)}
    assert hours[-1] is None
    champions = [reign.champion for reign in hours.values() if reign is not None]
    old, new = "persistence_BTC_1", "lstm"
    assert champions == [old, old, new, new, old, old]
    assert hours[3] is not None
    assert (hours[3].at, hours[3].actor) == (NOW + timedelta(hours=2), "anna")


def test_two_changes_at_one_moment_end_with_the_later_one(began: Store, add: Add) -> None:
    add("lstm", 2)
    change(began, current(began), champion="lstm")
    change(began, current(began), champion="persistence_BTC_1")
    reign = live_at(began, SERVICE, NOW + timedelta(hours=1))
    assert reign is not None
    assert (reign.generation, reign.champion) == (3, "persistence_BTC_1")


def test_a_service_that_never_was_has_no_past(began: Store) -> None:
    assert live_at(began, "other", NOW) is None
    assert list_live_periods(began, "other") == ()

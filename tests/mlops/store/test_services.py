"""Services are listed by key, with their champions, newest forecasts and outcomes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from mlops.errors import ServiceNotFound
from mlops.store import ModelVersion, Store, Why
from mlops.store.forecasts import Role
from mlops.store.routes import begin_route, change_route, get_route
from mlops.store.services import (
    list_route_page,
    list_with_outcomes,
    read_champions_since,
    read_newest_forecasts,
    require_route,
)

from .conftest import NOW, SERVICE
from .test_dashboard import BASELINE, HOUR, OTHER, write_bars

Add = Callable[..., ModelVersion]


def begin(store: Store, add: Add, service: str, *, days: int = 0) -> None:
    row = add(f"persistence_{service}", service=service)
    with store.write() as connection:
        why = Why(NOW + timedelta(days=days))
        begin_route(connection, service, row.model_id, why)


def test_services_come_by_key_and_pages_go_on_after_a_key(store: Store, add: Add) -> None:
    for name in ("c", "a", "b"):
        begin(store, add, f"sample.{name}-usd.1h.volatility.24")
    first, after = list_route_page(store, limit=2)
    second, end = list_route_page(store, after=after, limit=2)
    keys = [row.service.split(".")[1][0] for row in (*first, *second)]
    assert (keys, end) == (["a", "b", "c"], None)


def test_a_service_that_has_not_begun_is_named_beside_the_newest(store: Store, add: Add) -> None:
    with pytest.raises(ServiceNotFound, match="none yet"):
        require_route(store, SERVICE)
    begin(store, add, "sample.eth-usd.1h.volatility.24")
    with pytest.raises(ServiceNotFound, match=r"newest are: sample\.eth-usd"):
        require_route(store, SERVICE)


def test_forecasts_of_record_stand_beside_their_outcomes(began: Store) -> None:
    write_bars(began, 5, known=3)
    rows = list_with_outcomes(began, SERVICE, limit=9)
    assert [row.bar for row in rows] == [NOW + number * HOUR for number in range(5)]
    assert [row.outcome is None for row in rows] == [False, False, False, True, True]
    assert (rows[0].model_id, rows[0].role, rows[4].known_at) == (BASELINE, Role.RECORD, None)


def test_the_newest_forecasts_are_kept_where_there_are_too_many(began: Store) -> None:
    write_bars(began, 5)
    rows = list_with_outcomes(began, SERVICE, limit=2)
    assert [row.bar for row in rows] == [NOW + 3 * HOUR, NOW + 4 * HOUR]
    until = list_with_outcomes(began, SERVICE, since=NOW + HOUR, until=NOW + 3 * HOUR, limit=9)
    assert [row.bar for row in until] == [NOW + HOUR, NOW + 2 * HOUR]


def test_forecasts_of_a_version_beside_the_record_are_found_by_its_id(began: Store) -> None:
    write_bars(began, 3)
    write_bars(began, 3, model_id=OTHER, role=Role.SHADOW, known=0)
    rows = list_with_outcomes(began, SERVICE, model_id=OTHER, limit=9)
    assert {(row.model_id, row.role) for row in rows} == {(OTHER, Role.SHADOW)}
    assert [row.outcome is None for row in rows] == [False] * 3


def test_the_newest_forecast_of_record_of_each_service_is_read_at_once(
    began: Store, add: Add
) -> None:
    begin(began, add, "sample.eth-usd.1h.volatility.24")
    write_bars(began, 3)
    write_bars(began, 2, model_id=OTHER, role=Role.SHADOW, first=3)
    with began.read() as connection:
        found = read_newest_forecasts(connection, [SERVICE, "sample.eth-usd.1h.volatility.24"])
    assert {service: row.bar for service, row in found.items()} == {SERVICE: NOW + 2 * HOUR}


def test_a_champion_is_live_since_its_last_promotion(began: Store, add: Add) -> None:
    add(OTHER, 2)
    for hour, champion in ((1, OTHER), (2, BASELINE), (3, BASELINE)):
        route = get_route(began, SERVICE)
        assert route is not None
        after = replace(route, champion=champion, previous_champion=route.champion)
        with began.write() as connection:
            change_route(connection, route, after, "test", Why(NOW + hour * HOUR))
    with began.read() as connection:
        since = read_champions_since(connection, [SERVICE])
    assert since == {SERVICE: NOW + 2 * HOUR}

"""A retired service is served, watched and trained by nobody, until it is restored as it was."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from mlops.errors import RolloutError, RolloutRefused, ServiceNotFound
from mlops.rollout.controller import Controller
from mlops.rollout.retirement import restore_service, retire_service
from mlops.serving.route_view import read_route_view
from mlops.store import (
    Phase,
    Store,
    Why,
    get_rollout,
    list_audit_entries,
    list_live_periods,
    list_routes,
)
from mlops.store.alerts import list_alerts
from mlops.store.triggers import list_trainable_services

from .books import check_books
from .rows import CHAMPION, NOW, SERVICE, RowReplica, ask, carry, route_of
from .skill import OFTEN, lose_skill
from .test_wishes import register, wish

WHY = Why(NOW + timedelta(weeks=2), actor="anna", reason="nobody asks for it")


def _trainable(store: Store) -> list[str]:
    pairs = list_trainable_services(store, at=lambda _: WHY.at, limits=OFTEN)
    return [service for service, _ in pairs]


def test_a_retired_service_is_served_trained_and_told_of_by_nobody(service: Store) -> None:
    lose_skill(service)
    assert _trainable(service) == [SERVICE]
    retired = retire_service(service, SERVICE, WHY)
    assert retired.retired_at == WHY.at
    assert list_routes(service) == ()
    assert read_route_view(service).routes == {}
    assert _trainable(service) == []
    assert list_alerts(service, lasting_only=True) == ()
    assert Controller(service, "one").tick() == ()
    with pytest.raises(RolloutRefused, match="is retired; restore_service brings it back"):
        ask(service)
    last = list_live_periods(service, SERVICE)[-1]
    assert (last.action, last.actor, last.reason) == ("retire_service", "anna", WHY.reason)
    assert list_audit_entries(service)[-1].action == "retire_service"
    check_books(service)


def test_a_restored_service_has_its_champion_again(service: Store, replica: RowReplica) -> None:
    before = route_of(service)
    retire_service(service, SERVICE, WHY)
    restored = restore_service(service, SERVICE, WHY)
    assert restored == replace(before, generation=before.generation + 2, updated_at=WHY.at)
    replica.follow()
    assert list_routes(service) == (restored,)
    assert CHAMPION in replica.ready
    carry(Controller(service, "one"), [replica])
    check_books(service)


def test_what_cannot_be_retired_or_restored_is_refused_with_the_reason(service: Store) -> None:
    with pytest.raises(RolloutError, match="is not retired"):
        restore_service(service, SERVICE, WHY)
    with pytest.raises(ServiceNotFound, match="has not begun"):
        retire_service(service, "sample.eth-usd.1h.volatility.24", WHY)
    asked = ask(service)
    with pytest.raises(RolloutError, match=f"{asked.id} is bringing challenger live"):
        retire_service(service, SERVICE, WHY)
    assert route_of(service).retired_at is None


def test_a_wish_to_go_live_ends_with_its_service_and_a_retired_service_has_none(
    service: Store,
) -> None:
    asked = wish(service)
    retire_service(service, SERVICE, WHY)
    ended = get_rollout(service, asked.id)
    assert (ended.phase, ended.reason) == (Phase.FAILED, "the service was retired")
    assert register(service, "newer", 5) is None
    assert Controller(service, "one").tick() == ()
    check_books(service)


def test_a_service_is_not_retired_twice(service: Store) -> None:
    retire_service(service, SERVICE, WHY)
    with pytest.raises(RolloutError, match="was retired at 2025-01-15 00:00 UTC"):
        retire_service(service, SERVICE, WHY)

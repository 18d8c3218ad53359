"""Pages of rollouts and A/B tests join to the whole list, each test with its newest look."""

from __future__ import annotations

from datetime import timedelta

from mlops.store import Phase, Store, list_rollouts
from mlops.store.ab_tests import write_look
from mlops.store.pages import Page
from mlops.store.rollout_pages import list_rollout_page, list_test_page
from mlops.store.schema import rollout
from tests.mlops.rollout.rows import HOUR, NOW, SERVICE, ask, ask_test, begin_service, make_look


def test_pages_of_rollouts_join(store: Store) -> None:
    begin_service(store)
    for _ in range(3):
        ask(store)
        with store.write() as connection:
            connection.execute(rollout.update().values(phase=Phase.FAILED))
    first = list_rollout_page(store, limit=2)
    second = list_rollout_page(store, limit=2, after=first.next)
    assert second.next is None
    assert {row.id for row in first.rows + second.rows} == {row.id for row in list_rollouts(store)}
    times = [row.requested_at for row in first.rows + second.rows]
    assert times == sorted(times, reverse=True)
    assert list_rollout_page(store, service="another", limit=2) == Page((), None)


def test_a_test_comes_with_its_newest_look(store: Store) -> None:
    begin_service(store)
    test = ask_test(store, now=NOW)
    assert list_test_page(store, limit=1).rows == ((test, None),)
    looks = [make_look(test, NOW + number * HOUR, at=NOW) for number in (1, 2)]
    with store.write() as connection:
        for look in looks:
            assert write_look(connection, look)
    ((listed, newest),) = list_test_page(store, service=SERVICE, limit=1).rows
    assert listed == test
    assert newest is not None
    assert newest.bar == NOW + timedelta(hours=2)

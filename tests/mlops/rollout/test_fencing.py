"""A controller that wakes up late, races another or dies midway changes nothing it may not."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from mlops.errors import LeaseLost, StoreError
from mlops.rollout import controller as controlling
from mlops.rollout.controller import Controller
from mlops.rollout.plan import Strategy, plan_for
from mlops.rollout.wishes import insert_wish
from mlops.store import Phase, Store, Why, get_rollout, get_version, list_events, open_store
from mlops.store.rollouts import request_abort
from mlops.store.schema import lease
from mlops.store.sql import db_now
from tests.forked import in_child

from .books import check_books, kept, read_books
from .rows import CHALLENGER, NOW, Clock, RowReplica, ask, carry, count, count_champion, route_of


def end_lease(store: Store) -> None:
    """Let the time of whoever holds the role run out."""
    with store.write() as connection:
        connection.execute(lease.update().values(until=db_now() - 1))


class Pausing:
    """A store whose ``number``-th write of all waits until something has happened."""

    def __init__(self, store: Store, number: int, meanwhile: Callable[[], object]) -> None:
        self.store, self.number, self.meanwhile = store, number, meanwhile
        self.writes = 0

    def read(self) -> Any:
        return self.store.read()

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        self.writes += 1
        if self.writes == self.number:
            self.meanwhile()
        with self.store.write() as connection:
            yield connection


HOUSEKEEPING, ARROW = 2, 3
"""The writes of a tick, after the lease itself."""


@pytest.mark.parametrize("at", [HOUSEKEEPING, ARROW])
@pytest.mark.parametrize("other_acts", [True, False], ids=["who_acts", "who_only_holds"])
def test_a_controller_paused_past_its_lease_writes_nothing(
    service: Store, replica: RowReplica, at: int, other_acts: bool
) -> None:
    asked = ask(service)
    seen: dict[str, Any] = {}

    def another_takes_over() -> None:
        end_lease(service)
        other = Controller(service, "two")
        if other_acts:
            other.tick()
        else:
            controlling.acquire_lease(service, controlling.LEASE, "two", seconds=60)
        seen.update(read_books(service))

    late = Controller(Pausing(service, at, another_takes_over), "one")  # type: ignore[arg-type]
    with pytest.raises(LeaseLost):
        late.tick()
    assert read_books(service) == seen
    expected = Phase.LOADING if other_acts else Phase.PENDING
    assert get_rollout(service, asked.id).phase is expected
    check_books(service)


def test_a_paused_fallback_writes_nothing(service: Store, replica: RowReplica) -> None:
    count_champion(service, trials=1000, faults=200)
    before = kept(read_books(service))

    def another_takes_over() -> None:
        end_lease(service)
        controlling.acquire_lease(service, controlling.LEASE, "two", seconds=60)

    late = Controller(Pausing(service, ARROW, another_takes_over), "one")  # type: ignore[arg-type]
    with pytest.raises(LeaseLost):
        late.tick()
    assert kept(read_books(service)) == before


def test_a_controller_whose_lease_ran_out_unseen_writes_nothing(
    service: Store, replica: RowReplica
) -> None:
    """Nobody took over; still it may not act on what it knew."""
    ask(service)
    before = kept(read_books(service))
    late = Controller(Pausing(service, ARROW, lambda: end_lease(service)), "one")  # type: ignore[arg-type]
    with pytest.raises(LeaseLost):
        late.tick()
    assert kept(read_books(service)) == before
    assert [moved.reason for moved in Controller(service, "one").tick()] == [
        "loading beside the champion"
    ]


def test_an_arrow_decided_on_an_older_route_is_refused(service: Store, replica: RowReplica) -> None:
    """The lease is held, but the rows have moved: as when a person rolls back in between."""
    asked = ask(service)

    def moved_on() -> None:
        with service.write() as connection:
            route = route_of(service)
            controlling.change_route(
                connection, route, route, "touch", controlling.audit.Why(asked.since)
            )

    late = Controller(Pausing(service, ARROW, moved_on), "one")  # type: ignore[arg-type]
    with pytest.raises(StoreError, match="no longer at generation"):
        late.tick()
    assert get_rollout(service, asked.id).phase is Phase.PENDING
    check_books(service)


def test_an_abort_between_look_and_write_is_heeded(service: Store, replica: RowReplica) -> None:
    asked = ask(service)
    carry(Controller(service, "one"), [replica])
    count(service, asked)

    def somebody_aborts() -> None:
        request_abort(service, asked.id, Why(asked.since, actor="anna"))

    late = Controller(Pausing(service, ARROW, somebody_aborts), "one")  # type: ignore[arg-type]
    with pytest.raises(StoreError, match="has moved"):
        late.tick()
    assert [moved.what for moved in Controller(service, "one").tick()] == [f"{asked.id} rollback"]


@pytest.mark.parametrize(
    "url", [pytest.param("sqlite", marks=pytest.mark.slow), "postgres"], indirect=True
)
def test_two_controllers_racing_take_each_arrow_once(
    url: str, service: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(controlling, "LEASE_S", 0.05)
    plan = plan_for("canary", dwell_s=0.0, bake_s=0.0)
    asked = ask(service, plan)
    count(service, asked)
    stop = threading.Event()
    failures: list[BaseException] = []

    def compete(name: str) -> None:
        with closing(open_store(url)) as store:
            one = Controller(store, name)
            while not stop.is_set():
                try:
                    one.tick()
                except StoreError:
                    continue  # the other one was faster
                except BaseException as error:
                    failures.append(error)
                    return

    threads = [threading.Thread(target=compete, args=(name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    replica = RowReplica(service)
    try:
        for _ in range(2000):
            replica.follow()
            if get_rollout(service, asked.id).phase.final:
                break
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures
    assert get_rollout(service, asked.id).phase is Phase.DONE
    assert [event.to_phase for event in list_events(service, asked.id)] == [
        Phase.PENDING,
        Phase.LOADING,
        Phase.GATE,
        *[Phase.STEP] * 4,
        Phase.PROMOTED,
        Phase.DONE,
    ]
    check_books(service)


# Killed midway ------------------------------------------------------------------------------


def killed_at(url: str, statement: int, clock: Clock) -> bool:
    """Tick in a process that is killed before a statement; whether it got that far."""

    def tick() -> None:
        store = open_store(url)
        count = 0

        @sa.event.listens_for(store.engine, "before_cursor_execute")
        def die(*_: object) -> None:
            nonlocal count
            count += 1
            if count == statement:
                os.kill(os.getpid(), signal.SIGKILL)

        Controller(store, "doomed", now=clock).tick()

    return in_child(tick) == signal.SIGKILL


@pytest.mark.parametrize(
    "url", ["sqlite", pytest.param("postgres", marks=pytest.mark.slow)], indirect=True
)
@pytest.mark.parametrize(
    "moment",
    [
        "promotion",
        *(pytest.param(m, marks=pytest.mark.slow) for m in ("wish", "loading", "fallback")),
    ],
)
def test_a_controller_killed_at_any_statement_leaves_nothing_half(
    url: str, service: Store, replica: RowReplica, moment: str
) -> None:
    clock = Clock()
    if moment == "fallback":
        count_champion(service, trials=1000, faults=200)
    elif moment == "wish":
        with service.write() as connection:
            new = get_version(service, CHALLENGER)
            insert_wish(connection, new, plan=plan_for("canary"), why=Why(NOW, actor="train"))
    else:
        asked = ask(service, Strategy.BLUE_GREEN, now=clock())
    if moment == "promotion":
        count(service, asked)
        carry(Controller(service, "before", now=clock), [replica])
        clock.at += timedelta(minutes=2)
    before = kept(read_books(service))
    points = 0
    while killed_at(url, points + 1, clock):
        points += 1
        end_lease(service)
        after = kept(check_books(service))
        if after != before:
            break
        assert points < 100
    else:
        after = kept(check_books(service))
    # Some statements follow the commit: whoever dies there has done all of it.
    assert points >= 10
    assert after != before
    route = route_of(service)
    expected = {
        "wish": ("champion", None),
        "loading": ("champion", CHALLENGER),
        "promotion": (CHALLENGER, None),
        "fallback": ("baseline", None),
    }
    assert (route.champion, route.challenger) == expected[moment]
    print(f"\n{moment}: killed at {points} statements", end="")


def test_what_a_killed_controller_left_is_carried_on(
    url: str, service: Store, replica: RowReplica
) -> None:
    clock = Clock()
    asked = ask(service, Strategy.BLUE_GREEN, now=clock())
    count(service, asked)
    for statement in range(3, 40, 4):
        killed_at(url, statement, clock)
        end_lease(service)
        replica.follow()
        clock.at += timedelta(minutes=1)
        check_books(service)
        if get_rollout(service, asked.id).phase.final:
            break
    for _ in range(4):
        carry(Controller(service, "next", now=clock), [replica])
        clock.at += timedelta(minutes=5)
    row = get_rollout(service, asked.id)
    assert row.phase.final
    check_books(service)

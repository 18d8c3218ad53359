"""A replica says what it has seen and holds, and counts for as long as it goes on saying so."""

from __future__ import annotations

from dataclasses import replace

import sqlalchemy as sa

from mlops.store import Replica, Store, list_replicas
from mlops.store.replicas import (
    HeldModel,
    ReplicaState,
    acknowledge,
    forget_dead,
    heartbeat,
    remove_replica,
)
from mlops.store.schema import replica, replica_model, replica_route
from mlops.store.sql import db_now

READY = HeldModel("a", "ready", digest="d" * 64, bytes=10, load_ms=1.5, inflight=2)
FAILED = HeldModel("b", "failed", error="no such file")
SAID = Replica(
    id="r0",
    incarnation="first",
    address="127.0.0.1:8005",
    state=ReplicaState.READY,
    build="1.0",
    memory_free=2**40,
    generations={"s": 3, "t": 1},
    models={"a": READY, "b": FAILED},
)


def cut_off(store: Store, name: str, *, seconds: float = 1.0) -> None:
    with store.write() as connection:
        until = db_now() - seconds
        connection.execute(replica.update().where(replica.c.id == name).values(lease_until=until))


def test_what_is_said_is_what_is_read(store: Store) -> None:
    acknowledge(store, SAID, seconds=60)
    assert list_replicas(store) == (SAID,)


def test_the_newest_word_replaces_all_before(store: Store) -> None:
    acknowledge(store, SAID, seconds=60)
    newer = replace(
        SAID, incarnation="second", generations={"s": 4}, models={"c": HeldModel("c", "loading")}
    )
    acknowledge(store, newer, seconds=60)
    assert list_replicas(store) == (newer,)


def test_an_unchanged_word_may_be_said_again(store: Store) -> None:
    acknowledge(store, SAID, seconds=60)
    acknowledge(store, SAID, seconds=60)
    assert list_replicas(store) == (SAID,)


def test_a_model_is_held_when_it_is_ready_and_lost_when_it_failed(store: Store) -> None:
    acknowledge(store, SAID, seconds=60)
    (found,) = list_replicas(store)
    assert (found.holds("a"), found.holds("b"), found.holds("c")) == (True, False, False)
    assert (found.failed_to_load("a"), found.failed_to_load("b"), found.failed_to_load("c")) == (
        False,
        True,
        False,
    )


def test_who_says_nothing_for_too_long_does_not_count(store: Store) -> None:
    acknowledge(store, SAID, seconds=60)
    cut_off(store, "r0")
    assert list_replicas(store) == ()


def test_a_heartbeat_keeps_alive_and_changes_nothing_else(store: Store) -> None:
    acknowledge(store, SAID, seconds=60)
    cut_off(store, "r0")
    assert heartbeat(store, "r0", seconds=60)
    assert list_replicas(store) == (SAID,)


def test_a_heartbeat_of_nobody_known_says_so(store: Store) -> None:
    assert not heartbeat(store, "r0", seconds=60)
    assert list_replicas(store) == ()


def test_who_leaves_is_gone_with_all_it_said(store: Store) -> None:
    acknowledge(store, SAID, seconds=60)
    acknowledge(store, replace(SAID, id="r1"), seconds=60)
    remove_replica(store, "r0")
    assert [one.id for one in list_replicas(store)] == ["r1"]
    with store.read() as connection:
        for table in (replica_route, replica_model):
            ids = set(connection.execute(sa.select(table.c.replica_id)).scalars())
            assert ids == {"r1"}


def test_replicas_are_listed_by_name_with_their_own_words(store: Store) -> None:
    other = replace(SAID, id="a", generations={"s": 9}, models={})
    acknowledge(store, SAID, seconds=60)
    acknowledge(store, other, seconds=60)
    assert list_replicas(store) == (other, SAID)


def test_only_who_died_long_ago_is_forgotten(store: Store) -> None:
    for name in ("alive", "late", "dead"):
        acknowledge(store, replace(SAID, id=name), seconds=60)
    cut_off(store, "late", seconds=10)
    cut_off(store, "dead", seconds=100)
    with store.write() as connection:
        assert forget_dead(connection, after=50) == 1
        assert forget_dead(connection, after=50) == 0
        left = set(connection.execute(sa.select(replica.c.id)).scalars())
    assert left == {"alive", "late"}

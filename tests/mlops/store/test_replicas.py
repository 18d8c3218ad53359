"""A replica says what it has seen and holds, and counts for as long as it goes on saying so."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from mlops.errors import ReplicaNameTaken
from mlops.store import Replica, Store, list_replicas
from mlops.store.replicas import (
    HeldModel,
    LoadCause,
    ReplicaState,
    acknowledge,
    find_namesake,
    forget_dead,
    heartbeat,
    remove_replica,
)
from mlops.store.schema import replica, replica_model, replica_route
from mlops.store.sql import db_now

READY = HeldModel("a", "ready", digest="d" * 64, bytes=10, load_ms=1.5, inflight=2)
FAILED = HeldModel("b", "failed", error="no such file", cause=LoadCause.REPLICA)
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
    newer = replace(SAID, generations={"s": 4}, models={"c": HeldModel("c", "loading")})
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
    assert found.failed_to_load("b", LoadCause.REPLICA)
    assert not found.failed_to_load("b", LoadCause.VERSION)


def test_who_says_nothing_for_too_long_does_not_count(store: Store) -> None:
    acknowledge(store, SAID, seconds=60)
    cut_off(store, "r0")
    assert list_replicas(store) == ()


def test_a_heartbeat_keeps_alive_and_changes_nothing_else(store: Store) -> None:
    acknowledge(store, SAID, seconds=60)
    cut_off(store, "r0")
    assert heartbeat(store, "r0", "first", seconds=60)
    assert list_replicas(store) == (SAID,)


def test_a_heartbeat_of_nobody_known_says_so(store: Store) -> None:
    assert not heartbeat(store, "r0", "first", seconds=60)
    assert list_replicas(store) == ()


def test_who_leaves_is_gone_with_all_it_said(store: Store) -> None:
    acknowledge(store, SAID, seconds=60)
    acknowledge(store, replace(SAID, id="r1"), seconds=60)
    remove_replica(store, "r0", "first")
    assert [one.id for one in list_replicas(store)] == ["r1"]
    with store.read() as connection:
        for table in (replica_route, replica_model):
            ids = set(connection.execute(sa.select(table.c.replica_id)).scalars())
            assert ids == {"r1"}


# Two processes of one name -----------------------------------------------------------------------

SECOND = replace(SAID, incarnation="second", address="127.0.0.1:9", generations={}, models={})


def test_a_second_living_process_of_a_name_is_refused_and_changes_nothing(store: Store) -> None:
    acknowledge(store, SAID, seconds=60)
    words = r"another process serves as replica 'r0' \(at 127.0.0.1:8005\).*--name"
    with pytest.raises(ReplicaNameTaken, match=words):
        acknowledge(store, SECOND, seconds=60)
    assert not heartbeat(store, "r0", "second", seconds=60)
    remove_replica(store, "r0", "second")
    assert list_replicas(store) == (SAID,)
    namesake = find_namesake(store, "r0", "second")
    assert namesake is not None
    assert namesake.address == SAID.address
    assert find_namesake(store, "r0", "first") is None


def test_a_restarted_replica_replaces_its_last_life_and_starts_anew(store: Store) -> None:
    acknowledge(store, SAID, seconds=60)
    with store.write() as connection:
        past = datetime(2024, 1, 1, tzinfo=UTC)
        connection.execute(replica.update().values(started_at=past))
    acknowledge(store, SAID, seconds=60)
    assert list_replicas(store)[0].started_at == past
    cut_off(store, "r0")
    acknowledge(store, SECOND, seconds=60)
    (found,) = list_replicas(store)
    assert found == SECOND
    assert found.started_at is not None
    assert found.started_at > past + timedelta(days=300)


def test_a_lease_from_before_the_clock_was_set_back_does_not_count(store: Store) -> None:
    acknowledge(store, SAID, seconds=60)
    cut_off(store, "r0", seconds=-3660)
    assert list_replicas(store) == ()
    acknowledge(store, SECOND, seconds=60)
    assert list_replicas(store) == (SECOND,)


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

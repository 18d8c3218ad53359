"""Running totals: writing one twice counts nothing twice."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mlops.store import Store
from mlops.store.request_counts import Source, Tally, forget_tallies, read_tallies, record_tallies
from mlops.store.schema import evidence
from mlops.store.sql import db_now

ONE = Tally(
    scope="rollout-1",
    step=0,
    source=Source.LIVE,
    replica_id="r0",
    incarnation="first",
    weight_bp=1000,
    champion_trials=90,
    champion_faults=1,
    challenger_trials=10,
    challenger_faults=2,
    detail={"challenger": {"timeout": 2}},
)


def read(store: Store, scope: str = "rollout-1", **options: float) -> tuple[Tally, ...]:
    with store.read() as connection:
        return read_tallies(connection, "s", scope, **options)


def test_what_is_counted_is_what_is_read(store: Store) -> None:
    record_tallies(store, {"s": [ONE]})
    assert read(store) == (ONE,)


def test_a_later_total_replaces_the_earlier_one(store: Store) -> None:
    more = replace(ONE, champion_trials=95, challenger_faults=3, detail={})
    record_tallies(store, {"s": [ONE]})
    record_tallies(store, {"s": [more]})
    record_tallies(store, {"s": [more]})
    assert read(store) == (more,)


@pytest.mark.parametrize(
    "other",
    [
        {"step": 1},
        {"source": Source.MIRROR},
        {"source": Source.REPLAY},
        {"replica_id": "r1"},
        {"incarnation": "second"},
    ],
)
def test_other_steps_sources_and_lives_are_counted_apart(
    store: Store, other: dict[str, object]
) -> None:
    second = replace(ONE, **other)  # type: ignore[arg-type]
    record_tallies(store, {"s": [ONE, second]})
    assert set(map(repr, read(store))) == {repr(ONE), repr(second)}


def test_services_and_scopes_are_read_apart(store: Store) -> None:
    other = replace(ONE, scope="champion:a")
    record_tallies(store, {"s": [ONE, other], "t": [replace(ONE, champion_trials=1)]})
    assert read(store) == (ONE,)
    assert read(store, "champion:a") == (other,)


def test_nothing_counted_is_nothing_written(store: Store) -> None:
    record_tallies(store, {})
    record_tallies(store, {"s": []})
    assert read(store) == ()


def age(store: Store, seconds: float) -> None:
    with store.write() as connection:
        connection.execute(evidence.update().values(updated_at=db_now() - seconds))


def test_only_what_was_written_lately_can_be_asked_for(store: Store) -> None:
    record_tallies(store, {"s": [ONE]})
    age(store, 100)
    assert read(store, newer_than_s=90) == ()
    assert read(store, newer_than_s=110) == (ONE,)
    record_tallies(store, {"s": [ONE]})
    assert read(store, newer_than_s=90) == (ONE,)


def test_old_totals_are_forgotten(store: Store) -> None:
    record_tallies(store, {"s": [ONE]})
    age(store, 100)
    record_tallies(store, {"s": [replace(ONE, step=1)]})
    with store.write() as connection:
        forget_tallies(connection, after=50)
    assert [one.step for one in read(store)] == [1]

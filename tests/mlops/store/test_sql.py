"""Inserting what may be there already means the same on both databases."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from mlops.store import Store
from mlops.store.schema import audit, lease
from mlops.store.sql import insert_new, upsert

from .conftest import NOW


def held(name: str, term: int = 1) -> dict[str, Any]:
    return {"name": name, "holder": "a", "term": term, "until": 0.0}


def terms(store: Store) -> dict[str, int]:
    with store.read() as connection:
        rows = connection.execute(sa.select(lease.c.name, lease.c.term))
        return {row.name: row.term for row in rows}


def test_only_new_rows_are_counted_and_old_ones_stay(store: Store) -> None:
    with store.write() as connection:
        assert insert_new(connection, lease, [held("x")]) == 1
        assert insert_new(connection, lease, [held("x", term=2), held("y")]) == 1
    assert terms(store) == {"x": 1, "y": 1}


def test_rows_that_get_their_key_from_the_database_are_counted_too(store: Store) -> None:
    row = dict.fromkeys(("actor", "action", "service", "subject", "reason"), "a") | {"at": NOW}
    with store.write() as connection:
        assert insert_new(connection, audit, [row, row]) == 2


def test_an_upsert_overwrites_what_has_the_same_key(store: Store) -> None:
    with store.write() as connection:
        upsert(connection, lease, [held("x"), held("y")])
        upsert(connection, lease, [held("x", term=2)])
        upsert(connection, lease, [])
    assert terms(store) == {"x": 2, "y": 1}

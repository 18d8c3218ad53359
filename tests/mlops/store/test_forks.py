"""A forked process opens SQLite connections of its own."""

from __future__ import annotations

import gc
import sqlite3

import pytest
import sqlalchemy as sa

from mlops.store import Store
from tests.forked import in_child

pytestmark = pytest.mark.parametrize("url", ["sqlite"], indirect=True)


def connection_id(store: Store) -> int:
    """The identity of the driver's connection that the pool hands out."""
    with store.read() as connection:
        connection.execute(sa.text("SELECT 1"))
        return id(connection.connection.dbapi_connection)


def open_connection_ids() -> set[int]:
    # Not isinstance: it asks an object for its class, and one of torch's warns then.
    return {id(found) for found in gc.get_objects() if issubclass(type(found), sqlite3.Connection)}


def test_a_forked_process_does_not_use_its_parents_sqlite_connection(store: Store) -> None:
    def use_store() -> None:
        assert connection_id(store) != parents

    parents = connection_id(store)
    assert in_child(use_store) == 0
    assert connection_id(store) == parents


def test_a_forked_process_does_not_close_its_parents_sqlite_connection(store: Store) -> None:
    def collect_garbage() -> None:
        gc.collect()
        assert parents in open_connection_ids()

    parents = connection_id(store)
    assert in_child(collect_garbage) == 0

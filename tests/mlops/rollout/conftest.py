"""Every test that uses the store runs on SQLite and on Postgres."""

from __future__ import annotations

import pytest

from mlops.store import Store
from tests.clocks import clock
from tests.stores import empty_url, store, url

from .rows import RowReplica, begin_service

__all__ = ["clock", "empty_url", "service", "store", "url"]


@pytest.fixture
def service(store: Store) -> Store:
    """A store with a service on its champion, and a challenger that passed its gates."""
    begin_service(store)
    return store


@pytest.fixture
def replica(service: Store) -> RowReplica:
    """A replica that has caught up."""
    one = RowReplica(service)
    one.follow()
    return one

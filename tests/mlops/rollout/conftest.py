"""Every test that uses the store runs on SQLite and on Postgres."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from mlops.store import Store, open_store
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


@pytest.fixture
def light(sqlite_template: Path, tmp_path: Path) -> Iterator[Store]:
    """The service on SQLite alone: what is decided has nothing to do with the database."""
    with closing(open_store(f"sqlite:///{shutil.copy(sqlite_template, tmp_path)}")) as store:
        begin_service(store)
        yield store

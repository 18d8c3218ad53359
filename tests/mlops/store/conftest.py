"""Every test of the store runs on SQLite and on Postgres."""

from collections.abc import Iterator

import pytest

from tests.clocks import DatabaseClock, database_clock
from tests.stores import NOW, SERVICE, add, began, empty_url, store, url

__all__ = ["NOW", "SERVICE", "add", "began", "empty_url", "store", "url"]


@pytest.fixture
def clock() -> Iterator[DatabaseClock]:
    """The database's clock, for a test that sets it."""
    with database_clock() as setting:
        yield setting

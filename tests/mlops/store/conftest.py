"""Every test of the store runs on SQLite and on Postgres."""

from tests.clocks import clock
from tests.stores import NOW, SERVICE, add, began, empty_url, store, url

__all__ = ["NOW", "SERVICE", "add", "began", "clock", "empty_url", "store", "url"]

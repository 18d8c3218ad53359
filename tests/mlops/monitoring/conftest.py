"""Stores on both databases for what watches the versions."""

from tests.stores import NOW, SERVICE, add, began, empty_url, store, url

__all__ = ["NOW", "SERVICE", "add", "began", "empty_url", "store", "url"]

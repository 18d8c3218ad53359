"""Stores on both databases, and a service with a champion and a challenger."""

from tests.mlops.rollout.conftest import replica, service
from tests.stores import NOW, SERVICE, add, began, empty_url, store, url

__all__ = ["NOW", "SERVICE", "add", "began", "empty_url", "replica", "service", "store", "url"]

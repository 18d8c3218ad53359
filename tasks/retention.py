"""Removes what is older than its retention."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from mlops.installation import Installation
from mlops.retention import Retention, remove_old


@task(cache_policy=NO_CACHE)
def remove_old_records(installation: Installation) -> tuple[str, ...]:
    """Remove a limited number of old rows, bundles and files; one line for each kind."""
    days = Retention.of(installation.settings)
    return remove_old(installation.store, installation.home, lambda: installation.registry, days)

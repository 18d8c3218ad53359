"""The step of looking whether the system is in trouble, for when no replica is left to look."""

from __future__ import annotations

import os
import socket

from prefect import task
from prefect.cache_policies import NO_CACHE

from mlops.data.recent_bars import RecentBars
from mlops.manager import MLOpsManager
from mlops.monitoring.guard import Guard
from mlops.monitoring.system_health import Finding, limits_of
from mlops.settings import current_settings


def open_guard() -> Guard:
    """The guard of this installation, looking from this process."""
    settings = current_settings()
    return Guard(
        MLOpsManager(settings).store,
        f"monitor@{socket.gethostname()}:{os.getpid()}",
        newest_bar=RecentBars(settings.bars_path).newest,
        limits=limits_of(settings),
        keep_days=settings.forecast_log_days,
    )


@task(cache_policy=NO_CACHE)
def look_for_trouble() -> tuple[Finding, ...]:
    """Look in the place of the replicas, where none of them does it any more."""
    return open_guard().look_in_passing()

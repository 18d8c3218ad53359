"""Removes what is older than its retention: rows of the store, bundles, studies, pages, caches.

    drift checks, alerts, operations  rows of the store, and bars of files that no service uses
    bundles, runs of refused versions MLflow
    studies, drift reports, caches    files of this machine

Request counts and request logs have a retention of their own (FORECAST_LOG_DAYS), and so have the
rows of dead replicas and old evidence. One call removes a limited number of each kind; the next
one goes on.
"""

from __future__ import annotations

import logging
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from filelock import FileLock, Timeout

from mlops.registry.connection import Registry
from mlops.registry.retention import remove_old_bundles
from mlops.settings import Settings
from mlops.store import Store
from mlops.store.markets import delete_unused_bars
from mlops.store.retention import (
    delete_ended_alerts,
    delete_old_checks,
    delete_old_operations,
    find_digests_in_use,
)

log = logging.getLogger(__name__)

MOST_ROWS = 5000
MOST_ITEMS = 50
"""Most rows, and most alerts, bundles and files, that one call removes of a kind."""

OPERATION_DAYS = 30.0
"""Days in which the result of a request that was answered later may be asked for."""

DAY_S = 86_400.0
DIGEST = re.compile(r"[0-9a-f]{64}")
_CACHES = ("bundles", "references", "features")
_DRIFT_PAGE = re.compile(r".+-\d{8}T\d{4}\.html")


@dataclass(frozen=True, slots=True)
class Retention:
    """How many days each kind is kept; the settings of the same names tell more."""

    monitor_run_days: float
    alert_days: float
    bundle_days: float
    study_days: float
    drift_report_days: float
    cache_days: float

    @classmethod
    def of(cls, settings: Settings) -> Retention:
        """The retention that the settings ask for."""
        return cls(**{name: getattr(settings, name) for name in cls.__slots__})


def remove_old(
    store: Store, home: Path, registry: Callable[[], Registry], days: Retention
) -> tuple[str, ...]:
    """Remove what is older than its retention; returns a line for each kind of which some was.

    Args:
        store: The store.
        home: The base path.
        registry: Opens the registry; called last, because it fails where MLflow is away.
        days: The retention of each kind.

    Raises:
        StoreError: when the store is away.
        RegistryError: when MLflow is.
    """
    removed = {
        "drift check(s)": delete_old_checks(store, days=days.monitor_run_days, limit=MOST_ROWS),
        "unused file(s) of bars": delete_unused_bars(
            store, before=datetime.now(UTC) - timedelta(days=days.cache_days)
        ),
        "ended alert(s)": delete_ended_alerts(store, days=days.alert_days, limit=MOST_ITEMS),
        "operation(s)": delete_old_operations(store, days=OPERATION_DAYS, limit=MOST_ROWS),
        "study folder(s)": remove_studies(home / "studies", days=days.study_days),
        "drift page(s)": remove_drift_pages(home / "reports", days=days.drift_report_days),
        "cached file(s)": remove_cached(home, find_digests_in_use(store), days=days.cache_days),
        "lock file(s)": remove_lock_files(home / "spool"),
        "bundle(s)": remove_old_bundles(registry(), days=days.bundle_days, limit=MOST_ITEMS),
    }
    lines = tuple(f"removed {count} old {kind}" for kind, count in removed.items() if count)
    for line in lines:
        log.info("%s", line)
    return lines


def remove_studies(folder: Path, *, days: float) -> int:
    """Remove the folders of searches in which nothing was written for ``days``.

    The ledger goes on counting their trials. A folder that a training has locked is left alone.
    """

    def remove(study: Path) -> bool:
        lock = FileLock(study / "study.lock", timeout=0)
        try:
            with lock:
                shutil.rmtree(study)
        except Timeout:
            return False
        return True

    def is_old(study: Path) -> bool:
        return all(_is_older(path, days) for path in study.iterdir())

    return _remove_each(filter(is_old, folder.glob("*/*/")), remove)


def remove_drift_pages(folder: Path, *, days: float) -> int:
    """Remove pages of drift reports; model cards stay."""
    pages = (path for path in folder.glob("*.html") if _DRIFT_PAGE.fullmatch(path.name))
    return _remove_each((page for page in pages if _is_older(page, days)), _remove_path)


def remove_cached(home: Path, used: Iterable[str], *, days: float) -> int:
    """Remove cached bundles, references and features; a cache is filled again where it is needed.

    Args:
        home: The base path.
        used: Digests of bundles that are in use: what a file name begins with is kept.
        days: Days that a file is kept after it was written.
    """
    kept = set(used)

    def is_old(path: Path) -> bool:
        digest = DIGEST.match(path.name)
        return not (digest and digest[0] in kept) and _is_older(path, days)

    files = (path for cache in _CACHES for path in (home / cache).glob("*"))
    return _remove_each(filter(is_old, files), _remove_path)


def remove_lock_files(folder: Path) -> int:
    """Remove the locks of replicas that died and left no forecast in the spool."""

    def remove(path: Path) -> bool:
        try:
            with FileLock(path, timeout=0):
                path.unlink()
        except Timeout:
            return False
        return True

    idle = (path for path in folder.glob("*.lock") if not path.with_suffix(".jsonl").exists())
    # A lock of a day is not one that a replica is about to take.
    return _remove_each((path for path in idle if _is_older(path, 1.0)), remove)


def _remove_each(paths: Iterator[Path], remove: Callable[[Path], bool]) -> int:
    """Remove at most `MOST_ITEMS` paths; returns how many."""
    removed = 0
    for path in paths:
        try:
            removed += remove(path)
        except OSError as error:
            log.warning("%s is old and was not removed: %s", path, error)
        if removed >= MOST_ITEMS:
            break
    return removed


def _remove_path(path: Path) -> bool:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    return True


def _is_older(path: Path, days: float) -> bool:
    """Whether nothing was written to the path for ``days``; False where it is gone."""
    try:
        return time.time() - path.stat().st_mtime > days * DAY_S
    except FileNotFoundError:
        return False

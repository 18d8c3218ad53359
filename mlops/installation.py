"""Opens what the settings name: store, signing key, MLflow, deployer, monitor, guard, alerts.

One `Installation` for each process and each set of settings, so that the steps of a flow run share
one connection pool:

    installation = open_installation(current_settings())
    installation.registry

A forked child opens its own; objects that it inherited go on working, because `mlops.store` drops
their connections in the child.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from mlops.ab_testing.lifecycle import AbTesting
from mlops.alerts.delivery import AlertSender, Channel
from mlops.data.market_clock import Clock, market_clock
from mlops.data.quality import NewestBar
from mlops.data.recent_bars import HELD_BARS, RecentBars
from mlops.deployer import Deployer
from mlops.errors import StoreError
from mlops.features.dataset import Dataset
from mlops.models.bundle import Trust
from mlops.monitoring.guard import Guard
from mlops.monitoring.monitor import Monitor, MonitorConfig
from mlops.monitoring.system_health import read_limits
from mlops.registry import (
    BundleFolders,
    Registry,
    bundle_folders,
    connect,
    load_version,
    open_trust,
)
from mlops.registry.markets import MarketBook
from mlops.registry.tracking import point_mlflow_to
from mlops.service import Service
from mlops.settings import Settings
from mlops.store import Store, open_store
from mlops.store.engine import PATIENCE_S

if TYPE_CHECKING:
    from mlops.serving.runtime import HeadlessReplica

MOST_OPEN = 8
"""Installations that a process remembers; tests and notebooks change their settings."""

_Key = tuple[int, str, float, Settings]
_opened: dict[_Key, Installation] = {}
_lock = threading.Lock()


class Installation:
    """What one set of settings names; get one from `open_installation`.

    Store, signing key and MLflow are opened on first use.
    """

    def __init__(self, settings: Settings, *, patience_s: float = PATIENCE_S) -> None:
        self.settings = settings
        self.patience_s = patience_s

    @property
    def home(self) -> Path:
        """The base path, absolute."""
        return self.settings.mlops_base_path.resolve()

    @cached_property
    def store(self) -> Store:
        """The open store, migrated.

        Raises:
            StoreError: when the database cannot be used.
        """
        self.settings.mlops_base_path.mkdir(parents=True, exist_ok=True)
        return open_store(self.settings.database_url, patience_s=self.patience_s)

    @cached_property
    def trust(self) -> Trust:
        """The signing key and the modules whose classes may be loaded.

        Raises:
            KeyMismatch: when the store knows another signing key.
        """
        return open_trust(
            self.store,
            self.home,
            self.bundles,
            self.settings.custom_model_modules,
            allow_signed_pickle=self.settings.allow_signed_pickle,
        )

    @property
    def registry(self) -> Registry:
        """The open registry; the process's MLflow points at it.

        Raises:
            RegistryError: when MLflow cannot be reached.
        """
        registry = self._registry
        # MLflow has one address for the whole process, and another installation may have set it.
        point_mlflow_to(registry.tracking.location)
        return registry

    @cached_property
    def _registry(self) -> Registry:
        tracking = connect(self.settings.tracking_uri, self.settings.mlflow_experiment_name)
        return Registry(self.store, tracking, self.home, self.trust, self.bundles)

    @cached_property
    def bundles(self) -> BundleFolders:
        """Where this machine has the bundles of versions, or puts them."""
        return bundle_folders(self.home, self.settings.tracking_uri)

    @cached_property
    def deployer(self) -> Deployer:
        """Takes versions live; connects to MLflow only where it must."""
        return Deployer(self.settings, self.store, self.trust, lambda: self.registry)

    @property
    def monitor_config(self) -> MonitorConfig:
        """Thresholds, windows and fees of monitoring."""
        settings = self.settings
        return MonitorConfig(
            drift_threshold=settings.drift_threshold,
            decision_window_hours=settings.decision_window_hours,
            performance_threshold=settings.performance_threshold,
            fee_for=settings.fee_for,
            reference_folder=settings.mlops_base_path / "references",
        )

    def open_monitor(self, bars_of: Callable[[Service], Dataset | None]) -> Monitor:
        """A monitor of every service; ``bars_of`` gives its bars, None where there are none."""
        return Monitor(
            self.store,
            open_bundle=lambda version: load_version(version, self.trust, self.bundles),
            bars_of=bars_of,
            config=self.monitor_config,
        )

    def open_recent_bars(
        self, clock: Clock = market_clock, *, held_bars: int | None = HELD_BARS
    ) -> RecentBars:
        """The bars of every service that are known by a clock; see `RecentBars`."""
        book = MarketBook(self.store)
        return RecentBars(self.settings.bars_path, book, clock, held_bars=held_bars)

    def open_ab_testing(
        self, clock: Clock = market_clock, *, held_bars: int | None = HELD_BARS
    ) -> AbTesting:
        """Begins, looks at and ends A/B tests by a clock; see `RecentBars` for ``held_bars``."""
        return AbTesting(
            self.settings,
            self.store,
            self.open_recent_bars(clock, held_bars=held_bars),
            lambda version: load_version(version, self.trust, self.bundles),
        )

    def open_rehearsal_replica(self, clock: Clock) -> AbstractContextManager[HeadlessReplica]:
        """A replica without HTTP that forecasts when it is told to, from all bars by a clock."""
        # Imported late, because a replica imports torch.
        from mlops.serving.runtime import Options, headless_replica

        return headless_replica(
            self.store,
            home=self.home,
            trust=self.trust,
            bundles=self.bundles,
            bars_root=self.settings.bars_path,
            options=Options(clock=clock, held_bars=None),
            on_demand=True,
        )

    def open_guard(
        self,
        holder: str,
        newest_bar: Callable[[Service], NewestBar | None],
    ) -> Guard:
        """A guard of errors, latency and stale bars, not started.

        Args:
            holder: Names this process in the guard's lease.
            newest_bar: Gives the newest bar of a service; None where no later bar is due.
        """
        return Guard(
            self.store,
            holder,
            newest_bar=newest_bar,
            limits=read_limits(self.settings),
            keep_days=self.settings.forecast_log_days,
        )

    def open_alert_sender(self, channels: Sequence[Channel] = ()) -> AlertSender:
        """A sender of alerts to these channels, not started."""
        limit = self.settings.alert_messages_per_hour
        return AlertSender(self.store, channels, messages_per_hour=limit)

    def close(self) -> None:
        """Close the store's connections; the next `open_installation` opens a new installation."""
        with _lock:
            for key in [key for key, installation in _opened.items() if installation is self]:
                del _opened[key]
        if "store" in vars(self):
            self.store.close()

    def is_usable(self) -> bool:
        """Whether the store's file, once opened, is still in its place."""
        file = self.store.file if "store" in vars(self) else None
        try:
            if file is not None:
                file.check()
        except StoreError:
            return False
        return True


def open_installation(settings: Settings, *, patience_s: float = PATIENCE_S) -> Installation:
    """The installation of these settings, the same object for each call of this process.

    Args:
        settings: Two equal settings name one installation; relative paths count from the working
            directory.
        patience_s: Seconds that a call waits for a lock of the store before it raises
            `StoreError`. Callers with different patience have different pools.
    """
    key = (os.getpid(), os.getcwd(), patience_s, settings)
    with _lock:
        installation = _opened.pop(key, None)
        if installation is None or not installation.is_usable():
            installation = Installation(settings, patience_s=patience_s)
        _opened[key] = installation
        while len(_opened) > MOST_OPEN:
            del _opened[next(iter(_opened))]
    return installation


# No other thread holds the lock at a fork, so the child does not inherit it taken.
os.register_at_fork(
    before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release
)
